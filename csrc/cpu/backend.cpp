#include "backend.h"

#include <algorithm>

#include "../core/edit.h"
#include "candidates.h"
#include "draw.h"
#include "steps.h"

namespace dlm::cpu {
namespace {

// Writes the ranked rows of a sequence that the rule accepts. write(row, place): whether the position is open then.
template <class Write>
void commit_sequence(const DecideParams& d, const RuleParams& rule, const Scratch& scratch, int64_t b,
                     const Ranking& ranking, const UnmaskOutputs& out, Write write) {
  const int64_t committed = accept_ranked(rule, ranking, scratch);
  int64_t open = ranking.open;
  for (int64_t i = 0; i < committed; ++i) {
    const Place at = {b, ranking.ranked[i].position};
    const int64_t row = ranking.ranked[i].row;
    out.committed[row] = true;
    open -= is_open(d, at);
    open += write(row, at);
  }
  out.num_committed[b] = committed;
  out.num_open[b] = d.has_mask ? open : 0;
  out.num_bad[b] = ranking.bad;
}

// Where only ready positions count: the rule that this comes down to, and the ranking it is for.
RuleParams rank_ready(const DecideParams& d, const Resolved& r, const RuleParams& rule, const Scratch& scratch,
                      Ranking* ranking) {
  if (!given(d.ready)) return rule;
  Ranked* const end = std::partition(ranking->ranked, ranking->ranked + ranking->eligible, [&](const Ranked& each) {
    return is_sure(rule, is_ready(d, r.geometry, each.row), scratch.value[each.row]);
  });
  const int64_t sure = end - ranking->ranked;
  if (sure > 0) ranking->eligible = sure;
  return among_ready(rule, sure);
}

// Edits the filled rows of a sequence. Returns how many are open again: a model may draw the mask token itself.
int64_t edit_sequence(const StepArgs& a, const Resolved& r, const Scratch& scratch, int64_t b, const Ranking& ranking) {
  const DecideParams& d = a.decide;
  int64_t edited = 0, reopened = 0;
  for (int64_t i = scratch.offset[b]; may_edit(d, b, ranking.open) && i < scratch.offset[b + 1]; ++i) {
    const int64_t row = scratch.candidate[i], token = load_int(a.out.tokens, d.x.dtype, row);
    const Place at = place_of(r.geometry, row);
    if (is_open(d, at) || !scratch.good[row] || !is_edit(d, r.conf_dtype, at, token, scratch.value[row])) continue;
    store_edited(d, r.geometry, row, true);
    reopened += commit(d, at, token, scratch.gain[row]);
    ++edited;
  }
  finish_edits(d, b, ranking.open, ranking.filled, edited);
  return reopened;
}

}  // namespace

void row_stats(const RowStatsArgs& a, const Resolved& r, const dlm_executor* executor, const Scratch& scratch) {
  const KernelTable& kernels = active_kernels();
  prepare_excluded(a.sweep, scratch);
  const auto make = [&](int64_t row) {
    RowJob job;
    job.source = row_source(kernels, a.sweep, r.geometry, scratch, row);
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
  const Drawer drawer(a.sweep, a.draw, nullptr, r, true);
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
      [&](int64_t i) { return drawer.job(kernels, scratch, scratch.candidate[i], place_of(g, scratch.candidate[i])); },
      [&](int64_t i, RowJob& job, ChunkStats* chunks) {
        const int64_t row = scratch.candidate[i];
        RowStats stats;
        const DrawnRow drawn = drawer.finish(kernels, &job, chunks, row, place_of(g, row), &stats);
        store(a.out, row, drawn, !drawn.good);
      });
}

void denoise_step(const StepArgs& a, const Resolved& r, const dlm_executor* executor, const Scratch& scratch) {
  const DecideParams& d = a.decide;
  draw_candidates(a, r, needs_entropy(r.rule), executor, scratch,
                  [&](int64_t row, const Place& at, const RowJob& job, const RowStats& stats, const DrawnRow& drawn) {
                    scratch.gain[row] = trace_gain(d.trace, job.source, r.vocab, job.law, stats, at, drawn.token);
                  });
  for (int64_t row = 0; row < r.geometry.num_rows; ++row) store_edited(d, r.geometry, row, false);
  for (int64_t b = 0; b < d.x.shape[0]; ++b) {
    Ranking ranking = rank_drawn(r, d, scratch, b);
    if (d.edit.on) ranking.open += edit_sequence(a, r, scratch, b, ranking);
    const RuleParams rule = rank_ready(d, r, rule_params(r, d, b), scratch, &ranking);
    commit_sequence(d, rule, scratch, b, ranking, a.out.unmask, [&](int64_t row, const Place& at) {
      return commit(d, at, load_int(a.out.tokens, d.x.dtype, row), scratch.gain[row]);
    });
  }
}

void topk_unmask(const UnmaskArgs& a, const Resolved& r, const dlm_executor*, const Scratch& scratch) {
  const Geometry& g = r.geometry;
  const DecideParams& d = a.decide;
  std::fill(a.out.committed, a.out.committed + g.num_rows, false);
  group_candidates(g, d, scratch);
  for (int64_t b = 0; b < d.x.shape[0]; ++b) {
    Ranking ranking(scratch, b);
    for (int64_t i = scratch.offset[b]; i < scratch.offset[b + 1]; ++i) {
      const int64_t row = scratch.candidate[i];
      const Place at = place_of(g, row);
      const bool open = is_open(d, at);
      ranking.count(open);
      if (open == a.remask) continue;
      const double key = unmask_key(a, g, row);
      if (key != key) {
        ++ranking.bad;
      } else if (may_rank(a, key)) {
        ranking.add(key, at.p, row);
      }
    }
    commit_sequence(d, rule_params(r, d, b), scratch, b, ranking, a.out,
                    [&](int64_t row, const Place& at) { return unmask(a, g, row, at); });
  }
}

}  // namespace dlm::cpu
