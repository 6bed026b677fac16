// The cutoff: which tokens of a row's law may be drawn. Top-k, top-p and min-p each keep a prefix of ONE total order of
// the tokens, logit descending and then index ascending, so together they keep the shortest of the prefixes, and a
// row's filter comes down to the last token kept. To add a filter: its prefix here, and python_ref/cutoff.py.
#pragma once

#include "dtype.h"

namespace dlm {

// Of one sequence.
struct Filter {
  int64_t top_k = 0;           // 0: off
  double top_p = 1;            // 1: off
  double min_p = 0;            // of the largest probability; 0: off
  bool top_k_first = true;     // top_p counts the mass that top_k left (transformers, LLaDA2); else all of it (Dream)
  bool drop_crossing = false;  // ReMDM: the token whose mass crosses top_p goes too, unless it is the first
  bool keep_ties = false;      // transformers: all that tie with the k-th largest logit stay

  DLM_HD bool on() const { return top_k > 0 || top_p < 1 || min_p > 0; }
};

// The last token kept. Tokens of mass 0 are never drawn, whatever it is.
struct Cutoff {
  float z = -kInfinity;
  int64_t index = INT64_MAX;
};

DLM_HD bool keeps(const Cutoff& c, float z, int64_t index) { return z > c.z || (z == c.z && index <= c.index); }

// Whether a token stays by top_p alone: `before` is the mass of the tokens that precede it, `through` with its own,
// both of `total`. The first always stays.
DLM_HD bool within_top_p(const Filter& f, double before, double through, double total) {
  return before == 0 || (f.drop_crossing ? through : before) <= f.top_p * total;
}

// Whether a token stays by min_p alone. `max`: the largest logit; beta: 1 / T.
DLM_HD bool within_min_p(const Filter& f, float z, float max, double beta) {
  return !(f.min_p > 0) || (static_cast<double>(z) - max) * beta >= log_d(f.min_p);
}

// What both keep.
DLM_HD Cutoff shorter(const Cutoff& a, const Cutoff& b) { return keeps(a, b.z, b.index) ? b : a; }

// Where min_p alone cuts: at a float next to its threshold, with or without that.
DLM_HD Cutoff min_p_cutoff(const Filter& f, float max, double beta) {
  if (!(f.min_p > 0)) return {};
  const float z = static_cast<float>(max_of(-static_cast<double>(kFloatMax), max + log_d(f.min_p) / beta));
  return {z, within_min_p(f, z, max, beta) ? INT64_MAX : -1};
}

}  // namespace dlm
