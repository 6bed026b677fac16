// The one kernel that reads logits: row statistics, draws and the fused step are the same sweep with more or less after
// it. Work split: `split` blocks share a row, chunk by chunk; the last of them to arrive finishes the row, and the last
// row of a sequence to arrive decides and commits it. Nobody waits for anybody.
#pragma once

#include "cut_row.h"
#include "draw_row.h"
#include "launch.h"
#include "redraw_row.h"
#include "sequence.h"

namespace dlm::cuda {

// Whether the row's logits are read at all.
__device__ inline bool is_wanted(const RowsJob& job, const Place& at) {
  return job.op <= RowsOp::kDraw ? at.b >= 0 : is_candidate(job.args.step.decide, at);
}

// The calling block's share of a row's chunks, each one under one law or two.
template <int kFlags, class Source>
__device__ void sweep_part(const RowsJob& job, const Source& source, const RowLaw& law, int64_t row, int part) {
  const int chunks = static_cast<int>(num_chunks(job.resolved.vocab));
  sweep_chunks<kFlags>(source, law, job.resolved.vocab, part * chunks / job.split, (part + 1) * chunks / job.split,
                       job.parts + row * chunks * kWarps);
}

// Transitions have kernels of their own, and those with a second read again: the end of a row takes more registers
// there.
enum class Family : int { kDraws = 0, kMoves = 1, kRedraws = 2 };

// Per multiprocessor: what registers allow without spilling (tests/test_cuda_build.py).
constexpr int blocks_wanted(Mix mix, Family family) {
  if (family == Family::kRedraws || (family == Family::kMoves && mix == Mix::kGuided)) return 3;
  return family == Family::kMoves || mix != Mix::kPlain ? 4 : 5;
}

template <class T, Mix kMix, bool kWithTilt, Family kFamily = Family::kDraws>
__global__ void __launch_bounds__(kThreads, blocks_wanted(kMix, kFamily))
    rows_kernel(const __grid_constant__ RowsJob job) {
  using Source = RowSource<T, kMix>;
  constexpr int kFlags = kWithTilt ? kTilt : kPlain;
  const Geometry& g = job.resolved.geometry;
  const int64_t row = blockIdx.x / job.split;
  const int part = static_cast<int>(blockIdx.x % job.split);
  const Place at = place_of(g, row);

  if (job.fused && g.packed && blockIdx.x == 0) count_absent(job);
  if (is_wanted(job, at)) {
    const Source source(job.args.step.sweep, g, row);
    const RowLaw law = law_of(job, at);
    if (law.draw_beta > 0 && law.draw_beta != law.beta) {
      sweep_part<kFlags | kTwoLaws>(job, source, law, row, part);
    } else {
      sweep_part<kFlags>(job, source, law, row, part);
    }
    if (!last_to_arrive(job.row_arrivals + row, static_cast<unsigned>(job.split))) return;
    if (cuts(job)) cut_row<Source>(job, job.args.step.sweep.logits, row);
    if constexpr (kFamily == Family::kDraws) finish_draw<Source>(job, row);
    if constexpr (kFamily == Family::kMoves) finish_move<Source>(job, row);
    if constexpr (kFamily == Family::kRedraws) finish_redraw<Source>(job, row);
  } else if (part != 0) {
    return;
  } else if (threadIdx.x == 0) {
    store_unread(job, row, at, kClosed);
  }

  if (job.fused) finish_fused(job, row);
}

inline void launch_kernel(void (*kernel)(RowsJob), const RowsJob& job, const SortSpace& space, void* stream) {
  size_t shared = job.fused ? space.shared_bytes() : 0;
  if (has_filters(job.args.step.sweep)) shared = max_of(shared, sizeof(CutSpace));
  launch("rows", kernel, job.resolved.geometry.num_rows * job.split, kThreads, shared, stream, job);
}

// Each instantiated once per logit dtype, in draws_*.cu and moves_*.cu, which is where all the compile time goes.
template <class T>
void launch_draws_of(const RowsJob& job, const SortSpace& space, void* stream) {
  const auto kernel = given(job.args.step.sweep.uncond) ? rows_kernel<T, Mix::kGuided, true>
                      : job.args.step.sweep.softcap > 0 ? rows_kernel<T, Mix::kCapped, true>
                      : job.tilt                        ? rows_kernel<T, Mix::kPlain, true>
                                                        : rows_kernel<T, Mix::kPlain, false>;
  launch_kernel(kernel, job, space, stream);
}

template <class T>
void launch_moves_of(const RowsJob& job, const SortSpace& space, void* stream) {
  if (job.args.step.sweep.softcap > 0) launch_failed("rows", "no kernel for transitions of capped logits");
  const bool guided = given(job.args.step.sweep.uncond);
  if (job.resolved.redraw == kNoRedraw) {
    launch_kernel(guided ? rows_kernel<T, Mix::kGuided, false, Family::kMoves>
                         : rows_kernel<T, Mix::kPlain, false, Family::kMoves>,
                  job, space, stream);
  } else {
    launch_kernel(guided ? rows_kernel<T, Mix::kGuided, false, Family::kRedraws>
                         : rows_kernel<T, Mix::kPlain, false, Family::kRedraws>,
                  job, space, stream);
  }
}

}  // namespace dlm::cuda
