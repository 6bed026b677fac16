// What the block does that finds all rows of a sequence finished.
#pragma once

#include "../core/edit.h"
#include "decide.h"
#include "job.h"
#include "row_job.h"

namespace dlm::cuda {

__device__ inline void store_counts(const RowsJob& job, int64_t b, int64_t written, int64_t bad) {
  const UnmaskOutputs& step = job.args.step.out.unmask;
  const bool moves = job.op == RowsOp::kTransition;
  (moves ? job.transition_out.num_changed : step.num_committed)[b] = written;
  (moves ? job.transition_out.num_bad : step.num_bad)[b] = bad;
  if (!moves && step.num_open != nullptr) step.num_open[b] = 0;
}

// Sequences that packed rows never mention have counts all the same. Rows are few here.
__device__ DLM_NOINLINE inline void count_absent(const RowsJob& job) {
#pragma unroll 1
  for (int64_t b = 0; b < job.args.step.decide.x.shape[0]; ++b) {
    if (count_rows(job.resolved.geometry, b, b + 1) > 0 || threadIdx.x != 0) continue;
    store_counts(job, b, 0, 0);
    if (job.op == RowsOp::kRenoise) update_done(job.args, b, 0, 0, false, 0);
    finish_edits(job.args.step.decide, b, 0, 0, 0);
  }
}

// Whether an open row of sequence b is ready and above the threshold.
__device__ inline bool is_sure(const RowsJob& job, int64_t b, int64_t row) {
  const DecideParams& d = job.args.step.decide;
  return job.records.state[row] == kEligible &&
         is_sure(rule_params(job.resolved, d, b), is_ready(d, job.resolved.geometry, row), job.records.value[row]);
}

__device__ inline int count_sure(const RowsJob& job, int64_t b) {
  const DecideParams& d = job.args.step.decide;
  if (!given(d.ready)) return 0;
  const RowRange range = rows_of(job.resolved.geometry, b);
  int sure = 0;
#pragma unroll 1
  for (int64_t row = range.begin + threadIdx.x; row < range.end; row += blockDim.x) {
    const Place at = place_of(job.resolved.geometry, row);
    sure += at.b == b && is_open(d, at) && is_sure(job, b, row);
  }
  return block_sum(sure);
}

// only_sure: the ranking is restricted to them.
__device__ DLM_NOINLINE inline Standing rank_records(const RowsJob& job, const RuleParams& rule, int64_t b,
                                                     Ranked* ranked, bool only_sure = false) {
  const RowRecords& records = job.records;
  return rank_sequence(
      job.resolved.geometry, rule, b, job.op == RowsOp::kStep, ranked,
      [&](int64_t row, const Place& at) {
        const auto state = static_cast<RowState>(records.state[row]);
        const bool open = is_open(job.args.step.decide, at);
        if (state == kEligible && (!open || (only_sure && !is_sure(job, b, row)))) {
          return Verdict{kPassed, 0, open};
        }
        if (!open) return Verdict{state, 0, false};
        return Verdict{state, state == kEligible ? rank_key(rule.rule, records.key[row], records.entropy[row]) : 0.0};
      },
      [&](int64_t row) { return records.value[row]; },
      [&](int64_t row) { return static_cast<double>(records.entropy[row]); });
}

// Edits the filled rows of a sequence. Returns how many are open again: a model may draw the mask token itself.
__device__ inline int edit_rows(const RowsJob& job, int64_t b, const Standing& rows) {
  const Resolved& r = job.resolved;
  const DecideParams& d = job.args.step.decide;
  const RowRange range = rows_of(r.geometry, b);
  const int64_t end = may_edit(d, b, rows.open) ? range.end : range.begin;
  int edited = 0, reopened = 0;
#pragma unroll 1
  for (int64_t row = range.begin + threadIdx.x; row < end; row += blockDim.x) {
    const Place at = place_of(r.geometry, row);
    if (at.b != b || job.records.state[row] != kEligible || is_open(d, at)) continue;
    const int64_t token = load_int(job.args.step.out.tokens, d.x.dtype, row);
    if (!is_edit(d, r.conf_dtype, at, token, job.records.value[row])) continue;
    store_edited(d, r.geometry, row, true);
    reopened += commit(d, at, token, job.records.gain[row]);
    ++edited;
  }
  edited = block_sum(edited);  // and all have asked whether they may
  reopened = block_sum(reopened);
  if (threadIdx.x == 0) finish_edits(d, b, rows.open, rows.filled, edited);
  return reopened;
}

__device__ inline void commit_rows(const RowsJob& job, int64_t b, Ranked* ranked) {
  const StepArgs& step = job.args.step;
  const int sure = count_sure(job, b);
  DLM_SHARED(Room<RuleParams>, room, );
  RuleParams& rule = room.value();
  if (threadIdx.x == 0) {
    rule = rule_params(job.resolved, step.decide, b);
    if (given(step.decide.ready)) rule = among_ready(rule, sure);
  }
  __syncthreads();
  Standing rows = rank_records(job, rule, b, ranked, sure > 0);
  if (step.decide.edit.on) rows.open += edit_rows(job, b, rows);
  commit_ranked(step.decide, b, ranked, rows, step.out.unmask, [&](int64_t row, const Place& at) {
    return commit(step.decide, at, load_int(step.out.tokens, step.decide.x.dtype, row), job.records.gain[row]);
  });
}

// How many positions of the sequence are closed for good.
__device__ inline int64_t num_committed(const DecideParams& d, int64_t b) {
  int count = 0;
  if (!given(d.committed)) return 0;
#pragma unroll 1
  for (int64_t p = threadIdx.x; p < d.x.shape[1]; p += blockDim.x) count += flag_at(d.committed, Place{b, p});
  return block_sum(count);
}

// Accepted rows take their draw, the others noise.
__device__ inline void renoise_rows(const RowsJob& job, int64_t b, Ranked* ranked) {
  const RenoiseArgs& a = job.args;
  const DecideParams& d = a.step.decide;
  const int64_t support = noise_support(job.resolved.vocab, a.mask_id);
  DLM_SHARED(Room<RuleParams>, room, );
  RuleParams& rule = room.value();
  const int64_t committed = num_committed(d, b);
  if (threadIdx.x == 0) {
    rule = rule_params(job.resolved, d, b);
    rule.quota = max_of<int64_t>(0, max_of<int64_t>(0, rule.quota) - committed);
  }
  __syncthreads();
  const Standing rows = rank_records(job, rule, b, ranked);
  int changed = 0;
#pragma unroll 1
  for (int64_t r = threadIdx.x; r < rows.eligible; r += blockDim.x) {
    const int64_t row = ranked[r].row;
    const Place at = {b, ranked[r].position};
    const bool accepted = r < rows.accepted;
    const double u = row_uniform(a.step.draw, job.resolved.geometry, row, at, kStreamNoise, 1);
    const int64_t token = accepted ? load_int(a.step.out.tokens, d.x.dtype, row) : noise_token(u, support, a.mask_id);
    changed |= update_argmax(a, row, at);
    renoise(a, row, at, accepted, token, job.records.gain[row]);
  }
  changed = block_max(changed);
  // Every warp adds them up, rank by rank in 32 lanes: the same sum in a block of any size.
  double entropy = 0;
#pragma unroll 1
  for (int64_t r = threadIdx.x % kWarp; r < rows.eligible; r += kWarp) entropy += job.records.entropy[ranked[r].row];
  entropy = warp_reduce(entropy, [](double x, double y) { return x + y; });
  if (threadIdx.x != 0) return;
  update_done(a, b, rows.eligible, rows.bad, changed != 0, entropy);
  store_counts(job, b, rows.accepted, rows.bad);
}

__device__ inline void count_moves(const RowsJob& job, int64_t b) {
  const RowRange range = rows_of(job.resolved.geometry, b);
  int changed = 0, bad = 0;
#pragma unroll 1
  for (int64_t row = range.begin + threadIdx.x; row < range.end; row += blockDim.x) {
    if (place_of(job.resolved.geometry, row).b != b) continue;
    changed += job.records.state[row] == kChanged;
    bad += job.records.state[row] == kBad;
  }
  changed = block_sum(changed);
  bad = block_sum(bad);
  if (threadIdx.x == 0) store_counts(job, b, changed, bad);
}

// `ranked` as in rank_sequence; transitions rank nothing.
__device__ inline void finish_sequence(const RowsJob& job, int64_t b, Ranked* ranked) {
  if (job.op == RowsOp::kStep) commit_rows(job, b, ranked);
  if (job.op == RowsOp::kRenoise) renoise_rows(job, b, ranked);
  if (job.op == RowsOp::kTransition) count_moves(job, b);
}

// One thread calls for each finished row of a transition, whose sequences have nothing to decide: arrivals, changes and
// bad rows are counted as they come, in one number, and the last to come tells.
__device__ DLM_NOINLINE inline void count_move(const RowsJob& job, RowState state, int64_t b, int64_t rows) {
  constexpr int kBits = kMoveCountBits;
  using Counts = unsigned long long;  // arrivals, changed, bad
  const Counts mine = 1 + (Counts{state == kChanged} << kBits) + (Counts{state == kBad} << (2 * kBits));
  Counts* const counts = reinterpret_cast<Counts*>(job.sequence_counts) + b;
  const Counts all = atomicAdd(counts, mine) + mine, ones = (Counts{1} << kBits) - 1;
  if ((all & ones) != static_cast<Counts>(rows)) return;
  atomicExch(counts, 0);
  store_counts(job, b, static_cast<int64_t>(all >> kBits & ones), static_cast<int64_t>(all >> (2 * kBits)));
}

// A row has been finished; the block that finishes the last one of a sequence finishes that, too. A call of its own, so
// that nothing of it is kept in registers before.
template <bool kMoves>
__device__ DLM_NOINLINE void finish_fused() {
  const RowJob& job = row_job();
  const int64_t b = job.at.b;
  if (b < 0) return;
  const int64_t rows = count_rows(job.resolved.geometry, b, b + 1);
  if constexpr (kMoves) {
    if (threadIdx.x == 2 * kWarp) count_move(job, job.state, b, rows);  // while the first two write
  } else {
    if (!last_to_arrive(job.sequence_counts + b, static_cast<unsigned>(rows))) return;
    DLM_DYNAMIC_SHARED(Ranked, ranked);
    finish_sequence(job, b, ranked);
  }
}

}  // namespace dlm::cuda
