// The one kernel that reads logits: row statistics, draws and the fused step are the same sweep with more or less after
// it. Work split: `split` blocks share a row, chunk by chunk; the last of them to arrive finishes the row, and the last
// row of a sequence to arrive decides and commits it. Nobody waits for anybody.
#pragma once

#include "launch.h"
#include "move_row.h"
#include "probabilities.h"
#include "sequence.h"

namespace dlm::cuda {

// Whether the row's logits are read at all.
__device__ inline bool is_wanted(const RowsJob& job, const Place& at) {
  return job.op <= RowsOp::kDraw ? at.b >= 0 : is_candidate(job.args.step.decide, at);
}

template <class Source>
__device__ void store_stats(const RowsJob& job, const Source& source, const RowLaw& law, const RowStats& stats,
                            int64_t row, bool good) {
  if (threadIdx.x != 0) return;
  const Current asked = holding(source, given_token(job.args.step.draw, job.resolved.geometry, row), job.resolved.vocab);
  const bool known = good && asked.token >= 0 && asked.token < job.resolved.vocab;
  store(job.stats_out, row, good, stats, law.beta, known ? probability(stats, asked, law.beta) : 0);
}

// Calls of their own, once per row: inlined, their registers would crowd the sweep's.
template <class Source>
__device__ DLM_NOINLINE void finish_row(const RowsJob& job, int64_t row) {
  const Resolved& r = job.resolved;
  const Place at = place_of(r.geometry, row);
  const RowLaw law = law_of(job, at);
  const Source source(job.args.step.sweep, r.geometry, row);
  const Finisher<Source> finisher(source, r.vocab, law, job.parts + row * num_chunks(r.vocab) * kWarps);
  RowStats stats;
  if (!finisher.bad()) stats = finisher.stats();
  if (job.op == RowsOp::kRowStats) {
    store_stats(job, source, law, stats, row, !finisher.bad());
  } else if (finisher.bad()) {
    if (threadIdx.x == 0) store_unread(job, row, at, kBad);
  } else {
    int64_t token = -1;
    if (law.draw_beta > 0) token = finisher.draw(row_uniform(job.args.step.draw, r.geometry, row, at));
    if (threadIdx.x == 0) score_row<Source>(job, row, stats, token);
  }
}

template <class Source>
__device__ DLM_NOINLINE void finish_move(const RowsJob& job, int64_t row) {
  const Resolved& r = job.resolved;
  const Place at = place_of(r.geometry, row);
  const RowLaw law = law_of(job, at);
  const Source source(job.args.step.sweep, r.geometry, row);
  Finisher<Source> finisher(source, r.vocab, law, job.parts + row * num_chunks(r.vocab) * kWarps);
  if (finisher.bad()) {
    if (threadIdx.x == 0) store_unread(job, row, at, kBad);
  } else {
    const RowStats stats = finisher.stats();
    move_row(job, &finisher, law, stats, row, at);
  }
}

// The calling block's share of a row's chunks, each one under one law or two.
template <int kFlags, class Source>
__device__ void sweep_part(const RowsJob& job, const Source& source, const RowLaw& law, int64_t row, int part) {
  const Sweeper<kFlags, Source> sweeper(source, law);
  const int64_t vocab = job.resolved.vocab, size = chunk_size(vocab);
  const int chunks = static_cast<int>(num_chunks(vocab));
  Partial* const parts = job.parts + row * chunks * kWarps + threadIdx.x / kWarp;
  const int first = part * chunks / job.split, stop = (part + 1) * chunks / job.split;
  for (int c = first; c < stop; ++c) {
    const Partial p = sweeper.sweep(c * size, static_cast<int>(min_of(size, vocab - c * size)));
    if (threadIdx.x % kWarp == 0) parts[c * kWarps] = p;
  }
}

// Per multiprocessor: what registers allow without spilling (tests/test_cuda_build.py).
constexpr int blocks_wanted(Mix mix) { return mix == Mix::kPlain ? 5 : 4; }

template <class T, Mix kMix, bool kWithTilt>
__global__ void __launch_bounds__(kThreads, blocks_wanted(kMix)) rows_kernel(const __grid_constant__ RowsJob job) {
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
    job.op == RowsOp::kTransition ? finish_move<Source>(job, row) : finish_row<Source>(job, row);
  } else if (part != 0) {
    return;
  } else if (threadIdx.x == 0) {
    store_unread(job, row, at, kClosed);
  }

  if (job.fused) finish_fused(job, row);
}

// Instantiated once per logit dtype (rows_*.cu), which is where all the compile time goes.
template <class T>
void launch_rows_of(const RowsJob& job, const SortSpace& space, void* stream) {
  const SweepParams& sweep = job.args.step.sweep;
  const auto kernel = given(sweep.uncond)  ? rows_kernel<T, Mix::kGuided, true>
                      : sweep.softcap > 0  ? rows_kernel<T, Mix::kCapped, true>
                      : job.tilt           ? rows_kernel<T, Mix::kPlain, true>
                                           : rows_kernel<T, Mix::kPlain, false>;
  const size_t shared = job.fused ? space.shared_bytes() : 0;
  launch("rows", kernel, job.resolved.geometry.num_rows * job.split, kThreads, shared, stream, job);
}

}  // namespace dlm::cuda
