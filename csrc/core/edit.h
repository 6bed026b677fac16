// Token editing, beside the rule that fills masks: a filled position takes its draw where that is another token and
// confident enough. LLaDA2.1's T2T, which diffusers' BlockRefinementScheduler and SGLang's JointThreshold have too.
#pragma once

#include "commit.h"

namespace dlm {

// Whether a sequence that has so many open positions may edit in this step.
DLM_HD bool may_edit(const DecideParams& d, int64_t b, int64_t open) {
  return open > 0 || !given(d.edit.left) ||
         static_cast<const int64_t*>(d.edit.left.data)[b * d.edit.left.stride[0]] > 0;
}

// Whether a filled position takes its draw; `value` is the confidence of that, of `conf_dtype`.
DLM_HD bool is_edit(const DecideParams& d, int32_t conf_dtype, const Place& at, int64_t token, double value) {
  return token != token_on_canvas(d.x, at) && value > round_to(conf_dtype, d.edit.level);
}

DLM_HD void store_edited(const DecideParams& d, const Geometry& g, int64_t row, bool edited) {
  const Array& flags = d.edit.edited;
  if (given(flags)) static_cast<bool*>(flags.data)[row_offset(g, flags, row)] = edited;
}

// The end of a sequence's step, at whose start it had so many open and filled positions.
DLM_HD void finish_edits(const DecideParams& d, int64_t b, int64_t open, int64_t filled, int64_t num_edited) {
  const Array &left = d.edit.left, &count = d.edit.num_edited;
  if (given(count)) static_cast<int64_t*>(count.data)[b * count.stride[0]] = num_edited;
  if (!given(left) || open > 0 || filled == 0) return;
  int64_t* const steps = static_cast<int64_t*>(left.data) + b * left.stride[0];
  if (*steps > 0) --*steps;
}

}  // namespace dlm
