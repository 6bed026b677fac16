// The tiles of a block's share of a row, in order, each warp's copied to shared memory while it works on those before:
// it never waits for memory that it could have asked for earlier. Between the warps of a block there is no barrier.
//
// Memory is fetched in whole aligned vectors however the row lies in it. From there a lane reads word by word, next to
// the words of its neighbours: one bank each, wherever the row begins, and always the same logits of a chunk.
#pragma once

#include "cut_space.h"
#include "source.h"

namespace dlm::cuda {

// Places for a warp's tiles: one is worked on, the others are on their way. 25 KiB per block, 125 per multiprocessor of
// an H200, which reads 34 in a microsecond.
constexpr int kStages = 3;
constexpr int kVectorBytes = 16, kWordBytes = 4;
constexpr int kCopyBytes = kWarp * kVectorBytes,
              kTurnBytes = kWarp * kWordBytes;  // of all lanes, a vector or word each
// Words of a lane in a stage, whatever the logits are: those of a tile, of one row or two. And a vector more of each,
// of rows that begin inside a vector.
constexpr int kStageWords = 16, kStageBytes = kStageWords * kTurnBytes + 2 * kVectorBytes;
constexpr size_t kFeedBytes = kWarps * kStages * kStageBytes;

// It lies in the launch's dynamic shared memory, behind what a row is cut with.
DLM_HD size_t feed_offset(bool filtered) { return filtered ? (sizeof(CutSpace) + 15) / 16 * 16 : 0; }

__device__ inline void* feed_space(bool filtered) {
  DLM_DYNAMIC_SHARED(unsigned char, space);
  return space + feed_offset(filtered);
}

// One of the rows that a source reads, in tiles of kWords words of a lane.
template <class T, int kWords>
class FeedRow {
 public:
  static constexpr int kLogits = kVectorBytes / sizeof(T), kCopy = kWarp * kLogits;
  static constexpr int kPerWord = kWordBytes / sizeof(T), kTurn = kWarp * kPerWord, kTile = kWords * kTurn;
  static constexpr int kBytes = kWords * kTurnBytes + kVectorBytes;  // of a tile

  __device__ FeedRow(const T* first, int vocab)
      : first_(first),
        lead_(static_cast<int>(reinterpret_cast<uintptr_t>(first) % kVectorBytes / sizeof(T))),
        vocab_(vocab),
        mine_(first - lead_ + threadIdx.x % kWarp * kLogits),
        reaches_over_(lead_ > 0 && threadIdx.x % kWarp == 0) {
    keep_address(&mine_);
  }

  // Where a tile's first logit is in its slot, in bytes.
  __device__ int skip() const { return lead_ * static_cast<int>(sizeof(T)); }

  // Starts copying the tile at logit `at` of the row to the slot of which the lane has the place `mine`. The row is to
  // go on for a vector on either side.
  __device__ void fetch(int at, SharedAddress mine) const {
    const T* middle = mine_ + (at + kTile / 2);  // all are within an instruction's reach of it
    keep_address(&middle);
#pragma unroll
    for (int i = 0; i < kCopies; ++i) copy_async(mine + i * kCopyBytes, middle + (i * kCopy - kTile / 2));
    if (reaches_over_) copy_async(mine + kCopies * kCopyBytes, middle + kTile / 2);
  }

  // Any other, which has the first `size` of a tile's logits: no logit is read that is not the row's. What a row's last
  // word has of none is -inf.
  __device__ static DLM_NOINLINE void fetch_some(FeedRow row, int at, int size, SharedAddress mine) {
    const int before = row.lead_ - static_cast<int>(threadIdx.x) % kWarp * kLogits, here = size + before;
    const T* const from = row.mine_ + at;
    if (at >= row.lead_ && at + size + kLogits <= row.vocab_) {
#pragma unroll
      for (int i = 0; i <= kCopies; ++i) {
        if (here > i * kCopy) copy_async(mine + i * kCopyBytes, from + i * kCopy);
      }
      return;
    }
#pragma unroll 1
    for (int i = 0; i * kCopy < here + size % kPerWord; ++i) {
      row.fetch_edge(from + i * kCopy, mine + i * kCopyBytes);
    }
  }

  // The lane's word at `at` and those a turn further each; -inf beyond the first `left` logits.
  template <int kSome>
  __device__ Packed<T, kSome> read(SharedAddress at, int left) const {
    Packed<T, kSome> out = Packed<T, kSome>::none();
    if (kPerWord == 2 && lead_ % kPerWord != 0) {
#pragma unroll
      for (int i = 0; i < kSome; ++i) {
        const SharedAddress halves = at + i * kTurnBytes;
        if (left > i * kTurn) out.word[i] = load_shared_half(halves) | load_shared_half(halves + 2) << 16;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kSome; ++i) {
        if (left > i * kTurn) out.word[i] = load_shared_word(at + i * kTurnBytes);
      }
    }
    return out;
  }

 private:
  static constexpr int kCopies = kTile / kCopy;

  // Where the row may begin or end.
  __device__ void fetch_edge(const T* from, SharedAddress mine) const {
    const int64_t before = first_ - from, behind = from + kLogits - (first_ + vocab_);
    if (before <= 0 && behind <= 0) {
      copy_async(mine, from);
      return;
    }
    Packed<T> some = Packed<T>::none();
#pragma unroll
    for (int k = 0; k < kLogits; ++k) {
      if (k >= before && k < kLogits - behind) some.put(k, from[k]);
    }
    store_shared(mine, make_uint4(some.word[0], some.word[1], some.word[2], some.word[3]));
  }

  const T* const first_;
  const int lead_;  // logits that the first vector has before the row begins
  const int vocab_;
  const T* mine_;            // the lane's vector at logit 0
  const bool reaches_over_;  // a tile is in a vector more, which is the lane's
};

// A block's share of a row: chunks of which its warps take turns at one each.
struct Chunks {
  int first, stop;

  __device__ int first_of_warp() const { return first + static_cast<int>(threadIdx.x) / kWarp; }
};

template <class Source>
class Feed {
 public:
  static constexpr int kRows = Source::kRows, kWords = kStageWords / kRows;
  using Row = FeedRow<typename Source::Logit, kWords>;
  static constexpr int kPerWord = Row::kPerWord;                // logits of a word
  static constexpr int kTurn = Row::kTurn, kTile = Row::kTile;  // of all lanes: a word each, a tile
  static_assert(Row::kBytes * kRows <= kStageBytes);

  // Starts with the warp's first tiles. `space` is the block's.
  __device__ Feed(const Source& source, int vocab, Chunks part, void* space)
      : source_(source),
        row_(source.row(0), vocab),
        other_(source.row(kRows - 1), vocab),
        size_(chunk_size(vocab)),
        end_(min_of(part.stop * size_, vocab)),
        chunk_(part.first_of_warp() * size_),
        at_(chunk_),
        left_(of_chunk()),
        begins_inside_(row_.skip() + other_.skip() > 0),
        slots_(shared_address(space) + static_cast<int>(threadIdx.x) / kWarp * kStages * kStageBytes) {
#pragma unroll 1
    for (int i = 0; i < kStages - 1; ++i) fetch(i * kStageBytes);
  }

  // Until the next tile is there, for all lanes. They have read the one before: in its place goes another.
  __device__ void next() {
    wait_for_copies<kStages - 2>();
    __syncwarp();
    fetch(slot_);
    slot_ = slot_ < (kStages - 1) * kStageBytes ? slot_ + kStageBytes : 0;
  }

  // Of that tile, whose first logit is that of token `begin`: what is suppressed becomes -inf where it lies.
  __device__ void leave_out(int begin, int size) const {
    const SharedAddress at = slots_ + slot_;
    put_out(source_, at + row_.skip(), at + Row::kBytes + other_.skip(), begin, begin + min_of(size, kTile));
  }

  // Words of that tile, from the lane's one of turn `turn` on, of which the lane has `left` logits from there on.
  template <int kSome>
  __device__ typename Source::template Words<kSome> read(int turn = 0, int left = kTile) const {
    const SharedAddress at = slots_ + slot_ + turn * kTurnBytes + lane() * kWordBytes;
    typename Source::template Raw<kSome> raw;
    raw.of[0] = row_.template read<kSome>(at + row_.skip(), left);
    if (kRows > 1) raw.of[kRows - 1] = other_.template read<kSome>(at + Row::kBytes + other_.skip(), left);
    return source_.mixed(raw);
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  // Logits of the chunk that is to be fetched; none behind the last one.
  __device__ int of_chunk() const { return max_of(0, min_of(size_, end_ - chunk_)); }

  // A call: rows have it in few chunks.
  __device__ static DLM_NOINLINE void put_out(Source source, SharedAddress at, SharedAddress other, int begin,
                                              int end) {
    using T = typename Source::Logit;
    source.each_suppressed(begin, end, [&](int64_t id) {
      const int offset = (static_cast<int>(id) - begin) * static_cast<int>(sizeof(T));
      if (lane() != 0) return;
      store_shared_lowest<T>(at + offset);
      if (kRows > 1) store_shared_lowest<T>(other + offset);
    });
    __syncwarp();
  }

  __device__ SharedAddress place(int slot) const { return slots_ + slot + lane() * kVectorBytes; }

  __device__ void fetch(int slot) {
    if (left_ < kTile + Row::kLogits || (at_ == 0 && begins_inside_)) {
      fetch_some(slot);
      return;
    }
    row_.fetch(at_, place(slot));
    if (kRows > 1) other_.fetch(at_, place(slot) + Row::kBytes);
    commit_copies();
    at_ += kTile;
    left_ -= kTile;
  }

  // Where a row may begin or end, and at the end of chunks.
  __device__ void fetch_some(int slot) {
    if (left_ > 0) {
      const int size = min_of(left_, kTile);
      Row::fetch_some(row_, at_, size, place(slot));
      if (kRows > 1) Row::fetch_some(other_, at_, size, place(slot) + Row::kBytes);
      at_ += kTile;
      left_ -= kTile;
      if (left_ <= 0) {
        at_ = chunk_ += kWarps * size_;
        left_ = of_chunk();
      }
    }
    commit_copies();  // an empty group counts as well
  }

  const Source& source_;
  const Row row_, other_;
  const int size_, end_;       // of a chunk; where the block's share ends
  int chunk_, at_, left_;      // the next tile to fetch: its chunk, itself, logits of the chunk from there on
  const bool begins_inside_;   // a vector: the row has no whole one before its first tile
  const SharedAddress slots_;  // the warp's
  int slot_ = (kStages - 1) * kStageBytes;  // bytes behind that: where the tile is that is read
};

}  // namespace dlm::cuda
