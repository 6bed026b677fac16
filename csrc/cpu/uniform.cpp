// The steps in which a position may fall back to noise.
#include "backend.h"
#include "steps.h"

namespace dlm::cpu {
namespace {

int64_t num_committed(const DecideParams& d, int64_t b) {
  int64_t n = 0;
  for (int64_t p = 0; given(d.committed) && p < d.x.shape[1]; ++p) n += flag_at(d.committed, Place{b, p});
  return n;
}

// Accepted rows of the ranking take their draw, the others noise.
void renoise_sequence(const RenoiseArgs& a, const Resolved& r, const Scratch& scratch, int64_t b) {
  const StepArgs& s = a.step;
  const DecideParams& d = s.decide;
  const int64_t support = noise_support(r.vocab, a.mask_id);
  const Ranking ranking = rank_drawn(r, scratch, b);
  RuleParams rule = rule_params(r, d, b);
  rule.quota = max_of<int64_t>(0, rule.quota - num_committed(d, b));
  bool changed = false;
  double entropy = 0;
  for (int64_t i = scratch.offset[b]; i < scratch.offset[b + 1]; ++i) {
    const int64_t row = scratch.candidate[i];
    if (!scratch.good[row]) continue;
    changed |= update_argmax(a, row, place_of(r.geometry, row));
    entropy += scratch.entropy[row];
  }
  const int64_t accepted = accept_ranked(rule, ranking, scratch);
  for (int64_t i = 0; i < ranking.eligible; ++i) {
    const int64_t row = ranking.ranked[i].row;
    const Place at = {b, ranking.ranked[i].position};
    const int64_t token = i < accepted ? load_int(s.out.tokens, d.x.dtype, row)
                                       : noise_token(row_uniform(s.draw, r.geometry, row, at, kStreamNoise, 1),
                                                     support, a.mask_id);
    renoise(a, row, at, i < accepted, token, scratch.gain[row]);
  }
  update_done(a, b, ranking.eligible, ranking.bad, changed, entropy);
  s.out.unmask.num_committed[b] = accepted;
  s.out.unmask.num_open[b] = 0;
  s.out.unmask.num_bad[b] = ranking.bad;
}

// One candidate of transition_step_, from its finished chunks. Returns its new token, -1 if the row is bad.
int64_t move(const TransitionArgs& a, const Resolved& r, const KernelTable& k, const RowJob& job,
             const ChunkStats* chunks, int64_t row, const Place& at) {
  const Array& x = a.decide.x;
  const auto uniform = [&](Stream stream, int64_t column) {
    return row_uniform(a.draw, r.geometry, row, at, stream, column);
  };
  RowStats stats;
  if (!finish_row(k, job.source, r.vocab, job.law, chunks, &stats)) return -1;
  // The mask is no token of the law, whatever its logit is.
  const auto held = [&](int64_t token) {
    return token == a.mask_id ? Current{token, -kInfinity} : holding(job.source, token, r.vocab);
  };
  const Current current = held(token_on_canvas(x, at));
  Route route = choose_route(a.coefficients, a.mask_id, r, job.law, stats, at, current, uniform(kStreamRoute, 0));
  int64_t token = current.token;
  if (route == kModel) {
    token = job.law.draw_beta > 0
                ? draw_another(k, job.source, r.vocab, job.law, chunks, current.token, uniform(kStreamDraw, 1))
                : stats.argmax;
    if (token < 0) route = kStay, token = current.token;  // all others have underflowed
  } else if (route == kNoise) {
    token = noise_token(uniform(kStreamNoise, 2), noise_support(r.vocab, a.mask_id), a.mask_id);
  } else if (route == kRemask) {
    token = a.mask_id;
  }
  const Current now = held(token);
  store_moved(a.out, x, row, token, route, probability(stats, current, job.law.beta),
              probability(stats, now, job.law.beta));
  TraceEvent event;
  event.before = current.token;
  event.after = token;
  event.by_noise = route != kModel;
  event.committed = route == kModel ? token : -1;
  if (route == kModel) event.gain = trace_gain(a.decide.trace, job.source, r.vocab, job.law, stats, at, token);
  write(a.decide, at, event);
  return token;
}

}  // namespace

void renoise_step(const RenoiseArgs& a, const Resolved& r, const dlm_executor* executor, const Scratch& scratch) {
  const StepArgs& s = a.step;
  const Array &x = s.decide.x, &probs = a.state.probs;
  for_each_place(r.geometry, [&](int64_t row, const Place& at) {
    store_int(a.out.argmax, x.dtype, row, token_on_canvas(x, at));
    a.out.entropy[row] = 0;
  });
  draw_candidates(s, r, true, executor, scratch,
                  [&](int64_t row, const Place& at, const RowJob& job, const RowStats& stats, const DrawnRow& drawn) {
                    store_int(a.out.argmax, x.dtype, row, drawn.best);
                    a.out.entropy[row] = drawn.entropy;
                    scratch.gain[row] =
                        trace_gain(s.decide.trace, job.source, r.vocab, job.law, stats, at, drawn.best);
                    if (!given(probs)) return;
                    store_probabilities(active_kernels(), job.source, r.vocab, job.law, stats,
                                        static_cast<BFloat16*>(probs.data) + row_offset(r.geometry, probs, row));
                  });
  for (int64_t b = 0; b < x.shape[0]; ++b) renoise_sequence(a, r, scratch, b);
}

void transition_step(const TransitionArgs& a, const Resolved& r, const dlm_executor* executor, const Scratch& scratch) {
  const KernelTable& kernels = active_kernels();
  const Geometry& g = r.geometry;
  const Array& x = a.decide.x;
  prepare_excluded(a.sweep, scratch);
  for_each_place(g, [&](int64_t row, const Place& at) { store_unmoved(a.out, x, row, at); });
  const int64_t count = group_candidates(g, a.decide, scratch);
  bool* const changed = reinterpret_cast<bool*>(scratch.key);
  for_each_row(
      kernels, executor, scratch, count, r.vocab,
      [&](int64_t i) {
        const int64_t row = scratch.candidate[i];
        return RowJob{row_source(kernels, a.sweep, g, scratch, row),
                      row_law(float_at(a.sweep.temperature, place_of(g, row).b), true, false)};
      },
      [&](int64_t i, const RowJob& job, const ChunkStats* chunks) {
        const int64_t row = scratch.candidate[i];
        const Place at = place_of(g, row);
        const int64_t before = token_on_canvas(x, at), token = move(a, r, kernels, job, chunks, row, at);
        scratch.good[row] = token >= 0;
        changed[row] = token >= 0 && token != before;
      });
  for (int64_t b = 0; b < x.shape[0]; ++b) {
    a.out.num_changed[b] = a.out.num_bad[b] = 0;
    for (int64_t i = scratch.offset[b]; i < scratch.offset[b + 1]; ++i) {
      a.out.num_changed[b] += changed[scratch.candidate[i]];
      a.out.num_bad[b] += !scratch.good[scratch.candidate[i]];
    }
  }
}

void q_sample(const NoisingArgs& a, const Resolved& r) {
  const int64_t length = a.x.shape[1];
  for (int64_t b = 0; b < a.x.shape[0]; ++b) {
    for (int64_t p = 0; p < length; ++p) noise_position(a, r, Place{b, p});
  }
}

}  // namespace dlm::cpu
