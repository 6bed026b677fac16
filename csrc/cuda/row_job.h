// The job of the row that the block finishes, in shared memory: there it is at hand for every function without a
// register that holds its address.
#pragma once

#include <type_traits>

#include "../core/confidence.h"
#include "../core/row_stats.h"
#include "block.h"
#include "intrinsics.h"

namespace dlm::cuda {

// What a later block reads first, fetched into the L2 as this one begins to finish its row. A warp's business. (What
// was measured is that rows are faster with this code, and not because of what it fetches: bench/notes/gpu.md.)
struct Coming {
  static constexpr int kLine = 128;
  const unsigned char* first;
  int bytes;

  __device__ void fetch() const {
    __syncwarp();  // a lane has written it, and the warp may have had no chunk to sweep since
#pragma unroll 1
    for (int at = static_cast<int>(threadIdx.x) % kWarp * kLine; at < bytes; at += kWarp * kLine) prefetch(first + at);
  }
};

// What took loads and divisions to find out is found out once, before the row is read.
struct RowJob : RowsJob {
  alignas(16) Place at;
  alignas(16) Coming coming;
  const void *logits, *uncond, *other_logits;  // of the row; the last is of another posterior
  RowLaw law;
  int64_t row;
  Partial* row_parts;  // of its chunks: the block's own, where no other shares the row
  Maxima* row_maxima;
  RowState state;              // what became of it, where it is a transition's
  double uniform;              // of the route, or of the draw where there is none
  alignas(16) Current before;  // of a transition: what the position holds, in a law that is not cut
  alignas(16) RowStats stats;  // as far as anybody has found them out
};

__device__ inline RowJob& row_job() {
  DLM_SHARED(Room<RowJob>, room, );
  return room.value();
}

// Of what is drawn; and of what is scored.
__device__ inline bool cuts(const RowsJob& job) { return has_filters(job.args.step.sweep); }
__device__ inline bool cuts_scores(const RowsJob& job) { return cuts(job) && job.resolved.confidence_from == kSampled; }

// What is the host's, on its way to the block's: the thread's vectors of it. Read through a plain address: each lane
// wants other bytes, which constants are bad at. All of them are asked for before the first is waited for.
class JobCopy {
 public:
  __device__ void load(const RowsJob& job) {
    const uint4* from = reinterpret_cast<const uint4*>(&job);
    keep_address(&from);
#pragma unroll
    for (int i = 0; i < kEach; ++i) mine_[i] = from[min_of(at(i), kVectors - 1)];
  }
  // Theirs behind the next barrier.
  __device__ void store() const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (at(i) < kVectors) reinterpret_cast<uint4*>(&row_job())[at(i)] = mine_[i];
    }
  }

 private:
  static_assert(std::is_trivially_copyable_v<RowsJob> && alignof(RowsJob) % sizeof(uint4) == 0);
  static constexpr int kVectors = sizeof(RowsJob) / sizeof(uint4), kEach = (kVectors + kThreads - 1) / kThreads;
  __device__ static int at(int i) { return static_cast<int>(threadIdx.x) + i * kThreads; }

  uint4 mine_[kEach];
};

}  // namespace dlm::cuda
