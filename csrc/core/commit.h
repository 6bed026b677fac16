// One position of a step: what is reported of it, and what is written.
#pragma once

#include "draw.h"
#include "trace.h"

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

// The only way a step changes the canvas: with the trace.
DLM_HD void write(const DecideParams& d, const Place& at, const TraceEvent& event) {
  if (given(d.trace.positions)) record(d.trace, int_at(d.trace.step, 0), at, event);
  store_int(d.x.data, d.x.dtype, at.b * d.x.stride[0] + at.p * d.x.stride[1], event.after);
}

// A draw that its sequence accepts. Returns whether the position is still open: a model may draw the mask token itself.
DLM_HD bool commit(const DecideParams& d, const Place& at, int64_t token, float gain) {
  const bool open = d.has_mask && token == d.mask_id;
  TraceEvent event;
  event.before = token_on_canvas(d.x, at);
  event.after = token;
  event.committed = open ? -1 : token;
  event.gain = gain;
  write(d, at, event);
  return open;
}

}  // namespace dlm
