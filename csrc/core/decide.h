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

// value(r) and entropy(r) give the r-th ranked of n eligible positions, r from 0.
template <class Value, class Entropy>
DLM_HD int64_t accept(const RuleParams& p, int64_t n, Value value, Entropy entropy) {
  int64_t count = 0;
  switch (p.rule) {
    case kTopK: return min_of(p.quota, n);
    case kThreshold: {
      const double tau = round_to(p.conf_dtype, p.level);  // as a tensor of that dtype compares with a Python scalar
      while (count < n && (p.strict ? value(count) > tau : value(count) >= tau)) ++count;
      return count >= p.quota ? count : min_of(p.quota, n);
    }
    case kFactor:  // Fast-dLLM: rank r of r joins while its confidence is at least 1 - f / (r + 1); the first always
      while (count < n &&
             (count == 0 || value(count) >= round_to(p.conf_dtype, 1 - p.level / static_cast<double>(count + 2)))) {
        ++count;
      }
      return count;
    case kEntropyBudget: {  // EB-sampler: sum of entropies minus the largest, i.e. the sum of those ranked before
      double before = 0;
      while (count < n && before <= p.level) before += entropy(count++);
      return count;
    }
    default: return 0;  // unreachable: validate.h rejects other names
  }
}

}  // namespace dlm
