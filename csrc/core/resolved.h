// What the names and shapes of valid arguments resolve to: made by validate.h, read by every backend.
#pragma once

#include "confidence.h"
#include "cutoff.h"
#include "decide.h"
#include "geometry.h"

namespace dlm {

struct Resolved {
  Geometry geometry;
  int64_t vocab = 0;
  int32_t confidence = kProb;
  int32_t confidence_from = kRaw;
  int32_t conf_dtype = kFloat32;
  bool top_k_first = true;
  int32_t rule = kTopK;
  bool tempered_after = false;  // of a transition: the leave-one-out shift acts first
  int32_t redraw = 0;           // Redraw
};

DLM_HD RuleParams rule_params(const Resolved& r, const DecideParams& d, int64_t b) {
  RuleParams p;
  p.rule = r.rule;
  p.conf_dtype = r.conf_dtype;
  p.strict = d.strict;
  p.level = d.level;
  p.low = d.low;
  p.quota = int_at(d.quota, b);
  return p;
}

DLM_HD bool has_filters(const SweepParams& s) { return given(s.top_k) || given(s.top_p) || given(s.min_p); }

// Of sequence b. On a device values come unchecked: what is out of range filters nothing, or leaves the argmax alone.
DLM_HD Filter filter_of(const SweepParams& s, const Resolved& r, int64_t b) {
  Filter f;
  if (given(s.top_k)) f.top_k = int_at(s.top_k, b);
  if (given(s.top_p)) f.top_p = double_at(s.top_p, b);
  if (given(s.min_p)) f.min_p = min_of(1.0, double_at(s.min_p, b));
  f.top_k_first = r.top_k_first;
  f.drop_crossing = s.drop_crossing;
  f.keep_ties = s.keep_ties;
  return f;
}

}  // namespace dlm
