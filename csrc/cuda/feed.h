// The tiles of a block's share of a row, in order, each warp's copied to shared memory while it works on those before:
// it never waits for memory that it could have asked for earlier. Between the warps of a block there is no barrier.
//
// Memory is fetched in whole aligned vectors however the row lies in it, and logits are put into their places when they
// are read: a thread always takes the same logits of a chunk.
#pragma once

#include "cut_space.h"
#include "source.h"

namespace dlm::cuda {

// Tiles on their way per warp. 25 KiB per block, 100 per multiprocessor: what an H200 reads in some three microseconds.
constexpr int kStages = 3;
constexpr int kVectorBytes = 16, kTurnBytes = kWarp * kVectorBytes;
// Turns in a stage, whatever the logits are: those of a tile, of one row or two; and a vector more of each, of rows
// that begin inside a vector.
constexpr int kStageTurns = 4, kStageBytes = kStageTurns * kTurnBytes + 2 * kVectorBytes;
constexpr size_t kFeedBytes = kWarps * kStages * kStageBytes;

// It lies in the launch's dynamic shared memory, behind what a row is cut with.
DLM_HD size_t feed_offset(bool filtered) { return filtered ? (sizeof(CutSpace) + 15) / 16 * 16 : 0; }

__device__ inline void* feed_space(bool filtered) {
  DLM_DYNAMIC_SHARED(unsigned char, space);
  return space + feed_offset(filtered);
}

// One of the rows that a source reads, in whole vectors.
template <class T, int kTurns>
class FeedRow {
 public:
  static constexpr int kLogits = kVectorBytes / sizeof(T), kTurn = kWarp * kLogits;
  static constexpr int kBytes = kTurns * kTurnBytes + kVectorBytes;  // of a tile

  __device__ FeedRow(const T* first, int vocab)
      : first_(first),
        lead_(static_cast<int>(reinterpret_cast<uintptr_t>(first) % kVectorBytes / sizeof(T))),
        vocab_(vocab),
        mine_(first - lead_ + threadIdx.x % kWarp * kLogits) {
    keep_address(&mine_);
  }

  __device__ bool aligned() const { return lead_ == 0; }

  // Starts copying the lane's vectors of the tile at logit `at` of the row, of which the lane has `left` logits from
  // its first one on, to `slot` and a turn further each.
  __device__ void fetch(int at, int left, SharedAddress slot) const {
    left += lead_;
    if (at < lead_ || at > vocab_ + lead_ - (kTurns * kTurn + kLogits)) {
      fetch_edges(*this, at, left, slot);
      return;
    }
    const T* from = mine_ + at;
    keep_address(&from);
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      if (left > i * kTurn) copy_async(slot + i * kTurnBytes, from + i * kTurn);
    }
    if (lead_ > 0 && threadIdx.x % kWarp == 0 && left > kTurns * kTurn) {
      copy_async(slot + kTurns * kTurnBytes, from + kTurns * kTurn);
    }
  }

  // The lane's logits of the turn at `slot`, at least the first `wanted` of them. A row that begins inside a vector is
  // read word by word, and put right by half a word where it begins inside one.
  __device__ Packed<T> read(SharedAddress slot, int wanted = kLogits) const {
    constexpr int kPerWord = kLogits / 4;
    if (lead_ == 0) {
      const uint4 v = load_shared(slot);
      return {{v.x, v.y, v.z, v.w}};
    }
    const int skip = lead_ * static_cast<int>(sizeof(T)), halves = kPerWord == 2 ? skip / 2 % 2 : 0;
    const SharedAddress first = slot + skip / 4 * 4;
    const auto word = [&](int w) { return wanted > w * kPerWord - halves ? load_shared_word(first + 4 * w) : 0; };
    Packed<T> out = {{word(0), word(1), word(2), word(3)}};
    if (halves != 0) {
      const uint32_t last = word(4);
#pragma unroll
      for (int w = 0; w < 4; ++w) out.word[w] = __funnelshift_r(out.word[w], w < 3 ? out.word[w + 1] : last, 16);
    }
    return out;
  }

 private:
  // The same where the row may begin or end: no logit is read that is not the row's.
  __device__ static DLM_NOINLINE void fetch_edges(FeedRow row, int at, int left, SharedAddress slot) {
    const int turns = threadIdx.x % kWarp == 0 && row.lead_ > 0 ? kTurns + 1 : kTurns;
#pragma unroll 1
    for (int i = 0; i < turns; ++i) {
      if (left > i * kTurn) row.fetch_edge(at + i * kTurn, slot + i * kTurnBytes);
    }
  }
  __device__ void fetch_edge(int at, SharedAddress slot) const {
    const T* const from = mine_ + at;
    const int64_t before = first_ - from, behind = from + kLogits - (first_ + vocab_);
    if (before <= 0 && behind <= 0) {
      copy_async(slot, from);
      return;
    }
    Packed<T> some = Packed<T>::none();
#pragma unroll
    for (int k = 0; k < kLogits; ++k) {
      if (k >= before && k < kLogits - behind) some.put(k, from[k]);
    }
    store_shared(slot, make_uint4(some.word[0], some.word[1], some.word[2], some.word[3]));
  }

  const T* const first_;
  const int lead_;  // logits that the first vector has before the row begins
  const int vocab_;
  const T* mine_;  // the lane's vector at logit 0
};

template <class Source>
class Feed {
 public:
  using T = typename Source::Logit;
  using Vector = typename Source::Vector;
  static constexpr int kTurns = Source::kTileVectors, kRows = Source::kRows, kTurn = Source::kWarpTurn;
  using Row = FeedRow<T, kTurns>;
  static_assert(Row::kBytes * kRows <= kStageBytes);

  // Of chunk `first` and every kWarps-th behind it, as far as there are any before `stop`.
  __device__ Feed(const Source& source, int64_t vocab, int first, int stop, void* space)
      : source_(source),
        row_(source.row(0), static_cast<int>(vocab)),
        other_(source.row(kRows - 1), static_cast<int>(vocab)),
        size_(static_cast<int>(chunk_size(vocab))),
        end_(static_cast<int>(min_of(stop * chunk_size(vocab), vocab))),
        chunk_(first * size_),
        at_(chunk_) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    base_ = shared_address(space) + warp * kStages * kStageBytes + lane * kVectorBytes;
#pragma unroll 1
    for (int i = 0; i < kStages; ++i) fetch(base_ + i * kStageBytes);
  }

  // The lane's share of the next tile, of which its chunk has `left` logits from the lane's first on. Returns how many
  // of its vectors have any for the warp.
  __device__ int next(int left, Vector (&tile)[kTurns]) {
    const SharedAddress slot = base_ + stage_;
    const int of_warp = left + static_cast<int>(threadIdx.x) % kWarp * Source::kLogits;
    const bool crosses = !row_.aligned() || !other_.aligned();  // lanes read what others have fetched
    wait_for_copies<kStages - 1>();
    if (crosses) __syncwarp();
    int live = kTurns;
    if (of_warp >= Source::kWarpTile) {
      if (crosses) {
        take(slot, tile, [&](const Row& row, SharedAddress at, int) { return row.read(at); });
      } else {
        take(slot, tile, [&](const Row&, SharedAddress at, int) {
          const uint4 v = load_shared(at);
          return Packed<T>{{v.x, v.y, v.z, v.w}};
        });
      }
    } else {
      live = (of_warp + kTurn - 1) / kTurn;
      take(slot, tile, [&](const Row& row, SharedAddress at, int i) {
        const int n = left - i * kTurn;
        if (n <= 0) return Packed<T>::none();
        Packed<T> some = row.read(at, n);
        if (n < Source::kLogits) some.keep_first(n);
        return some;
      });
    }
    if (crosses) __syncwarp();
    fetch(slot);
    stage_ = stage_ < (kStages - 1) * kStageBytes ? stage_ + kStageBytes : 0;
    return live;
  }

 private:
  template <class Read>
  __device__ void take(SharedAddress slot, Vector (&tile)[kTurns], Read read) const {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      typename Source::Raw raw;
      raw.of[0] = read(row_, slot + i * kTurnBytes, i);
      if (kRows > 1) raw.of[kRows - 1] = read(other_, slot + Row::kBytes + i * kTurnBytes, i);
      tile[i] = source_.mixed(raw);
    }
  }

  __device__ void fetch(SharedAddress slot) {
    if (chunk_ < end_) {
      const int chunk_end = min_of(chunk_ + size_, end_);
      const int left = chunk_end - at_ - static_cast<int>(threadIdx.x) % kWarp * Source::kLogits;
      row_.fetch(at_, left, slot);
      if (kRows > 1) other_.fetch(at_, left, slot + Row::kBytes);
      at_ += Source::kWarpTile;
      if (at_ >= chunk_end) at_ = chunk_ += kWarps * size_;
    }
    commit_copies();  // an empty group counts as well
  }

  const Source& source_;
  const Row row_, other_;
  const int size_, end_;  // of a chunk; where the block's share ends
  int chunk_, at_;        // the next tile to fetch: its chunk, and itself
  SharedAddress base_;
  int stage_ = 0;  // of the next one to be taken: bytes behind the first
};

}  // namespace dlm::cuda
