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

}  // namespace

int64_t accept_ranked(const RuleParams& rule, const Ranking& ranking, const Scratch& scratch) {
  const int64_t n = ranking.eligible;
  Ranked* const ranked = ranking.ranked;
  rank(ranked, n, rule.rule == kTopK ? min_of(rule.quota, n) : n);
  return accept(
      rule, n, [&](int64_t i) { return scratch.value[ranked[i].row]; },
      [&](int64_t i) { return scratch.entropy[ranked[i].row]; });
}

}  // namespace dlm::cpu
