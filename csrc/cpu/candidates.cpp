#include "candidates.h"

#include <algorithm>

namespace dlm::cpu {

int64_t group_candidates(const Geometry& g, const DecideParams& d, const Scratch& scratch) {
  const int64_t batch = d.x.shape[0];
  std::fill(scratch.offset, scratch.offset + batch + 1, 0);
  if (!g.packed) {  // dense rows come grouped
    int64_t n = 0;
    for_each_place(g, [&](int64_t row, const Place& at) {
      if (is_candidate(d, at)) scratch.candidate[n++] = row;
      scratch.offset[at.b + 1] = n;
    });
    return n;
  }
  for_each_place(g, [&](int64_t, const Place& at) { scratch.offset[at.b + 1] += at.b >= 0 && is_candidate(d, at); });
  for (int64_t b = 0; b < batch; ++b) scratch.offset[b + 1] += scratch.offset[b];
  const int64_t total = scratch.offset[batch];
  for_each_place(g, [&](int64_t row, const Place& at) {
    if (is_candidate(d, at)) scratch.candidate[scratch.offset[at.b]++] = row;
  });
  for (int64_t b = batch; b > 0; --b) scratch.offset[b] = scratch.offset[b - 1];
  scratch.offset[0] = 0;
  return total;
}

namespace {

// Brings the best `count` of n to the front. Only rules that look at values need the whole order.
void rank(Ranked* ranked, int64_t n, int64_t count) {
  if (count >= n) {
    std::sort(ranked, ranked + n, ranks_before);
  } else if (count > 0) {
    std::nth_element(ranked, ranked + count - 1, ranked + n, ranks_before);
  }
}

// Of all n positions, ranked; what is accepted comes first again.
int64_t accept_among_neighbours(const RuleParams& rule, Ranked* ranked, int64_t n, const Scratch& scratch) {
  if (n == 0) return 0;
  const int64_t best = ranked[0].row;
  int64_t chosen = 0;
  std::sort(ranked, ranked + n, stands_before);
  for (int64_t i = 0; i < n; ++i) {
    if (!begins_run(ranked, i)) continue;
    chosen += choose_in_run(rule, ranked, i, n, best, [&](int64_t row) { return scratch.value[row]; });
  }
  rank(ranked, n, n);
  return chosen;
}

}  // namespace

int64_t accept_ranked(const RuleParams& rule, const Ranking& ranking, const Scratch& scratch) {
  const int64_t n = ranking.eligible;
  Ranked* const ranked = ranking.ranked;
  rank(ranked, n, rule.rule == kTopK ? min_of(rule.quota, n) : n);
  if (sees_neighbours(rule.rule)) return accept_among_neighbours(rule, ranked, n, scratch);
  return accept(
      rule, n, [&](int64_t i) { return scratch.value[ranked[i].row]; },
      [&](int64_t i) { return scratch.entropy[ranked[i].row]; });
}

}  // namespace dlm::cpu
