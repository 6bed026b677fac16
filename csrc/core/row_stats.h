// RowStats: what one read of a logits row leaves behind. A commutative monoid under `merge`, so that threads, warps,
// vocabulary chunks, LM-head tiles and tensor-parallel ranks all join by the same formula.
#pragma once

#include "params.h"

namespace dlm {

// Classifier-free guidance, u + (w + 1)(c - u) for weight = w + 1; two -inf stay -inf instead of NaN.
DLM_HD float combine(float c, float u, float weight) {
  return c == -kInfinity && u == -kInfinity ? -kInfinity : u + rounded_product(weight, c - u);
}

// One chunk under its confidence law (and, where that differs, its draw law), before the argmax is located: the hot
// loop only tracks the maximum. Sums are relative to `max`.
struct ChunkStats {
  float max = -kInfinity;  // largest logit of the chunk
  double mass = 0;         // sum of exp((z - max) * beta)
  double tilt = 0;         // sum of exp(d) * d with d = (z - max) * beta: what entropy needs
  double draw_mass = 0;    // mass under the draw law's beta
};

// The same chunk about a larger maximum: both laws' sums shrink, and every d moves by the same shift. A chunk at
// relative mass 0 contributes 0, not 0 * inf.
DLM_HD ChunkStats relative_to(const ChunkStats& c, float max, double beta, double draw_beta) {
  ChunkStats out;
  out.max = max;
  if (c.max == -kInfinity) return out;  // keeps -inf - -inf out of the formula
  const double shift = (static_cast<double>(c.max) - max) * beta;
  const double scale = exp_d(shift);
  out.mass = scale * c.mass;
  out.tilt = scale > 0 ? scale * (c.tilt + shift * c.mass) : 0;
  out.draw_mass = (draw_beta == beta ? scale : exp_d((static_cast<double>(c.max) - max) * draw_beta)) * c.draw_mass;
  return out;
}

struct RowStats {
  float max = -kInfinity;     // largest logit
  float second = -kInfinity;  // second largest; equals max on a tie
  int64_t argmax = -1;        // lowest index that attains max
  double rest = 0;            // sum of exp((z - max) * beta) WITHOUT the argmax: 1 - p = rest / (1 + rest), exactly
  double tilt = 0;            // as in ChunkStats; the argmax adds nothing to it
};

DLM_HD RowStats merge(const RowStats& a, const RowStats& b, double beta) {
  if (b.max == -kInfinity) return a;  // identity; also keeps -inf - -inf out of the formula
  if (a.max == -kInfinity) return b;
  const bool a_wins = a.max > b.max || (a.max == b.max && a.argmax < b.argmax);
  const RowStats& w = a_wins ? a : b;
  const RowStats& l = a_wins ? b : a;
  ChunkStats moved;
  moved.max = l.max;
  moved.mass = 1 + l.rest;
  moved.tilt = l.tilt;
  moved = relative_to(moved, w.max, beta, beta);
  RowStats out;
  out.max = w.max;
  out.argmax = w.argmax;
  out.second = max_of(w.second, l.max);
  out.rest = w.rest + moved.mass;
  out.tilt = w.tilt + moved.tilt;
  return out;
}

// A chunk that did not win: where its argmax lies inside it no longer matters, so its first index stands for it.
DLM_HD RowStats losing_chunk(const ChunkStats& c, int64_t begin) {
  RowStats s;
  s.max = c.max;
  s.argmax = begin;
  s.rest = c.mass - 1;
  s.tilt = c.tilt;
  return s;
}

DLM_HD bool is_bad_chunk(const ChunkStats& c) { return c.max == kInfinity || c.mass != c.mass; }

DLM_HD double log_sum_exp(const RowStats& s, double beta) { return s.max * beta + log1p_d(s.rest); }

DLM_HD double entropy(const RowStats& s) {  // nats; never below 0 by rounding
  return max_of(0.0, log1p_d(s.rest) - s.tilt / (1 + s.rest));
}

// sum_{j != t} exp((z_j - z_t) * beta) for a token t with logit z_t: p(t) = 1 / (1 + odds). For the argmax this is
// `rest`, free of cancellation; for any other token the sum holds the argmax, so it is >= 1 and subtracting 1 is safe.
DLM_HD double odds_against(const RowStats& s, int64_t token, float z_t, double beta) {
  if (z_t == -kInfinity)
    return kInfinity;  // also of an argmax, where it is a mask that the caller wants out of the law
  if (token == s.argmax) return s.rest;
  return (1 + s.rest) * exp_d((static_cast<double>(s.max) - z_t) * beta) - 1;
}

// log p(t), which stays finite where the odds overflow.
DLM_HD double log_prob(const RowStats& s, int64_t token, float z_t, double beta) {
  if (token == s.argmax && z_t > -kInfinity) return -log1p_d(s.rest);
  return (static_cast<double>(z_t) - s.max) * beta - log1p_d(s.rest);
}

// `p_given`: probability of the token asked about, 0 without one.
DLM_HD void store(const RowStatsOutputs& out, int64_t row, bool good, const RowStats& s, double beta, double p_given) {
  out.argmax[row] = good ? s.argmax : -1;
  out.max[row] = good ? s.max : -kInfinity;
  out.second[row] = good ? s.second : -kInfinity;
  out.logsumexp[row] = good ? static_cast<float>(log_sum_exp(s, beta)) : -kInfinity;
  out.rest[row] = good ? static_cast<float>(s.rest) : 0;
  out.entropy[row] = good ? static_cast<float>(entropy(s)) : 0;
  out.p_given[row] = good ? static_cast<float>(p_given) : 0;
  out.bad[row] = !good;
}

}  // namespace dlm
