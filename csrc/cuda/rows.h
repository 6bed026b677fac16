// The one kernel that reads logits: row statistics, draws and the fused step are the same sweep with more or less after
// it. Work split: `split` blocks share a row, chunk by chunk; the last of them to arrive finishes the row, and the last
// row of a sequence to arrive decides and commits it. Nobody waits for anybody.
#pragma once

#include "decide.h"
#include "finish.h"
#include "launch.h"

namespace dlm::cuda {

// Whether the row's logits are read at all.
__device__ inline bool is_wanted(const RowsJob& job, const Place& at) {
  return job.op == RowsOp::kStep ? is_candidate(job.decide, at) : at.b >= 0;
}

__device__ inline void store_unwanted(const RowsJob& job, int64_t row, const Place& at) {
  if (job.op == RowsOp::kDraw) store(job.draw_out, row, DrawnRow{}, false);
  if (job.op == RowsOp::kStep) {
    store_skipped(job.step_out, job.decide.x, row, at);
    job.records.state[row] = kClosed;
  }
}

__device__ inline void store_drawn_row(const RowsJob& job, int64_t row, const Place& at, const DrawnRow& drawn) {
  if (job.op == RowsOp::kDraw) {
    store(job.draw_out, row, drawn, !drawn.good);
    return;
  }
  store_skipped(job.step_out, job.decide.x, row, at);
  job.records.state[row] = drawn.good ? kEligible : kBad;
  if (!drawn.good) return;
  store_drawn(job.step_out, job.decide.x, row, drawn);
  job.records.value[row] = drawn.score.value;
  job.records.key[row] = drawn.score.key;
  job.records.entropy[row] = drawn.entropy;
}

__device__ inline RowLaw law_of(const RowsJob& job, const Place& at) {
  const float temperature = float_at(job.sweep.temperature, at.b);
  RowLaw law = row_law(temperature, job.resolved.from_sampled, job.tilt);
  if (job.op == RowsOp::kRowStats) law.beta = inverse_temperature(temperature), law.draw_beta = 0;
  return law;
}

// A call of its own, once per row: inlined, its registers would crowd the sweep's.
template <class Source>
__device__ DLM_NOINLINE void finish_row(const RowsJob& job, int64_t row) {
  const Resolved& r = job.resolved;
  const Place at = place_of(r.geometry, row);
  const RowLaw law = law_of(job, at);
  const Source source(job.sweep, r.geometry, row);
  const Finisher<Source> finisher(source, r.vocab, law, job.parts + row * num_chunks(r.vocab) * kWarps);
  RowStats stats;
  if (!finisher.bad()) stats = finisher.stats();
  if (job.op == RowsOp::kRowStats) {
    if (threadIdx.x != 0) return;
    const int64_t token =
        given(job.given) ? static_cast<const int64_t*>(job.given.data)[row_offset(r.geometry, job.given, row)] : -1;
    const bool known = !finisher.bad() && token >= 0 && token < r.vocab;
    const double p = known ? 1 / (1 + odds_against(stats, token, source.logit(token), law.beta)) : 0;
    store(job.stats_out, row, !finisher.bad(), stats, law.beta, p);
    return;
  }
  DrawnRow drawn;
  if (!finisher.bad()) {
    int64_t token = -1;
    if (law.draw_beta > 0) token = finisher.draw(row_uniform(job.draw, r.geometry, row, at));
    if (token < 0) token = stats.argmax;
    if (threadIdx.x == 0) {
      const float z = token == stats.argmax ? stats.max : source.logit(token);
      drawn = score_draw(job.draw, r, law, stats, at, token, z);
    }
  }
  if (threadIdx.x == 0) store_drawn_row(job, row, at, drawn);
}

// All rows of sequence b are finished.
__device__ DLM_NOINLINE inline void decide_rows(const RowsJob& job, int64_t b, Ranked* ranked) {
  const RowRecords& records = job.records;
  const RuleParams rule = rule_params(job.resolved, job.decide, b);
  decide_sequence(
      job.resolved.geometry, job.decide, rule, b, ranked, job.step_out.unmask,
      [&](int64_t row, const Place&) {
        const auto state = static_cast<RowState>(records.state[row]);
        return Verdict{state, state == kEligible ? rank_key(rule.rule, records.key[row], records.entropy[row]) : 0.0};
      },
      [&](int64_t row) { return records.value[row]; },
      [&](int64_t row) { return static_cast<double>(records.entropy[row]); },
      [&](int64_t row) { return load_int(job.step_out.tokens, job.decide.x.dtype, row); });
}

// Sequences that packed rows never mention have counts all the same. Rows are few here.
__device__ inline void count_absent(const RowsJob& job) {
  for (int64_t b = 0; b < job.decide.x.shape[0]; ++b) {
    if (count_rows(job.resolved.geometry, b, b + 1) > 0 || threadIdx.x != 0) continue;
    const UnmaskOutputs& out = job.step_out.unmask;
    out.num_committed[b] = out.num_open[b] = out.num_bad[b] = 0;
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
template <bool kGuided>
constexpr int kBlocksWanted = kGuided ? 3 : 5;

template <class T, bool kGuided, bool kWithTilt>
__global__ void __launch_bounds__(kThreads, kBlocksWanted<kGuided>) rows_kernel(const __grid_constant__ RowsJob job) {
  using Source = RowSource<T, kGuided>;
  constexpr int kFlags = kWithTilt ? kTilt : kPlain;
  const Geometry& g = job.resolved.geometry;
  const int64_t row = blockIdx.x / job.split;
  const int part = static_cast<int>(blockIdx.x % job.split);
  const Place at = place_of(g, row);

  if (job.fused && g.packed && blockIdx.x == 0) count_absent(job);
  if (is_wanted(job, at)) {
    const Source source(job.sweep, g, row);
    const RowLaw law = law_of(job, at);
    if (law.draw_beta > 0 && law.draw_beta != law.beta) {
      sweep_part<kFlags | kTwoLaws>(job, source, law, row, part);
    } else {
      sweep_part<kFlags>(job, source, law, row, part);
    }
    if (!last_to_arrive(job.row_arrivals + row, static_cast<unsigned>(job.split))) return;
    finish_row<Source>(job, row);
  } else if (part != 0) {
    return;
  } else if (threadIdx.x == 0) {
    store_unwanted(job, row, at);
  }

  if (!job.fused || at.b < 0) return;
  const int64_t rows = count_rows(g, at.b, at.b + 1);
  if (!last_to_arrive(job.sequence_arrivals + at.b, static_cast<unsigned>(rows))) return;
  DLM_DYNAMIC_SHARED(Ranked, ranked);
  decide_rows(job, at.b, ranked);
}

// Instantiated once per logit dtype (rows_*.cu), which is where all the compile time goes.
template <class T>
void launch_rows_of(const RowsJob& job, const SortSpace& space, void* stream) {
  const auto kernel = given(job.sweep.uncond) ? rows_kernel<T, true, true>
                      : job.tilt              ? rows_kernel<T, false, true>
                                              : rows_kernel<T, false, false>;
  const size_t shared = job.fused ? space.shared_bytes() : 0;
  launch("rows", kernel, job.resolved.geometry.num_rows * job.split, kThreads, shared, stream, job);
}

}  // namespace dlm::cuda
