// The end of a row that is drawn from, or only asked for its statistics: the outputs, and the records on which its
// sequence decides.
#pragma once

#include "../core/edit.h"
#include "probabilities.h"

namespace dlm::cuda {

__device__ inline RowLaw law_of(const RowsJob& job, float temperature) {
  RowLaw law = row_law(temperature, job.resolved.confidence_from, job.tilt);
  if (job.op == RowsOp::kRowStats) law.beta = inverse_temperature(temperature), law.draw_beta = 0;
  return law;
}

// A token in a law that has those up to `cutoff`; one that somebody asks about, and its logit there.
__device__ inline Current kept(const Current& c, const Cutoff& cutoff) {
  return {c.token, keeps(cutoff, c.z, c.token) ? c.z : -kInfinity};
}
template <class Source>
__device__ Current holding(const Source& source, int64_t token, int64_t vocab, const Cutoff& cutoff) {
  if (token < 0 || token >= vocab) return {token, -kInfinity};
  return kept({token, source.logit(token)}, cutoff);
}

// log p(now) - log p(what the trace has committed at this place).
template <class Source>
__device__ float trace_gain(const RowsJob& job, const Source& source, const RowLaw& law, const RowStats& stats,
                            const Place& at, const Current& now, const Cutoff& cutoff) {
  const Current before = holding(source, committed_token(job.args.step.decide.trace, at), job.resolved.vocab, cutoff);
  if (before.token < 0) return 0;
  return static_cast<float>(log_prob(stats, now.token, now.z, law.beta) -
                            log_prob(stats, before.token, before.z, law.beta));
}

// A row that is not read, or cannot be used.
__device__ inline void store_unread(const RowsJob& job, int64_t row, const Place& at, RowState state) {
  const StepArgs& step = job.args.step;
  const Array& x = step.decide.x;
  if (job.op == RowsOp::kDraw) {
    store(job.draw_out, row, DrawnRow{}, state == kBad);
    return;
  }
  job.records.state[row] = row_job().state = state;
  if (job.op == RowsOp::kTransition) {
    store_unmoved(job.transition_out, x, row, at);
    return;
  }
  store_skipped(step.out, x, row, at);
  store_edited(step.decide, job.resolved.geometry, row, false);
  if (job.op == RowsOp::kRenoise) {
    store_int(job.args.out.argmax, x.dtype, row, best_known(job.args, at));
    job.args.out.entropy[row] = 0;
  }
}

__device__ inline void store_drawn_row(const RowsJob& job, int64_t row, const DrawnRow& drawn) {
  if (job.op == RowsOp::kDraw) {
    store(job.draw_out, row, drawn, false);
    return;
  }
  const StepArgs& step = job.args.step;
  store_drawn(step.out, step.decide.x, row, drawn);
  step.out.unmask.committed[row] = false;
  store_edited(step.decide, job.resolved.geometry, row, false);
  job.records.state[row] = kEligible;
  job.records.value[row] = drawn.score.value;
  job.records.key[row] = drawn.score.key;
  job.records.entropy[row] = drawn.entropy;
  if (job.op == RowsOp::kRenoise) {
    store_int(job.args.out.argmax, step.decide.x.dtype, row, drawn.best);
    job.args.out.entropy[row] = drawn.entropy;
  }
}

// Scores and stores what was drawn. One thread calls, and its arithmetic is in double: a call of its own spares the
// others its registers.
template <class Source>
__device__ DLM_NOINLINE void score_row(RowStats stats, int64_t token) {
  const RowJob& job = row_job();
  const Resolved& r = job.resolved;
  const StepArgs& step = job.args.step;
  const Place& at = job.at;
  const RowLaw& law = job.law;
  const Source source(job);
  const Cutoff cutoff = cutoff_of(cuts_scores(job));
  if (token < 0) token = stats.argmax;
  const float z = token == stats.argmax ? stats.max : source.logit(token);
  const bool of_best = job.op == RowsOp::kRenoise;
  job.records.gain[job.row] =
      trace_gain(job, source, law, stats, at, {of_best ? stats.argmax : token, of_best ? stats.max : z}, cutoff);
  Current current;
  if (compares(r.confidence)) {
    const bool told = job.op == RowsOp::kDraw;
    current = holding(source, told ? given_token(step.draw, r.geometry, job.row) : token_on_canvas(step.decide.x, at),
                      r.vocab, cutoff);
  }
  store_drawn_row(job, job.row, score_draw(step.draw, r, law, stats, at, token, z, current));
}

// For the model that is fed with it. A call for the same reason.
template <class Source>
__device__ DLM_NOINLINE void store_law(RowStats stats) {
  const RowJob& job = row_job();
  const Array& probs = job.args.state.probs;
  const Source source(job);
  BFloat16* const out = static_cast<BFloat16*>(probs.data) + row_offset(job.resolved.geometry, probs, job.row);
  store_probabilities(source, job.resolved.vocab, job.law, stats, cuts_scores(job), out);
}

template <class Source>
__device__ void store_stats(const RowsJob& job, const Source& source, const RowLaw& law, const RowStats& stats,
                            int64_t row, bool good) {
  if (threadIdx.x != 0) return;
  const Current asked =
      holding(source, given_token(job.args.step.draw, job.resolved.geometry, row), job.resolved.vocab, {});
  const bool known = good && asked.token >= 0 && asked.token < job.resolved.vocab;
  store(job.stats_out, row, good, stats, law.beta, known ? probability(stats, asked, law.beta) : 0);
}

// The block that completes the row calls. A call of its own: inlined, its registers would crowd the sweep's.
template <class Source>
__device__ DLM_NOINLINE void finish_draw() {
  const RowJob& job = row_job();
  const int64_t row = job.row;
  const Place& at = job.at;
  const RowLaw& law = job.law;
  const Source source(job);
  const Finisher<Source> finisher(source, cuts_scores(job));
  const bool bad = finisher.bad(), draws = job.op != RowsOp::kRowStats;
  int64_t token = -1;
  if (!bad && law.draw_beta > 0) token = finisher.draw(job.uniform);
  RowStats stats;
  if (!bad) stats = finisher.stats();  // behind the draw, which needs the registers
  if (!draws) store_stats(job, source, law, stats, row, !bad);
  if (draws && bad && threadIdx.x == 0) store_unread(job, row, at, kBad);
  if (!draws || bad) return;
  if (threadIdx.x == 0) score_row<Source>(stats, token);
  if (given(job.args.state.probs)) store_law<Source>(stats);
}

}  // namespace dlm::cuda
