// A transition whose posterior is no finite mixture: when the statistics of a row are known, the block that finishes it
// reads it again, weighs every token and draws from the weights.
#pragma once

#include "../core/redraw.h"
#include "cut_row.h"
#include "move_row.h"

namespace dlm::cuda {

// Probabilities of a row's tokens, and their logarithms, which do not underflow.
struct RowShares {
  float max, scale;
  double beta, share, log_all;

  __device__ double of(float z) const { return exp2_approx((z - max) * scale) * share; }
  __device__ double log_of(float z) const { return (static_cast<double>(z) - max) * beta - log_all; }
};

__device__ inline RowShares shares_of(const RowStats& stats, const RowLaw& law) {
  return {stats.max, static_cast<float>(law.beta * kLog2e), law.beta, 1 / (1 + stats.rest), log1p_d(stats.rest)};
}

// All that weighing a token takes, and what is known of the row. In shared memory: those that read rows need the
// registers.
struct Weighing {
  alignas(16) RowStats stats;
  alignas(16) Cutoff cutoff;
  alignas(16) Cutoff other_cutoff;
  RedrawLaw law;
  RowShares cond, uncond;
  int64_t current, mask_id, vocab;

  __device__ bool weighs(int64_t token) const { return token != current && token != mask_id && token < vocab; }
};

// Calls: inlined, the logarithms and exponentials in double would be there for every logit of a vector.
__device__ DLM_NOINLINE inline double log_weight_of(const Weighing& w, float z, float z_other, int64_t token) {
  if (!w.weighs(token)) return -static_cast<double>(kInfinity);
  return log_weight(w.law, w.cond.log_of(z), w.uncond.log_of(z_other));
}
__device__ DLM_NOINLINE inline double weight_of(const Weighing& w, float z, float z_other, int64_t token) {
  if (w.law.kind == kGuidance) return exp_d(log_weight_of(w, z, z_other, token) - w.law.top);
  return w.weighs(token) ? weigh(w.law, w.cond.of(z)) : 0;
}

__device__ inline Posterior posterior_of(const RowsJob& job, const RowLaw& law, const RowStats& stats, const Place& at,
                                         const Current& current) {
  const int64_t mask_id = job.args.mask_id;
  const double support = static_cast<double>(noise_support(job.resolved.vocab, mask_id));
  const Transition t = transition_of(job, at);
  const double odds = odds_against(stats, current.token, current.z, law.beta);
  const double shifted = leave_one_out_odds(odds, t.evidence, support, job.resolved.tempered_after ? law.beta : 1);
  return posterior(t, odds, shifted, is_mask(current.token, mask_id), support);
}

// What is to be known of a law before any token is weighed; z is the logit of the current one. One thread's work, as in
// score_row.
__device__ DLM_NOINLINE inline void fill_side(const RowStats& stats, Current here, Posterior* posterior,
                                              RowShares* shares) {
  const RowJob& job = row_job();
  *posterior = posterior_of(job, job.law, stats, job.at, here);
  *shares = shares_of(stats, job.law);
}
__device__ DLM_NOINLINE inline void fill_ends(Current here, Weighing* weighing) {
  const RowJob& job = row_job();
  weighing->law.kind = job.resolved.redraw;
  weighing->law.level = job.level;
  weigh_ends(&weighing->law, transition_of(job, job.at), probability(weighing->stats, here, job.law.beta),
             static_cast<double>(noise_support(job.resolved.vocab, job.args.mask_id)));
  weighing->current = here.token;
  weighing->mask_id = job.args.mask_id;
  weighing->vocab = job.resolved.vocab;
}

// Of the other logits, which this block alone sweeps, in the space of the first.
template <class Source>
__device__ DLM_NOINLINE void find_other_stats() {
  const RowJob& job = row_job();
  const int vocab = static_cast<int>(job.resolved.vocab);
  const Source source(job, true);
  const Chunks all = {0, num_chunks(vocab)};
  Feed<Source> tiles(source, vocab, all, feed_space(cuts(job)));
  sweep_chunks<kPlain>(source, job.law, vocab, all, tiles, job.row_parts, job.row_maxima);
  __syncthreads();
  if (cuts(job)) cut_row<Source>(true);
  find_stats<Source>(true);
}

// Weighs every token of the row, and draws from the weights.
template <class Source>
__device__ DLM_NOINLINE void draw_weighed(Weighing* space) {
  RowJob& job = row_job();
  const Resolved& r = job.resolved;
  const StepArgs& step = job.args.step;
  const Place& at = job.at;
  const bool guided = r.redraw == kGuidance;
  Weighing& weighing = *space;
  const Cutoff &cutoff = weighing.cutoff, &other_cutoff = weighing.other_cutoff;
  const int64_t size = chunk_size(r.vocab);
  const int chunks = static_cast<int>(num_chunks(r.vocab));
  const Source source(job), other_source(job, true);
  const auto logit = [&](int64_t token) { return holding(source, token, r.vocab, cutoff).z; };
  const auto other_logit = [&](int64_t token) {
    return guided ? holding(other_source, token, r.vocab, other_cutoff).z : 0;
  };
  const auto weight = [&](float z, int64_t token) { return weight_of(weighing, z, other_logit(token), token); };
  if (guided) {
    double top = -kInfinity;
#pragma unroll 1
    for (int64_t i = threadIdx.x; i < r.vocab; i += kThreads) {
      top = max_of(top, log_weight_of(weighing, logit(i), other_logit(i), i));
    }
    top = block_reduce(top, [](double a, double b) { return max_of(a, b); });
    if (threadIdx.x == 0) set_top(&weighing.law, top);
    __syncthreads();
  }
  DLM_SHARED(double, mass, [kMaxChunks]);
  double others = 0;
#pragma unroll 1
  for (int c = 0; c < chunks; ++c) {
    const int64_t end = min_of((c + 1) * size, r.vocab);
    double sum = 0;
#pragma unroll 1
    for (int64_t i = c * size + threadIdx.x; i < end; i += kThreads) sum += weight(logit(i), i);
    sum = block_reduce(sum, [](double a, double b) { return a + b; });
    if (threadIdx.x == 0) mass[c] = sum;
    others += sum;
  }
  __syncthreads();

  Route route = pick_redraw(weighing.law, others, job.uniform);
  int64_t drawn = -1;
  if (route == kModel) {
    double left = others * row_uniform(step.draw, r.geometry, job.row, at, kStreamDraw, 1);
    int chosen = 0;
#pragma unroll 1
    for (int c = 0; c < chunks; ++c) {
      if (!(mass[c] > 0)) continue;
      chosen = c;
      if (left < mass[c]) break;
      left -= mass[c];
    }
    const Finisher<Source> finisher(source, cuts(job));
    drawn = finisher.invert(chosen * size, left, weight);
    if (threadIdx.x == 0 && drawn >= 0) {
      const double p = probability(weighing.stats, held(job, source, drawn, cutoff), job.law.beta);
      const double u = row_uniform(step.draw, r.geometry, job.row, at, kStreamNoise, 2);
      if (came_as_noise(weighing.law, p, u)) route = kNoise;
    }
  }
  if (threadIdx.x == 0) {
    const Current current = kept(job.before, cutoff);
    if (route == kModel && (drawn < 0 || drawn == current.token)) route = kStay;
    const Current now = held(job, source, moved_to(route, current.token, drawn), cutoff);
    job.state = moved_state(current, now);
    write_move<Source>(weighing.stats, route, current, now);
    tell_move(weighing.stats, route, current, now);
  }
  __syncthreads();
}

// The block that completes the row calls.
template <class Source>
__device__ DLM_NOINLINE void finish_redraw() {
  RowJob& job = row_job();
  const Resolved& r = job.resolved;
  const bool guided = r.redraw == kGuidance;
  DLM_SHARED(Room<Weighing>, room, );
  Weighing& weighing = room.value();
  find_stats<Source>();
  const Cutoff cutoff = cutoff_of(cuts(job));
  if (threadIdx.x == 0) {
    weighing.stats = job.stats;
    job.other_logits =
        guided ? Source::row_of(job.other, r.geometry, job.row, sequence_of(r.geometry, job.row)) : nullptr;
    weighing.cutoff = cutoff;
    weighing.other_cutoff = {};
  }
  bool bad = job.stats.argmax < 0;
  __syncthreads();
  if (guided && !bad) {
    find_other_stats<Source>();
    bad = job.stats.argmax < 0;
    if (cuts(job)) {
      const Cutoff other_cutoff = swap_cutoff(weighing.cutoff);
      if (threadIdx.x == 0) weighing.other_cutoff = other_cutoff;
    }
  }
  if (bad) {
    if (threadIdx.x == 0) store_unread(job, job.row, job.at, kBad);
    __syncthreads();
    return;
  }

  if (threadIdx.x == 0) {
    weighing.law = {};
    const Current here = kept(job.before, weighing.cutoff);
    fill_side(weighing.stats, here, &weighing.law.cond, &weighing.cond);
    if (guided) {
      Current there = held_by_other<Source>(weighing.other_cutoff);
      if (here.z == -kInfinity) there.z = -kInfinity;
      fill_side(job.stats, there, &weighing.law.uncond, &weighing.uncond);
    }
    fill_ends(here, &weighing);
  }
  __syncthreads();
  draw_weighed<Source>(&weighing);
}

}  // namespace dlm::cuda
