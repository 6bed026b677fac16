// The tiles of a block's share of a row, in order, each warp's kept on their way while it works on those before: it
// never waits for memory that it could have asked for earlier. Between the warps of a block there is no barrier.
#pragma once

#include "cut_space.h"
#include "source.h"

namespace dlm::cuda {

// Tiles on their way per warp. 25 KiB per block: three blocks have twice in flight what an H200's bandwidth takes.
constexpr int kStages = 3;

// Of a block, whatever its logits are.
template <class Source>
using FeedSpace = typename Source::Stage[kWarps][kStages];
constexpr size_t kFeedBytes = kWarps * kStages * 4 * (kWarp + 1) * 16;

// It lies in the launch's dynamic shared memory, behind what a row is cut with.
DLM_HD size_t feed_offset(bool filtered) { return filtered ? (sizeof(CutSpace) + 15) / 16 * 16 : 0; }

template <class Source>
__device__ FeedSpace<Source>* feed_space(bool filtered) {
  static_assert(sizeof(FeedSpace<Source>) == kFeedBytes);
  DLM_DYNAMIC_SHARED(uint4, space);
  return reinterpret_cast<FeedSpace<Source>*>(space + feed_offset(filtered) / 16);
}

template <class Source>
class Feed {
 public:
  using Vector = typename Source::Vector;

  // Of chunks [first, stop).
  __device__ Feed(const Source& source, int64_t vocab, int first, int stop, FeedSpace<Source>* space)
      : source_(source),
        stages_((*space)[threadIdx.x / kWarp]),
        size_(static_cast<int>(chunk_size(vocab))),
        begin_(first * size_),
        end_(static_cast<int>(min_of(stop * chunk_size(vocab), vocab))) {
#pragma unroll 1
    for (int i = 0; i < kStages; ++i) fetch(&stages_[i]);
  }

  // The warp's share of the next tile, which is at `offset` of the `size` logits from `begin` on. Returns how many of
  // its vectors have any.
  __device__ int next(int begin, int offset, int size, Vector (&tile)[Source::kTileVectors]) {
    typename Source::Stage* const stage = &stages_[stage_];
    __pipeline_wait_prior(kStages - 1);
    __syncwarp();
    const int live = source_.take(*stage, begin, offset, size, tile);
    __syncwarp();
    fetch(stage);
    stage_ = stage_ + 1 < kStages ? stage_ + 1 : 0;
    return live;
  }

 private:
  __device__ void fetch(typename Source::Stage* stage) {
    if (begin_ < end_) {
      const int here = min_of(size_, end_ - begin_);
      source_.fetch(stage, begin_, offset_, here);
      offset_ += Source::kTile;
      if (offset_ >= here) offset_ = 0, begin_ += size_;
    }
    __pipeline_commit();  // an empty group counts as well
  }

  const Source& source_;
  typename Source::Stage* const stages_;
  const int size_;              // of a chunk
  int begin_;                   // of the next tile to fetch: its chunk,
  int offset_ = 0, stage_ = 0;  // and where in that; and the stage of the next one to be taken
  const int end_;
};

}  // namespace dlm::cuda
