// One position: write the draw. Kept apart from decide so that edit, renoise and the trace join here.
#pragma once

#include "geometry.h"

namespace dlm {

// Returns whether the position is still open: a model may draw the mask token itself.
DLM_HD bool commit(const DecideParams& d, const Place& at, int64_t token) {
  store_int(d.x.data, d.x.dtype, at.b * d.x.stride[0] + at.p * d.x.stride[1], token);
  return token == d.mask_id;
}

}  // namespace dlm
