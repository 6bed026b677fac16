// What the names and shapes of valid arguments resolve to: made by validate.h, read by every backend.
#pragma once

#include "confidence.h"
#include "decide.h"
#include "geometry.h"

namespace dlm {

struct Resolved {
  Geometry geometry;
  int64_t vocab = 0;
  int32_t confidence = kProb;
  bool from_sampled = false;
  int32_t conf_dtype = kFloat32;
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
  p.quota = int_at(d.quota, b);
  return p;
}

}  // namespace dlm
