// The job of the row that the block finishes, in shared memory: there it is at hand for every function without a
// register that holds its address.
#pragma once

#include <type_traits>

#include "../core/confidence.h"
#include "../core/row_stats.h"
#include "block.h"
#include "intrinsics.h"

namespace dlm::cuda {

// What took loads and divisions to find out is found out once, before the row is read.
struct RowJob : RowsJob {
  alignas(16) Place at;
  const void *logits, *uncond, *other_logits;  // of the row; the last is of another posterior
  RowLaw law;
  int64_t row;
  Partial* row_parts;  // of its chunks: the block's own, where no other shares the row
  Maxima* row_maxima;
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

// Fills in what is the host's. Read through a plain address: each lane wants other bytes, which constants are bad at.
// Theirs behind the next barrier.
__device__ inline void copy_job(const RowsJob& job) {
  static_assert(std::is_trivially_copyable_v<RowsJob> && sizeof(RowsJob) % sizeof(uint64_t) == 0);
  const unsigned char* from = reinterpret_cast<const unsigned char*>(&job);
  unsigned char* const to = reinterpret_cast<unsigned char*>(&row_job());
  keep_address(&from);
  for (unsigned at = threadIdx.x * sizeof(uint64_t); at < sizeof(RowsJob); at += kThreads * sizeof(uint64_t)) {
    memcpy(to + at, from + at, sizeof(uint64_t));
  }
}

}  // namespace dlm::cuda
