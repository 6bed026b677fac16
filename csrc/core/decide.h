// Rules: which of a sequence's eligible positions to commit. A rule accepts a prefix of one ranking, so it is a count;
// one that looks at a position's neighbours ranks what it chose before the rest, and is a count again. To add one: a
// name here, its branch in `joins` (or `chosen_in_run`), python_ref/decide.py, and a class in dlm_kernels/rules.py.
#pragma once

#include "dtype.h"

namespace dlm {

enum Rule : int32_t {
  kTopK = 0,
  kThreshold = 1,
  kFactor = 2,
  kEntropyBudget = 3,
  kEntropyThreshold = 4,
  kBudgetByConfidence = 5,
  kSegmentMax = 6,
  kNumRules = 7
};

inline const char* rule_name(int32_t rule) {
  const char* const names[] = {"topk",           "threshold",         "factor",
                               "entropy_budget", "entropy_threshold", "entropy_budget_by_confidence",
                               "segment_max"};
  return names[rule];
}

struct RuleParams {
  int32_t rule = kTopK;
  int32_t conf_dtype = kFloat32;
  bool strict = true;
  double level = 0;   // tau | f | bound
  double low = 0;     // within of threshold | low of segment_max
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

// Canvas order.
DLM_HD bool stands_before(const Ranked& a, const Ranked& b) { return a.position < b.position; }

// These rank on entropy whatever the confidence is.
DLM_HD bool ranks_on_entropy(int32_t rule) { return rule == kEntropyBudget || rule == kEntropyThreshold; }
DLM_HD bool needs_entropy(int32_t rule) { return ranks_on_entropy(rule) || rule == kBudgetByConfidence; }
DLM_HD bool sees_neighbours(int32_t rule) { return rule == kSegmentMax; }

DLM_HD double rank_key(int32_t rule, float key, float entropy) { return ranks_on_entropy(rule) ? -entropy : key; }

// `level` as a tensor of the values' dtype compares with a Python scalar.
DLM_HD double level_among(const RuleParams& p, double level) { return round_to(p.conf_dtype, level); }

// The level that a threshold asks for, where the best value is `best`: dInfer lowers it to just below that.
DLM_HD double threshold_level(const RuleParams& p, double best) {
  const double tau = level_among(p, p.level);
  if (p.low == 0) return tau;
  const double within = round_to(p.conf_dtype == kFloat64 ? kFloat64 : kFloat32, p.low);  // the scalar of a torch op
  return min_of(tau, level_among(p, best - within));
}

DLM_HD bool exceeds(const RuleParams& p, double value, double tau) { return p.strict ? value > tau : value >= tau; }

// A position's turn to join, all before it in the ranking having joined.
struct Turn {
  int64_t rank = 0;
  double value = 0, entropy = 0;
  double best = 0;                // the first one's value
  double spent = 0, largest = 0;  // of the entropies before: their sum, and the largest
};

DLM_HD bool joins(const RuleParams& p, const Turn& t) {
  switch (p.rule) {
    case kThreshold: return exceeds(p, t.value, threshold_level(p, t.best));
    case kFactor:  // Fast-dLLM: rank n of 1, 2, ... joins while its confidence is at least 1 - f / (n + 1)
      return t.rank == 0 || t.value >= level_among(p, 1 - p.level / static_cast<double>(t.rank + 2));
    case kEntropyBudget:
    case kBudgetByConfidence:  // EB-sampler: sum of entropies, this one too, minus the largest
      return (t.entropy >= t.largest ? t.spent : t.spent + t.entropy - t.largest) <= p.level;
    case kEntropyThreshold: return p.strict ? t.entropy < p.level : t.entropy <= p.level;  // d3LLM
    default: return false;  // unreachable: validate.h rejects other names
  }
}

// A threshold that counts only ready positions is a top-k: of the `sure` ones, which are ready and above tau, or where
// there is none, of at_least among all. KLASS.
DLM_HD bool is_sure(const RuleParams& p, bool ready, double value) {
  return ready && exceeds(p, value, level_among(p, p.level));
}
DLM_HD RuleParams among_ready(RuleParams p, int64_t sure) {
  p.rule = kTopK;
  if (sure > 0) p.quota = sure;
  return p;
}

// How many of n eligible positions are committed, when the first `joined` of the ranking join.
DLM_HD int64_t settle(const RuleParams& p, int64_t n, int64_t joined) {
  const bool at_least = p.rule == kThreshold || p.rule == kEntropyThreshold;
  return at_least && joined < p.quota ? min_of(p.quota, n) : joined;
}

// Top-k asks nobody.
DLM_HD int64_t first_of(const RuleParams& p, int64_t n) { return max_of<int64_t>(0, min_of(p.quota, n)); }

// The whole rule, position by position. value(r) and entropy(r) give the r-th ranked of n eligible ones.
template <class Value, class Entropy>
DLM_HD int64_t accept(const RuleParams& p, int64_t n, Value value, Entropy entropy) {
  if (p.rule == kTopK) return first_of(p, n);
  Turn turn;
  for (; turn.rank < n; ++turn.rank) {
    turn.value = value(turn.rank);
    turn.entropy = entropy(turn.rank);
    if (turn.rank == 0) turn.best = turn.value;
    if (!joins(p, turn)) break;
    turn.spent += turn.entropy;
    turn.largest = max_of(turn.largest, turn.entropy);
  }
  return settle(p, n, turn.rank);
}

// The segment maximum, dInfer's: in a run of neighbouring positions those that hold its largest value, if that is above
// `low`; also everything above tau.
DLM_HD bool chosen_in_run(const RuleParams& p, double value, double largest) {
  return value > level_among(p, p.level) || (value == largest && value > level_among(p, p.low));
}

// Whether a run of neighbouring positions begins with the i-th in canvas order.
DLM_HD bool begins_run(const Ranked* standing, int64_t i) {
  return i == 0 || standing[i].position != standing[i - 1].position + 1;
}

// Decides the run that begins with the i-th of n positions in canvas order: the chosen ones, and the row that is the
// best of the sequence, get the key 1 and all others 0. Returns how many are chosen.
template <class Value>
DLM_HD int64_t choose_in_run(const RuleParams& p, Ranked* standing, int64_t i, int64_t n, int64_t best_row,
                             Value value) {
  double largest = value(standing[i].row);
  int64_t end = i + 1, count = 0;
  for (; end < n && !begins_run(standing, end); ++end) largest = max_of(largest, value(standing[end].row));
  for (; i < end; ++i) {
    const bool chosen = standing[i].row == best_row || chosen_in_run(p, value(standing[i].row), largest);
    standing[i].key = chosen ? 1 : 0;
    count += chosen;
  }
  return count;
}

}  // namespace dlm
