// A transition of one row: its route, and its new token. Only the rows that follow the model read anything again.
#pragma once

#include "../core/redraw.h"
#include "draw_row.h"

namespace dlm::cuda {

// The mask is no token of the law, whatever its logit is.
template <class Source>
__device__ Current held(const RowsJob& job, const Source& source, int64_t token, const Cutoff& cutoff) {
  if (is_mask(token, job.args.mask_id)) return {token, -kInfinity};
  return holding(source, token, job.resolved.vocab, cutoff);
}

__device__ inline Transition transition_of(const RowsJob& job, const Place& at) {
  const Coefficients& c = job.coefficients;
  return c.is_row ? transition_from(c.row) : transition_at(c.array, at);
}

// One thread's work, as in score_row.
template <class Source>
__device__ DLM_NOINLINE Route route_of(const RowJob& job, RowStats stats) {
  const Resolved& r = job.resolved;
  const StepArgs& step = job.args.step;
  const Place& at = job.at;
  const Source source(job);
  const double u = row_uniform(step.draw, r.geometry, job.row, at, kStreamRoute, 0);
  const Current current = held(job, source, token_on_canvas(step.decide.x, at), cutoff_of(cuts(job)));
  return choose_route(transition_of(job, at), job.args.mask_id, r, job.law, stats, current, u);
}

// Likewise. `drawn`: what the model's route leads to, -1 if it has nothing but x_t to offer; of redraws the noise's
// too.
template <class Source>
__device__ DLM_NOINLINE void store_move(const RowJob& job, RowStats stats, Route route, int64_t drawn) {
  const Resolved& r = job.resolved;
  const StepArgs& step = job.args.step;
  const int64_t mask_id = job.args.mask_id;
  const int64_t row = job.row;
  const Place& at = job.at;
  const RowLaw& law = job.law;
  const Source source(job);
  const Cutoff cutoff = cutoff_of(cuts(job));
  const Current current = held(job, source, token_on_canvas(step.decide.x, at), cutoff);
  if (route == kModel && (drawn < 0 || drawn == current.token)) route = kStay;
  int64_t token = route == kModel ? drawn : route == kRemask ? mask_id : current.token;
  if (route == kNoise && r.redraw != kNoRedraw) {
    token = drawn;
  } else if (route == kNoise) {
    const double u = row_uniform(step.draw, r.geometry, row, at, kStreamNoise, 2);
    token = noise_token(u, noise_support(r.vocab, mask_id), mask_id);
  }
  const Current now = held(job, source, token, cutoff);
  store_moved(job.transition_out, step.decide.x, row, token, route, probability(stats, current, law.beta),
              probability(stats, now, law.beta));
  job.records.state[row] = token == current.token ? kEligible : kChanged;
  TraceEvent event;
  event.before = current.token;
  event.after = token;
  event.by_noise = route != kModel;
  if (route == kModel) {
    event.committed = is_mask(token, mask_id) ? -1 : token;
    event.gain = trace_gain(job, source, law, stats, at, now, cutoff);
  }
  write(step.decide, at, event);
}

// Of a row that has been swept, and cut where there are filters; argmax < 0: it is bad. A call: no more of a row is
// kept in registers than this.
template <class Source>
__device__ DLM_NOINLINE RowStats stats_of(const RowJob& job, const void* logits) {
  const Resolved& r = job.resolved;
  const Source source(job, logits);
  const Partial* const parts = job.parts + job.row * num_chunks(r.vocab);
  const Finisher<Source> finisher(source, r.vocab, job.law, parts, cuts(job), cuts(job));
  return finisher.bad() ? RowStats{} : finisher.stats();
}

// The block that completes the row calls.
template <class Source>
__device__ DLM_NOINLINE void finish_move(const RowJob& job) {
  const Resolved& r = job.resolved;
  const int64_t row = job.row;
  const Place& at = job.at;
  const RowStats stats = stats_of<Source>(job, job.logits);
  if (stats.argmax < 0) {
    if (threadIdx.x == 0) store_unread(job, row, at, kBad);
    return;
  }
  DLM_SHARED(int, chosen, );  // one thread's choice: all go the same way, whatever becomes of the canvas meanwhile
  DLM_SHARED(int64_t, current, );
  if (threadIdx.x == 0) {
    chosen = route_of<Source>(job, stats);
    current = token_on_canvas(job.args.step.decide.x, at);
  }
  __syncthreads();
  const Route route = static_cast<Route>(chosen);
  int64_t drawn = stats.argmax;
  const RowLaw& law = job.law;
  if (route == kModel && law.draw_beta > 0) {
    const Source source(job);
    const Partial* const parts = job.parts + row * num_chunks(r.vocab);
    Finisher<Source> finisher(source, r.vocab, law, parts, cuts(job), cuts(job));
    if (current >= 0 && current < r.vocab) finisher.leave_out(current);
    drawn = finisher.draw(row_uniform(job.args.step.draw, r.geometry, row, at, kStreamDraw, 1));
  }
  if (threadIdx.x == 0) store_move<Source>(job, stats, route, drawn);
}

}  // namespace dlm::cuda
