// KL(p || q) between the laws of two rows, from one read of both: KLASS asks how much a position's law still moves.
// Sums are about the maximum of their own row, so that rows which agree give 0 exactly, and parts of rows merge as
// RowStats do.
#pragma once

#include "validate.h"

namespace dlm {

struct Divergence {
  float max, other_max;
  double mass, other_mass;  // of exp((z - max) * beta), and of the other row
  double cross;             // of exp((z - max) * beta) * ((z - max) - (y - other_max)) * beta
  int32_t bad;              // a NaN or +inf in either
  int32_t escaped;          // a token of p that q does not have: the divergence is infinite
};

DLM_HD Divergence of_nothing() { return {-kInfinity, -kInfinity, 0, 0, 0, 0, 0}; }

// The same part about larger maxima.
DLM_HD Divergence about(const Divergence& d, float max, float other_max, double beta) {
  Divergence out = d;
  out.max = max;
  out.other_max = other_max;
  const double fall = d.max == -kInfinity ? 0 : (static_cast<double>(d.max) - max) * beta;
  const double other_fall = d.other_max == -kInfinity ? 0 : (static_cast<double>(d.other_max) - other_max) * beta;
  const double scale = exp_d(fall);
  out.mass = scale * d.mass;
  out.other_mass = exp_d(other_fall) * d.other_mass;
  out.cross = scale > 0 ? scale * (d.cross + (fall - other_fall) * d.mass) : 0;
  return out;
}

DLM_HD Divergence merge(const Divergence& a, const Divergence& b, double beta) {
  const float max = max_of(a.max, b.max), other_max = max_of(a.other_max, b.other_max);
  const Divergence p = about(a, max, other_max, beta), q = about(b, max, other_max, beta);
  return {max,
          other_max,
          p.mass + q.mass,
          p.other_mass + q.other_mass,
          p.cross + q.cross,
          p.bad | q.bad,
          p.escaped | q.escaped};
}

// NaN, +inf, or no finite logit, in either row.
DLM_HD bool is_bad(const Divergence& d) { return d.bad != 0 || d.max == -kInfinity || d.other_max == -kInfinity; }

DLM_HD double divergence(const Divergence& d) {  // nats; never below 0 by rounding
  if (is_bad(d) || d.escaped != 0) return kInfinity;
  return max_of(0.0, d.cross / d.mass - log_d(d.mass) + log_d(d.other_mass));
}

DLM_HD bool is_asked_for(const DivergenceArgs& a, const Geometry& g, int64_t row) {
  return !given(a.wanted) || bool_at(a.wanted, row_offset(g, a.wanted, row));
}

// A row nobody asked for is taken to have stayed as it was.
DLM_HD void store(const DivergenceOutputs& out, int64_t row, bool asked, const Divergence& d) {
  out.kl[row] = asked ? static_cast<float>(divergence(d)) : 0;
  out.bad[row] = asked && is_bad(d);
}

}  // namespace dlm
