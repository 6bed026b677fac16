#include "backend.h"

#include <algorithm>

#include "../core/commit.h"
#include "draw.h"

namespace dlm::cpu {
namespace {

// Candidate rows of every sequence, grouped: packed rows may name sequences in any order.
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

// Brings the best `count` of n to the front. Only rules that look at values need the whole order.
void rank(Ranked* ranked, int64_t n, int64_t count) {
  if (count >= n) {
    std::sort(ranked, ranked + n, ranks_before);
  } else if (count > 0) {
    std::nth_element(ranked, ranked + count - 1, ranked + n, ranks_before);
  }
}

// Rank, accept and commit the eligible rows of one sequence; `eligible` are at scratch.ranked + offset[b].
template <class Token>
void commit_sequence(const DecideParams& d, const RuleParams& rule, const Scratch& scratch, int64_t b, int64_t eligible,
                     int64_t bad, const UnmaskOutputs& out, Token token) {
  Ranked* const ranked = scratch.ranked + scratch.offset[b];
  rank(ranked, eligible, rule.rule == kTopK ? min_of(rule.quota, eligible) : eligible);
  const int64_t committed = accept(
      rule, eligible, [&](int64_t i) { return scratch.value[ranked[i].row]; },
      [&](int64_t i) { return scratch.entropy[ranked[i].row]; });
  int64_t open = scratch.offset[b + 1] - scratch.offset[b] - committed;
  for (int64_t i = 0; i < committed; ++i) {
    const int64_t row = ranked[i].row;
    out.committed[row] = true;
    open += commit(d, Place{b, ranked[i].position}, token(row));
  }
  out.num_committed[b] = committed;
  out.num_open[b] = open;
  out.num_bad[b] = bad;
}

}  // namespace

void row_stats(const RowStatsArgs& a, const Resolved& r, const dlm_executor* executor, const Scratch& scratch) {
  const KernelTable& kernels = active_kernels();
  prepare_excluded(a.sweep, scratch);
  const auto make = [&](int64_t row) {
    RowJob job;
    job.source = row_source(a.sweep, r.geometry, scratch, row);
    job.law.tilt = true;
    job.law.beta = inverse_temperature(float_at(a.sweep.temperature, row / r.geometry.width));
    return job;
  };
  const auto finish = [&](int64_t row, const RowJob& job, const ChunkStats* chunks) {
    RowStats s;
    const bool good = finish_row(kernels, job.source, r.vocab, job.law, chunks, &s);
    const int64_t token =
        given(a.given) ? static_cast<const int64_t*>(a.given.data)[row_offset(r.geometry, a.given, row)] : -1;
    const bool known = good && token >= 0 && token < r.vocab;
    const double p_given = known ? 1 / (1 + odds_against(s, token, logit_at(job.source, token), job.law.beta)) : 0;
    store(a.out, row, good, s, job.law.beta, p_given);
  };
  for_each_row(kernels, executor, scratch, r.geometry.num_rows, r.vocab, make, finish);
}

void draw_tokens(const DrawArgs& a, const Resolved& r, const dlm_executor* executor, const Scratch& scratch) {
  const KernelTable& kernels = active_kernels();
  const Geometry& g = r.geometry;
  const Drawer drawer(a.sweep, a.draw, r, true);
  prepare_excluded(a.sweep, scratch);
  int64_t real = 0;
  for_each_place(g, [&](int64_t row, const Place& at) {
    if (at.b >= 0) {
      scratch.candidate[real++] = row;
    } else {
      store(a.out, row, DrawnRow{}, false);  // padding
    }
  });
  for_each_row(
      kernels, executor, scratch, real, r.vocab,
      [&](int64_t i) { return drawer.job(scratch, scratch.candidate[i], place_of(g, scratch.candidate[i])); },
      [&](int64_t i, const RowJob& job, const ChunkStats* chunks) {
        const int64_t row = scratch.candidate[i];
        const DrawnRow drawn = drawer.finish(kernels, job, chunks, row, place_of(g, row));
        store(a.out, row, drawn, !drawn.good);
      });
}

void denoise_step(const StepArgs& a, const Resolved& r, const dlm_executor* executor, const Scratch& scratch) {
  const KernelTable& kernels = active_kernels();
  const Geometry& g = r.geometry;
  const DecideParams& d = a.decide;
  const int64_t batch = d.x.shape[0];
  const Drawer drawer(a.sweep, a.draw, r, r.rule == kEntropyBudget);
  prepare_excluded(a.sweep, scratch);
  for_each_place(g, [&](int64_t row, const Place& at) { store_skipped(a.out, d.x, row, at); });
  const int64_t count = group_candidates(g, d, scratch);
  for_each_row(
      kernels, executor, scratch, count, r.vocab,
      [&](int64_t i) { return drawer.job(scratch, scratch.candidate[i], place_of(g, scratch.candidate[i])); },
      [&](int64_t i, const RowJob& job, const ChunkStats* chunks) {
        const int64_t row = scratch.candidate[i];
        const DrawnRow drawn = drawer.finish(kernels, job, chunks, row, place_of(g, row));
        scratch.good[row] = drawn.good;
        if (!drawn.good) return;
        store_drawn(a.out, d.x, row, drawn);
        scratch.value[row] = drawn.score.value;
        scratch.key[row] = drawn.score.key;
        scratch.entropy[row] = drawn.entropy;
      });
  for (int64_t b = 0; b < batch; ++b) {
    Ranked* const ranked = scratch.ranked + scratch.offset[b];
    int64_t eligible = 0, bad = 0;
    for (int64_t i = scratch.offset[b]; i < scratch.offset[b + 1]; ++i) {
      const int64_t row = scratch.candidate[i];
      if (!scratch.good[row]) {
        ++bad;
        continue;
      }
      ranked[eligible++] = {rank_key(r.rule, scratch.key[row], scratch.entropy[row]), place_of(g, row).p, row};
    }
    commit_sequence(d, rule_params(r, d, b), scratch, b, eligible, bad, a.out.unmask,
                    [&](int64_t row) { return load_int(a.out.tokens, d.x.dtype, row); });
  }
}

void topk_unmask(const UnmaskArgs& a, const Resolved& r, const dlm_executor*, const Scratch& scratch) {
  const Geometry& g = r.geometry;
  const DecideParams& d = a.decide;
  const int64_t batch = d.x.shape[0];
  std::fill(a.out.committed, a.out.committed + g.num_rows, false);
  group_candidates(g, d, scratch);
  for (int64_t b = 0; b < batch; ++b) {
    Ranked* const ranked = scratch.ranked + scratch.offset[b];
    int64_t eligible = 0, bad = 0;
    for (int64_t i = scratch.offset[b]; i < scratch.offset[b + 1]; ++i) {
      const int64_t row = scratch.candidate[i];
      const double key = load_double(a.confidence.data, a.confidence.dtype, row_offset(g, a.confidence, row));
      if (key != key) {
        ++bad;
      } else if (key != -kInfinity) {
        ranked[eligible++] = {key, place_of(g, row).p, row};
      }
    }
    commit_sequence(d, rule_params(r, d, b), scratch, b, eligible, bad, a.out,
                    [&](int64_t row) { return load_int(a.tokens.data, d.x.dtype, row_offset(g, a.tokens, row)); });
  }
}

}  // namespace dlm::cpu
