// One position: write the draw. Kept apart from decide so that edit, renoise and the trace join here.
#pragma once

#include "draw.h"

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

// Returns whether the position is still open: a model may draw the mask token itself.
DLM_HD bool commit(const DecideParams& d, const Place& at, int64_t token) {
  store_int(d.x.data, d.x.dtype, at.b * d.x.stride[0] + at.p * d.x.stride[1], token);
  return token == d.mask_id;
}

}  // namespace dlm
