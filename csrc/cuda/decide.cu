// Sequences in a launch of their own: topk_unmask_, and steps that are too many or too long to finish beside the sweep.
#include "launch.h"
#include "sequence.h"

namespace dlm::cuda {
namespace {

__device__ Ranked* space_of(const SortSpace& space, const Geometry& g, int64_t b) {
  DLM_DYNAMIC_SHARED(Ranked, shared);
  if (space.global == nullptr) return shared;
  // The next power of two of n > 0 rows is less than 2 n: twice the rows of the sequences before is a place of one's
  // own.
  return space.global + (g.packed ? 2 * count_rows(g, 0, b) : b * space.capacity);
}

}  // namespace

__global__ void __launch_bounds__(kDecideThreads, 1)
    sequences_kernel(const __grid_constant__ RowsJob job, const SortSpace space) {
  finish_sequence(job, blockIdx.x, space_of(space, job.resolved.geometry, blockIdx.x));
}

__global__ void __launch_bounds__(kDecideThreads, 1)
    unmask_kernel(const __grid_constant__ UnmaskArgs a, const __grid_constant__ Resolved r, const SortSpace space) {
  const Geometry& g = r.geometry;
  const int64_t b = blockIdx.x;
  const RowRange range = rows_of(g, b);
  for (int64_t row = range.begin + threadIdx.x; row < range.end; row += blockDim.x) {
    const int64_t owner = place_of(g, row).b;
    if (owner == b || (b == 0 && owner < 0)) a.out.committed[row] = false;  // the first block looks after padding
  }
  if (b >= a.decide.x.shape[0]) return;
  Ranked* const ranked = space_of(space, g, b);
  const Standing rows = rank_sequence(
      g, rule_params(r, a.decide, b), b, true, ranked,
      [&](int64_t row, const Place& at) {
        if (!is_candidate(a.decide, at)) return Verdict{kClosed, 0};
        const bool open = is_open(a.decide, at);
        if (open == a.remask) return Verdict{kPassed, 0, open};
        const double key = unmask_key(a, g, row);
        return Verdict{key != key ? kBad : may_rank(a, key) ? kEligible : kPassed, key, open};
      },
      [](int64_t) { return 0.0; }, [](int64_t) { return 0.0; });
  commit_ranked(a.decide, b, ranked, rows, a.out, [&](int64_t row, const Place& at) { return unmask(a, g, row, at); });
}

void launch_sequences(const RowsJob& job, const SortSpace& space, void* stream) {
  const int64_t batch = job.args.step.decide.x.shape[0];
  launch("sequences", sequences_kernel, batch, kDecideThreads, space.shared_bytes(), stream, job, space);
}

void launch_unmask(const UnmaskArgs& args, const Resolved& resolved, const SortSpace& space, void* stream) {
  // Padding rows need a block also where there is no sequence.
  const int64_t batch = args.decide.x.shape[0], blocks = resolved.geometry.packed ? max_of<int64_t>(1, batch) : batch;
  launch("unmask", unmask_kernel, blocks, kDecideThreads, space.shared_bytes(), stream, args, resolved, space);
}

}  // namespace dlm::cuda
