// The steps in which a position may fall back to noise.
#include "backend.h"
#include "cutoff.h"
#include "redraw.h"
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
  const Ranking ranking = rank_drawn(r, d, scratch, b);
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
    const int64_t token =
        i < accepted ? load_int(s.out.tokens, d.x.dtype, row)
                     : noise_token(row_uniform(s.draw, r.geometry, row, at, kStreamNoise, 1), support, a.mask_id);
    renoise(a, row, at, i < accepted, token, scratch.gain[row]);
  }
  update_done(a, b, ranking.eligible, ranking.bad, changed, entropy);
  s.out.unmask.num_committed[b] = accepted;
  s.out.unmask.num_bad[b] = ranking.bad;
}

// A row of transition_step_ on its way from finished chunks to a token.
class Mover {
 public:
  Mover(const TransitionArgs& a, const Resolved& r, const KernelTable& k, const Scratch& scratch)
      : a_(a), r_(r), k_(k), scratch_(scratch), cond_(a.sweep), uncond_(a.sweep) {
    if (r.redraw != kGuidance) return;  // the posteriors are combined, not the logits
    cond_.uncond = Array{};
    uncond_.logits = uncond_.uncond;
    uncond_.uncond = Array{};
  }

  RowJob job(int64_t row) const {
    const int64_t b = place_of(r_.geometry, row).b;
    RowJob job;
    job.source = row_source(k_, cond_, r_.geometry, scratch_, row);
    job.law = row_law(float_at(a_.sweep.temperature, b), kSampled, false);
    job.filter = filter_of(a_.sweep, r_, b);
    return job;
  }

  // Returns the new token, -1 if the row is bad.
  int64_t move(RowJob& job, ChunkStats* chunks, int64_t row, const Place& at) const {
    RowStats stats;
    if (!filter_row(k_, &job.source, r_.vocab, job.law, job.filter, chunks, job.room, &stats)) return -1;
    const Current current = held(job.source, token_on_canvas(a_.decide.x, at));
    const Redrawn to = r_.redraw == kNoRedraw ? take_route(job, chunks, stats, row, at, current)
                                              : draw_again(job, chunks, stats, row, at, current);
    if (to.token < 0) return -1;
    const Current now = held(job.source, to.token);
    store_moved(a_.out, a_.decide.x, row, to.token, to.route, probability(stats, current, job.law.beta),
                probability(stats, now, job.law.beta));
    TraceEvent event;
    event.before = current.token;
    event.after = to.token;
    event.by_noise = to.route != kModel;
    if (to.route == kModel) {
      event.committed = is_mask(to.token, a_.mask_id) ? -1 : to.token;
      event.gain = trace_gain(a_.decide.trace, job.source, r_.vocab, job.law, stats, at, to.token);
    }
    write(a_.decide, at, event);
    return to.token;
  }

 private:
  // The mask is no token of the law, whatever its logit is.
  Current held(const RowSource& source, int64_t token) const {
    return is_mask(token, a_.mask_id) ? Current{token, -kInfinity} : holding(source, token, r_.vocab);
  }

  double uniform(int64_t row, const Place& at, Stream stream, int64_t column) const {
    return row_uniform(a_.draw, r_.geometry, row, at, stream, column);
  }

  Redrawn take_route(const RowJob& job, const ChunkStats* chunks, const RowStats& stats, int64_t row, const Place& at,
                     const Current& current) const {
    const Route route = choose_route(transition_at(a_.coefficients, at), a_.mask_id, r_, job.law, stats, current,
                                     uniform(row, at, kStreamRoute, 0));
    if (route == kRemask) return {route, a_.mask_id};
    if (route == kNoise) {
      const int64_t support = noise_support(r_.vocab, a_.mask_id);
      return {route, noise_token(uniform(row, at, kStreamNoise, 2), support, a_.mask_id)};
    }
    if (route == kModel) {
      const int64_t token = job.law.draw_beta > 0 ? draw_another(k_, job.source, r_.vocab, job.law, chunks,
                                                                 current.token, uniform(row, at, kStreamDraw, 1))
                                                  : stats.argmax;
      if (token >= 0 && token != current.token) return {route, token};  // else all others have underflowed
    }
    return {kStay, current.token};
  }

  Redrawn draw_again(const RowJob& job, const ChunkStats* chunks, const RowStats& stats, int64_t row, const Place& at,
                     const Current& current) const {
    RowSource uncond;
    if (r_.redraw == kGuidance) uncond = row_source(k_, uncond_, r_.geometry, scratch_, row);
    return redraw(a_, r_, k_, job, r_.redraw == kGuidance ? &uncond : nullptr, chunks, stats, at, current,
                  uniform(row, at, kStreamRoute, 0), uniform(row, at, kStreamDraw, 1),
                  uniform(row, at, kStreamNoise, 2));
  }

  const TransitionArgs& a_;
  const Resolved& r_;
  const KernelTable& k_;
  const Scratch& scratch_;
  SweepParams cond_, uncond_;
};

}  // namespace

void renoise_step(const RenoiseArgs& a, const Resolved& r, const dlm_executor* executor, const Scratch& scratch) {
  const StepArgs& s = a.step;
  const Array &x = s.decide.x, &probs = a.state.probs;
  for_each_place(r.geometry, [&](int64_t row, const Place& at) {
    store_int(a.out.argmax, x.dtype, row, best_known(a, at));
    a.out.entropy[row] = 0;
  });
  draw_candidates(s, r, true, executor, scratch,
                  [&](int64_t row, const Place& at, const RowJob& job, const RowStats& stats, const DrawnRow& drawn) {
                    store_int(a.out.argmax, x.dtype, row, drawn.best);
                    a.out.entropy[row] = drawn.entropy;
                    scratch.gain[row] = trace_gain(s.decide.trace, job.source, r.vocab, job.law, stats, at, drawn.best);
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
  const Mover mover(a, r, kernels, scratch);
  bool* const changed = reinterpret_cast<bool*>(scratch.key);
  for_each_row(
      kernels, executor, scratch, count, r.vocab, [&](int64_t i) { return mover.job(scratch.candidate[i]); },
      [&](int64_t i, RowJob& job, ChunkStats* chunks) {
        const int64_t row = scratch.candidate[i];
        const Place at = place_of(g, row);
        const int64_t before = token_on_canvas(x, at), token = mover.move(job, chunks, row, at);
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

void q_sample(const NoisingArgs& a, const Resolved& r, const dlm_executor* executor) {
  constexpr int64_t kPerTask = 2048;  // positions, 20 ns each
  const int64_t length = a.x.shape[1], positions = numel(a.x), tasks = (positions + kPerTask - 1) / kPerTask;
  std::atomic<int64_t> next{0};
  run_workers(executor, min_of<int64_t>(thread_count(executor), tasks), [&] {
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      for (int64_t i = task * kPerTask; i < min_of(positions, (task + 1) * kPerTask); ++i) {
        noise_position(a, r, Place{i / length, i % length});
      }
    }
  });
}

}  // namespace dlm::cpu
