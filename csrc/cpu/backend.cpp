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

int64_t token_on_canvas(const Array& x, const Place& at) {
  if (at.b < 0 || at.p < 0 || at.p >= x.shape[1]) return -1;
  return load_int(x.data, x.dtype, at.b * x.stride[0] + at.p * x.stride[1]);
}

// Brings the best `count` of n to the front. Only rules that look at values need the whole order.
void rank(Ranked* ranked, int64_t n, int64_t count) {
  if (count >= n) {
    std::sort(ranked, ranked + n, ranks_before);
  } else if (count > 0) {
    std::nth_element(ranked, ranked + count - 1, ranked + n, ranks_before);
  }
}

struct Counts {
  int64_t committed = 0, open = 0, bad = 0;
};

// Rank, accept and commit the eligible rows of one sequence; `eligible` are at scratch.ranked + offset[b].
template <class Token>
Counts commit_sequence(const DecideParams& d, const RuleParams& rule, const Scratch& scratch, int64_t b,
                       int64_t eligible, bool* committed, Token token) {
  Ranked* const ranked = scratch.ranked + scratch.offset[b];
  rank(ranked, eligible, rule.rule == kTopK ? min_of(rule.quota, eligible) : eligible);
  Counts out;
  out.committed = accept(
      rule, eligible, [&](int64_t i) { return scratch.value[ranked[i].row]; },
      [&](int64_t i) { return scratch.entropy[ranked[i].row]; });
  out.open = scratch.offset[b + 1] - scratch.offset[b] - out.committed;
  for (int64_t i = 0; i < out.committed; ++i) {
    const int64_t row = ranked[i].row;
    committed[row] = true;
    out.open += commit(d, Place{b, ranked[i].position}, token(row));
  }
  return out;
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
    a.argmax[row] = good ? s.argmax : -1;
    a.max[row] = good ? s.max : -kInfinity;
    a.second[row] = good ? s.second : -kInfinity;
    a.logsumexp[row] = good ? static_cast<float>(log_sum_exp(s, job.law.beta)) : -kInfinity;
    a.rest[row] = good ? static_cast<float>(s.rest) : 0;
    a.entropy[row] = good ? static_cast<float>(entropy(s)) : 0;
    a.bad[row] = !good;
    const int64_t token =
        given(a.given) ? static_cast<const int64_t*>(a.given.data)[row_offset(r.geometry, a.given, row)] : -1;
    const bool known = good && token >= 0 && token < r.vocab;
    a.p_given[row] =
        known ? static_cast<float>(1 / (1 + odds_against(s, token, logit_at(job.source, token), job.law.beta))) : 0;
  };
  for_each_row(kernels, executor, scratch, r.geometry.num_rows, r.vocab, make, finish);
}

void draw_tokens(const DrawArgs& a, const Resolved& r, const dlm_executor* executor, const Scratch& scratch) {
  const KernelTable& kernels = active_kernels();
  const Geometry& g = r.geometry;
  const Drawer drawer(a.sweep, a.draw, r, true);
  prepare_excluded(a.sweep, scratch);
  const auto store = [&](int64_t row, const DrawnRow& drawn, bool bad) {
    a.tokens[row] = drawn.token;
    a.confidence[row] = static_cast<float>(drawn.score.value);
    a.key[row] = drawn.score.key;
    a.logprob[row] = drawn.logprob;
    a.entropy[row] = drawn.entropy;
    a.bad[row] = bad;
  };
  int64_t real = 0;
  for_each_place(g, [&](int64_t row, const Place& at) {
    if (at.b >= 0) {
      scratch.candidate[real++] = row;
    } else {
      store(row, DrawnRow{}, false);  // padding
    }
  });
  for_each_row(
      kernels, executor, scratch, real, r.vocab,
      [&](int64_t i) { return drawer.job(scratch, scratch.candidate[i], place_of(g, scratch.candidate[i])); },
      [&](int64_t i, const RowJob& job, const ChunkStats* chunks) {
        const int64_t row = scratch.candidate[i];
        const DrawnRow drawn = drawer.finish(kernels, job, chunks, row, place_of(g, row));
        store(row, drawn, !drawn.good);
      });
}

void denoise_step(const StepArgs& a, const Resolved& r, const dlm_executor* executor, const Scratch& scratch) {
  const KernelTable& kernels = active_kernels();
  const Geometry& g = r.geometry;
  const DecideParams& d = a.decide;
  const int64_t batch = d.x.shape[0];
  const Drawer drawer(a.sweep, a.draw, r, r.rule == kEntropyBudget);
  prepare_excluded(a.sweep, scratch);
  for_each_place(g, [&](int64_t row, const Place& at) {
    store_int(a.tokens, d.x.dtype, row, token_on_canvas(d.x, at));
    a.confidence[row] = -kInfinity;
    a.committed[row] = false;
  });
  const int64_t count = group_candidates(g, d, scratch);
  for_each_row(
      kernels, executor, scratch, count, r.vocab,
      [&](int64_t i) { return drawer.job(scratch, scratch.candidate[i], place_of(g, scratch.candidate[i])); },
      [&](int64_t i, const RowJob& job, const ChunkStats* chunks) {
        const int64_t row = scratch.candidate[i];
        const DrawnRow drawn = drawer.finish(kernels, job, chunks, row, place_of(g, row));
        scratch.good[row] = drawn.good;
        if (!drawn.good) return;
        store_int(a.tokens, d.x.dtype, row, drawn.token);
        a.confidence[row] = static_cast<float>(drawn.score.value);
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
    RuleParams rule;
    rule.rule = r.rule;
    rule.conf_dtype = r.conf_dtype;
    rule.strict = d.strict;
    rule.level = d.level;
    rule.quota = int_at(d.quota, b);
    const Counts counts = commit_sequence(d, rule, scratch, b, eligible, a.committed,
                                          [&](int64_t row) { return load_int(a.tokens, d.x.dtype, row); });
    a.num_committed[b] = counts.committed;
    a.num_open[b] = counts.open;
    a.num_bad[b] = bad;
  }
}

void topk_unmask(const UnmaskArgs& a, const Resolved& r, const dlm_executor*, const Scratch& scratch) {
  const Geometry& g = r.geometry;
  const DecideParams& d = a.decide;
  const int64_t batch = d.x.shape[0];
  std::fill(a.committed, a.committed + g.num_rows, false);
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
    RuleParams rule;
    rule.quota = int_at(d.quota, b);
    const Counts counts = commit_sequence(d, rule, scratch, b, eligible, a.committed, [&](int64_t row) {
      return load_int(a.tokens.data, d.x.dtype, row_offset(g, a.tokens, row));
    });
    a.num_committed[b] = counts.committed;
    a.num_open[b] = counts.open;
    a.num_bad[b] = bad;
  }
}

}  // namespace dlm::cpu
