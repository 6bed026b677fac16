// One position of a step: what is reported of it, and what is written.
#pragma once

#include "trace.h"
#include "transition.h"

namespace dlm {

// What a step reports of a row it does not commit: skipped, and drawn.
DLM_HD void store_skipped(const StepOutputs& out, const Array& x, int64_t row, const Place& at) {
  store_int(out.tokens, x.dtype, row, token_on_canvas(x, at));
  out.confidence[row] = -kInfinity;
  out.unmask.committed[row] = false;
}

DLM_HD void store_drawn(const StepOutputs& out, const Array& x, int64_t row, const DrawnRow& drawn) {
  store_int(out.tokens, x.dtype, row, drawn.token);
  out.confidence[row] = static_cast<float>(drawn.score.value);
}

// What transition_step_ reports of a row: not read or bad, and moved (or not).
DLM_HD void store_moved(const TransitionOutputs& out, const Array& x, int64_t row, int64_t token, Route route,
                        double p_current, double confidence) {
  store_int(out.tokens, x.dtype, row, token);
  out.route[row] = static_cast<uint8_t>(route);
  out.p_current[row] = static_cast<float>(p_current);
  out.confidence[row] = static_cast<float>(confidence);
}

DLM_HD void store_unmoved(const TransitionOutputs& out, const Array& x, int64_t row, const Place& at) {
  store_moved(out, x, row, token_on_canvas(x, at), kStay, 0, -kInfinity);
}

// The only way a step changes the canvas: with the trace.
DLM_HD_CALL void write(const DecideParams& d, Place at, TraceEvent event) {
  if (given(d.trace.positions)) record(d.trace, int_at(d.trace.step, 0), at, event);
  store_int(d.x.data, d.x.dtype, at.b * d.x.stride[0] + at.p * d.x.stride[1], event.after);
}

// A draw that its sequence accepts. Returns whether the position is still open: a model may draw the mask token itself.
DLM_HD bool commit(const DecideParams& d, const Place& at, int64_t token, float gain) {
  const bool open = d.has_mask && token == d.mask_id;
  TraceEvent event;
  if (given(d.trace.positions)) event.before = token_on_canvas(d.x, at);  // nobody else asks
  event.after = token;
  event.committed = open ? -1 : token;
  event.gain = gain;
  write(d, at, event);
  return open;
}

// Whether the caller calls a row's position ready.
DLM_HD bool is_ready(const DecideParams& d, const Geometry& g, int64_t row) {
  return bool_at(d.ready, row_offset(g, d.ready, row));
}

// What topk_unmask_ and remask_ rank a row by, higher first; NaN where the caller has no number.
DLM_HD double unmask_key(const UnmaskArgs& a, const Geometry& g, int64_t row) {
  const double confidence = load_double(a.confidence.data, a.confidence.dtype, row_offset(g, a.confidence, row));
  return a.remask ? -confidence : confidence;
}

// Whether the caller lets a row of this key be written at all.
DLM_HD bool may_rank(const UnmaskArgs& a, double key) { return key > (a.remask ? -a.below : -kInfinity); }

// Writes a row that is accepted: its token, or the mask where noise has its way. Returns whether the position is open.
DLM_HD bool unmask(const UnmaskArgs& a, const Geometry& g, int64_t row, const Place& at) {
  const DecideParams& d = a.decide;
  if (!a.remask) return commit(d, at, load_int(a.tokens.data, d.x.dtype, row_offset(g, a.tokens, row)), 0);
  TraceEvent event;
  if (given(d.trace.positions)) event.before = token_on_canvas(d.x, at);
  event.after = d.mask_id;
  event.by_noise = true;
  write(d, at, event);
  return true;
}

// A drawn row of renoise_step_ once its sequence has decided: it takes its draw, or `token` is noise. The trace follows
// the best token, since accepted ones are decided again in the next step.
DLM_HD void renoise(const RenoiseArgs& a, int64_t row, const Place& at, bool accepted, int64_t token, float gain) {
  const DecideParams& d = a.step.decide;
  TraceEvent event;
  event.before = token_on_canvas(d.x, at);
  event.after = token;
  event.by_noise = !accepted;
  event.committed = load_int(a.out.argmax, d.x.dtype, row);
  event.gain = gain;
  write(d, at, event);
  store_int(a.step.out.tokens, d.x.dtype, row, token);
  a.step.out.unmask.committed[row] = accepted;
  if (accepted && given(d.committed)) {
    static_cast<bool*>(d.committed.data)[at.b * d.committed.stride[0] + at.p * d.committed.stride[1]] = true;
  }
}

// The most probable token of a row that is not read: what it was, or else what the canvas holds.
DLM_HD int64_t best_known(const RenoiseArgs& a, const Place& at) {
  return token_on_canvas(given(a.state.argmax) ? a.state.argmax : a.step.decide.x, at);
}

// Brings the most probable canvas up to date. Returns whether it changes here.
DLM_HD bool update_argmax(const RenoiseArgs& a, int64_t row, const Place& at) {
  const Array& argmax = a.state.argmax;
  if (!given(argmax)) return false;
  const int64_t best = load_int(a.out.argmax, argmax.dtype, row),
                offset = at.b * argmax.stride[0] + at.p * argmax.stride[1];
  const bool changed = load_int(argmax.data, argmax.dtype, offset) != best;
  store_int(argmax.data, argmax.dtype, offset, best);
  return changed;
}

// Whether a sequence has come to rest, from what its `rows` good ones and its bad ones left. transformers'
// StableAndConfidentStoppingCriteria.
DLM_HD void update_done(const RenoiseArgs& a, int64_t b, int64_t rows, int64_t bad, bool changed, double entropy) {
  const Array &unchanged = a.state.unchanged, &done = a.step.decide.done;
  const int64_t offset = given(done) ? b * done.stride[0] : 0;
  bool rests = given(done) && bool_at(done, offset);
  if (rows + bad > 0) {
    int64_t steps = 0;  // of a first step
    if (given(unchanged)) {
      int64_t* const count = static_cast<int64_t*>(unchanged.data) + b * unchanged.stride[0];
      steps = *count = changed ? 0 : *count < INT64_MAX ? *count + 1 : *count;
    }
    const bool confident = bad == 0 && entropy / static_cast<double>(rows) < a.state.confident;
    rests = confident && steps >= a.state.stability;
    if (given(done)) static_cast<bool*>(done.data)[offset] = rests;
  }
  a.out.done[b] = rests;
}

}  // namespace dlm
