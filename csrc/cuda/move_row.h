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

// What the position holds, in the law of its other logits.
template <class Source>
__device__ DLM_NOINLINE Current held_by_other(Cutoff cutoff) {
  const RowJob& job = row_job();
  return held(job, Source(job, true), token_on_canvas(job.args.step.decide.x, job.at), cutoff);
}

// One thread's work, as in score_row.
__device__ DLM_NOINLINE inline Route route_of(const RowStats& stats, Current current) {
  const RowJob& job = row_job();
  const Resolved& r = job.resolved;
  return choose_route(transition_of(job, job.at), job.args.mask_id, r, job.law, stats, current, job.uniform);
}

// The token that a route leads to. `drawn`: where the model's does; of redraws the noise's too.
__device__ DLM_NOINLINE inline int64_t moved_to(Route route, int64_t current, int64_t drawn) {
  const RowJob& job = row_job();
  const Resolved& r = job.resolved;
  const int64_t mask_id = job.args.mask_id;
  if (route == kModel || (route == kNoise && r.redraw != kNoRedraw)) return drawn;
  if (route == kRemask) return mask_id;
  if (route != kNoise) return current;
  const double u = row_uniform(job.args.step.draw, r.geometry, job.row, job.at, kStreamNoise, 2);
  return noise_token(u, noise_support(r.vocab, mask_id), mask_id);
}

__device__ inline RowState moved_state(Current current, Current now) {
  return now.token == current.token ? kEligible : kChanged;
}

// One thread's work: what is told of a move.
__device__ DLM_NOINLINE inline void tell_move(const RowStats& stats, Route route, Current current, Current now) {
  const RowJob& job = row_job();
  const double p = probability(stats, current, job.law.beta);
  store_moved(job.transition_out, job.args.step.decide.x, job.row, now.token, route, p,
              now.token == current.token ? p : probability(stats, now, job.law.beta));
}

// One thread's work: the move.
template <class Source>
__device__ DLM_NOINLINE void write_move(const RowStats& stats, Route route, Current current, Current now) {
  const RowJob& job = row_job();
  const StepArgs& step = job.args.step;
  const RowLaw& law = job.law;
  job.records.state[job.row] = moved_state(current, now);
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

// Of the row at hand or its other logits, which have been swept, and cut where there are filters; argmax < 0: it is
// bad. A call: nothing of it is kept in registers.
template <class Source>
__device__ DLM_NOINLINE void find_stats(bool other = false) {
  RowJob& job = row_job();
  const Source source(job, other);
  const Finisher<Source> finisher(source, cuts(job));
  const RowStats found = finisher.bad() ? RowStats{} : finisher.stats();
  if (threadIdx.x == 0) job.stats = found;
  __syncthreads();
}

// What its partials tell, likewise; max -inf: it is bad.
template <class Source>
__device__ DLM_NOINLINE void find_outline() {
  RowJob& job = row_job();
  const Source source(job);
  const Finisher<Source> finisher(source, cuts(job));
  const RowStats found = finisher.bad() ? RowStats{} : finisher.outline();
  if (threadIdx.x == 0) job.stats = found;
  __syncthreads();
}

// The token that the model's route draws: another one than x_t; -1 if there is none. Likewise a call.
template <class Source>
__device__ DLM_NOINLINE int64_t draw_other(Current current) {
  const RowJob& job = row_job();
  const Resolved& r = job.resolved;
  const Source source(job);
  Finisher<Source> finisher(source, cuts(job));
  if (current.token >= 0 && current.token < r.vocab) finisher.leave_out(current.token, current.z);
  return finisher.draw(row_uniform(job.args.step.draw, r.geometry, job.row, job.at, kStreamDraw, 1));
}

// One thread's findings, in shared memory: all go the same way, whatever becomes of the canvas meanwhile, and those
// that read the row have the registers.
struct Move {
  alignas(16) Current before;
  alignas(16) Current after;
  Route chosen, taken;
};

// The block that completes the row calls; what became of it, job.state, is there for all of its threads then. Most rows
// need no more than the sums of their chunks: the winning one is read again where the law is greedy, or where the one
// token that has more than half of it is asked about.
template <class Source>
__device__ DLM_NOINLINE void finish_move() {
  RowJob& job = row_job();
  DLM_SHARED(Room<Move>, room, );
  Move& move = room.value();
  const bool finds = threadIdx.x == 0, draws = job.law.draw_beta > 0;
  if (finds) move.before = kept(job.before, cutoff_of(cuts(job)));
  find_outline<Source>();  // all threads meet
  if (job.stats.max == -kInfinity) {
    if (finds) store_unread(job, job.row, job.at, kBad);
    __syncthreads();
    return;
  }
  const bool sharp = job.stats.rest < 1, exact = !draws || (sharp && move.before.z == job.stats.max);
  if (exact) find_stats<Source>();
  if (finds) move.chosen = route_of(job.stats, move.before);
  __syncthreads();
  int64_t drawn = job.stats.argmax;
  if (move.chosen == kModel && draws) drawn = draw_other<Source>(move.before);
  if (finds) {
    const int64_t token = move.before.token;
    move.taken = move.chosen == kModel && (drawn < 0 || drawn == token) ? kStay : move.chosen;
    const int64_t next = moved_to(move.taken, token, drawn);
    move.after = next == token ? move.before : held(job, Source(job), next, cutoff_of(cuts(job)));
    job.state = moved_state(move.before, move.after);
  }
  __syncthreads();
  if (sharp && !exact && move.after.z == job.stats.max) find_stats<Source>();
  if (finds) write_move<Source>(job.stats, move.taken, move.before, move.after);
  if (threadIdx.x == kWarp) tell_move(job.stats, move.taken, move.before, move.after);  // meanwhile
}

}  // namespace dlm::cuda
