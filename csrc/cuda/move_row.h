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

// What the position holds, in the law of these logits.
template <class Source>
__device__ DLM_NOINLINE Current held_here(const RowJob& job, const void* logits, Cutoff cutoff) {
  return held(job, Source(job, logits), token_on_canvas(job.args.step.decide.x, job.at), cutoff);
}

// One thread's work, as in score_row.
__device__ DLM_NOINLINE inline Route route_of(const RowJob& job, RowStats stats, Current current) {
  const Resolved& r = job.resolved;
  const double u = row_uniform(job.args.step.draw, r.geometry, job.row, job.at, kStreamRoute, 0);
  return choose_route(transition_of(job, job.at), job.args.mask_id, r, job.law, stats, current, u);
}

// The token that a route leads to. `drawn`: where the model's does; of redraws the noise's too.
__device__ DLM_NOINLINE inline int64_t moved_to(const RowJob& job, Route route, int64_t current, int64_t drawn) {
  const Resolved& r = job.resolved;
  const int64_t mask_id = job.args.mask_id;
  if (route == kModel || (route == kNoise && r.redraw != kNoRedraw)) return drawn;
  if (route == kRemask) return mask_id;
  if (route != kNoise) return current;
  const double u = row_uniform(job.args.step.draw, r.geometry, job.row, job.at, kStreamNoise, 2);
  return noise_token(u, noise_support(r.vocab, mask_id), mask_id);
}

// One thread's work.
template <class Source>
__device__ DLM_NOINLINE void store_move(const RowJob& job, RowStats stats, Route route, Current current, Current now) {
  const StepArgs& step = job.args.step;
  const RowLaw& law = job.law;
  store_moved(job.transition_out, step.decide.x, job.row, now.token, route, probability(stats, current, law.beta),
              probability(stats, now, law.beta));
  job.records.state[job.row] = now.token == current.token ? kEligible : kChanged;
  TraceEvent event;
  event.before = current.token;
  event.after = now.token;
  event.by_noise = route != kModel;
  if (route == kModel) {
    event.committed = is_mask(now.token, job.args.mask_id) ? -1 : now.token;
    event.gain = trace_gain(job, Source(job), law, stats, job.at, now, cutoff_of(cuts(job)));
  }
  write(step.decide, job.at, event);
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

// What its partials tell; max -inf: it is bad.
template <class Source>
__device__ DLM_NOINLINE RowStats outline_of(const RowJob& job) {
  const Resolved& r = job.resolved;
  const Source source(job);
  const Partial* const parts = job.parts + job.row * num_chunks(r.vocab);
  const Finisher<Source> finisher(source, r.vocab, job.law, parts, cuts(job), cuts(job));
  return finisher.bad() ? RowStats{} : finisher.outline();
}

// The token that the model's route draws: another one than x_t; -1 if there is none. Likewise a call.
template <class Source>
__device__ DLM_NOINLINE int64_t draw_other(const RowJob& job, Current current) {
  const Resolved& r = job.resolved;
  const Source source(job);
  const Partial* const parts = job.parts + job.row * num_chunks(r.vocab);
  Finisher<Source> finisher(source, r.vocab, job.law, parts, cuts(job), cuts(job));
  if (current.token >= 0 && current.token < r.vocab) finisher.leave_out(current.token, current.z, parts);
  return finisher.draw(row_uniform(job.args.step.draw, r.geometry, job.row, job.at, kStreamDraw, 1));
}

// The block that completes the row calls. Most rows need no more than the sums of their chunks: the winning one is read
// again where the law is greedy, or where the one token that has more than half of it is asked about.
template <class Source>
__device__ DLM_NOINLINE void finish_move(const RowJob& job) {
  const RowLaw& law = job.law;
  DLM_SHARED(int, chosen, );  // one thread's findings: all go the same way, whatever becomes of the canvas meanwhile
  DLM_SHARED(float, z, );
  DLM_SHARED(int64_t, token, );
  if (threadIdx.x == 0) {
    const Current found = held_here<Source>(job, job.logits, cutoff_of(cuts(job)));
    token = found.token, z = found.z;
  }
  RowStats stats = outline_of<Source>(job);  // all threads meet
  if (stats.max == -kInfinity) {
    if (threadIdx.x == 0) store_unread(job, job.row, job.at, kBad);
    return;
  }
  const Current current = {token, z};
  const bool sharp = stats.rest < 1, exact = !(law.draw_beta > 0) || (sharp && current.z == stats.max);
  if (exact) stats = stats_of<Source>(job, job.logits);
  if (threadIdx.x == 0) chosen = route_of(job, stats, current);
  __syncthreads();
  Route route = static_cast<Route>(chosen);
  int64_t drawn = stats.argmax;
  if (route == kModel && law.draw_beta > 0) drawn = draw_other<Source>(job, current);
  if (route == kModel && (drawn < 0 || drawn == current.token)) route = kStay;
  const int64_t next = moved_to(job, route, current.token, drawn);
  const Current now = held(job, Source(job), next, cutoff_of(cuts(job)));
  if (sharp && !exact && now.z == stats.max) stats = stats_of<Source>(job, job.logits);
  if (threadIdx.x == 0) store_move<Source>(job, stats, route, current, now);
}

}  // namespace dlm::cuda
