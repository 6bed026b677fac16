// Rules: how many of a sequence's eligible positions to commit. Every rule accepts a prefix of one ranking, so a rule
// is a count. To add one: a name here, its branch in `accept`, python_ref/decide.py, and a class in
// dlm_kernels/rules.py.
#pragma once

#include "dtype.h"

namespace dlm {

enum Rule : int32_t { kTopK = 0, kThreshold = 1, kFactor = 2, kEntropyBudget = 3, kNumRules = 4 };

inline const char* rule_name(int32_t rule) {
  const char* const names[] = {"topk", "threshold", "factor", "entropy_budget"};
  return names[rule];
}

struct RuleParams {
  int32_t rule = kTopK;
  int32_t conf_dtype = kFloat32;
  bool strict = true;
  double level = 0;   // tau | f | bound
  int64_t quota = 0;  // k | at_least, of this sequence
};

// An eligible position of a sequence, as it is ranked.
struct Ranked {
  double key;
  int64_t position;
  int64_t row;
};

// THE order: key descending, ties to the lowest canvas position.
DLM_HD bool ranks_before(const Ranked& a, const Ranked& b) {
  return a.key > b.key || (a.key == b.key && a.position < b.position);
}

// The entropy budget ranks on entropy whatever the confidence is.
DLM_HD double rank_key(int32_t rule, float key, float entropy) { return rule == kEntropyBudget ? -entropy : key; }

// Whether the r-th ranked position (from 0) joins, given that all before it did; `before` is the sum of their
// entropies.
DLM_HD bool joins(const RuleParams& p, int64_t r, double value, double before) {
  switch (p.rule) {
    case kTopK: return r < p.quota;
    case kThreshold: {
      const double tau = round_to(p.conf_dtype, p.level);  // as a tensor of that dtype compares with a Python scalar
      return p.strict ? value > tau : value >= tau;
    }
    case kFactor:  // Fast-dLLM: rank n of 1, 2, ... joins while its confidence is at least 1 - f / (n + 1)
      return r == 0 || value >= round_to(p.conf_dtype, 1 - p.level / static_cast<double>(r + 2));
    case kEntropyBudget: return before <= p.level;  // EB-sampler: sum of entropies minus the largest
    default: return false;                          // unreachable: validate.h rejects other names
  }
}

// How many of n eligible positions are committed, when the first `joined` of the ranking join.
DLM_HD int64_t settle(const RuleParams& p, int64_t n, int64_t joined) {
  return p.rule == kThreshold && joined < p.quota ? min_of(p.quota, n) : joined;
}

// The whole rule, position by position. value(r) and entropy(r) give the r-th ranked of n eligible ones.
template <class Value, class Entropy>
DLM_HD int64_t accept(const RuleParams& p, int64_t n, Value value, Entropy entropy) {
  if (p.rule == kTopK) return max_of<int64_t>(0, min_of(p.quota, n));
  int64_t joined = 0;
  double before = 0;
  while (joined < n && joins(p, joined, value(joined), before)) before += entropy(joined++);
  return settle(p, n, joined);
}

}  // namespace dlm
