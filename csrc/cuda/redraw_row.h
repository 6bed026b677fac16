// A transition whose posterior is no finite mixture: when the statistics of a row are known, the block that finishes it
// reads it again, weighs every token and draws from the weights.
#pragma once

#include "../core/redraw.h"
#include "move_row.h"

namespace dlm::cuda {

// Probabilities of a row's tokens, and their logarithms, which do not underflow.
struct RowShares {
  float max, scale;
  double beta, share, log_all;

  __device__ RowShares(const RowStats& stats, const RowLaw& law)
      : max(stats.max),
        scale(static_cast<float>(law.beta * kLog2e)),
        beta(law.beta),
        share(1 / (1 + stats.rest)),
        log_all(log1p_d(stats.rest)) {}
  __device__ double of(float z) const { return exp2_approx((z - max) * scale) * share; }
  __device__ double log_of(float z) const { return (static_cast<double>(z) - max) * beta - log_all; }
};

__device__ inline Posterior posterior_of(const RowsJob& job, const RowLaw& law, const RowStats& stats, const Place& at,
                                         const Current& current) {
  const int64_t mask_id = job.args.mask_id;
  const double support = static_cast<double>(noise_support(job.resolved.vocab, mask_id));
  const Transition t = transition_at(job.coefficients, at);
  const double odds = odds_against(stats, current.token, current.z, law.beta);
  const double shifted = leave_one_out_odds(odds, t.evidence, support, job.resolved.tempered_after ? law.beta : 1);
  return posterior(t, odds, shifted, is_mask(current.token, mask_id), support);
}

// What is to be known before any token is weighed: z, z_other are the logits of `token`, which the position holds. One
// thread's work, as in score_row.
__device__ DLM_NOINLINE inline void fill_weights(const RowsJob& job, int64_t row, RowStats stats, RowStats other,
                                                 int64_t token, float z, float z_other, RedrawLaw* weights) {
  const Place at = place_of(job.resolved.geometry, row);
  const RowLaw law = law_of(job, at);
  *weights = {};
  weights->kind = job.resolved.redraw;
  weights->level = job.level;
  weights->cond = posterior_of(job, law, stats, at, {token, z});
  if (weights->kind == kGuidance) weights->uncond = posterior_of(job, law, other, at, {token, z_other});
  weigh_ends(weights, transition_at(job.coefficients, at), probability(stats, {token, z}, law.beta),
             static_cast<double>(noise_support(job.resolved.vocab, job.args.mask_id)));
}

// The block that completes the row calls.
template <class Source>
__device__ DLM_NOINLINE void finish_redraw(const RowsJob& job, int64_t row) {
  const Resolved& r = job.resolved;
  const StepArgs& step = job.args.step;
  const int64_t mask_id = job.args.mask_id, size = chunk_size(r.vocab);
  const int chunks = static_cast<int>(num_chunks(r.vocab)), all = static_cast<int>(r.vocab);
  const int mine = static_cast<int>(threadIdx.x) * Source::kLogits;
  const bool guided = r.redraw == kGuidance;
  const Place at = place_of(r.geometry, row);
  const RowLaw law = law_of(job, at);
  Partial* const parts = job.parts + row * chunks * kWarps;
  const Source source(step.sweep, r.geometry, row);
  const Finisher<Source> finisher(source, r.vocab, law, parts);
  if (finisher.bad()) {
    if (threadIdx.x == 0) store_unread(job, row, at, kBad);
    return;
  }
  const RowStats stats = finisher.stats();

  // The other row is swept by this block alone, in the space of the first.
  const Source other_source(step.sweep, guided ? job.other : step.sweep.logits, r.geometry, row);
  RowStats other_stats;
  if (guided) {
    sweep_chunks<kPlain>(other_source, law, r.vocab, 0, chunks, parts);
    __syncthreads();
    const Finisher<Source> other(other_source, r.vocab, law, parts);
    if (other.bad()) {
      if (threadIdx.x == 0) store_unread(job, row, at, kBad);
      return;
    }
    other_stats = other.stats();
  }

  DLM_SHARED(RedrawLaw, weights, );
  DLM_SHARED(int64_t, current, );
  if (threadIdx.x == 0) {
    const Current here = held(job, source, token_on_canvas(step.decide.x, at));
    current = here.token;
    const float there = guided && here.z > -kInfinity ? other_source.logit(here.token) : -kInfinity;
    fill_weights(job, row, stats, other_stats, here.token, here.z, there, &weights);
  }
  __syncthreads();

  const RowShares cond(stats, law), uncond(other_stats, law);
  const auto log_of = [&](float z, int64_t token) {
    if (token == current || token == mask_id || token >= r.vocab) return -static_cast<double>(kInfinity);
    return log_weight(weights, cond.log_of(z), uncond.log_of(other_source.logit(token)));
  };
  const auto weight = [&](float z, int64_t token) {
    if (guided) return exp_d(log_of(z, token) - weights.top);
    if (token == current || token == mask_id || token >= r.vocab) return 0.0;
    return weigh(weights, cond.of(z));
  };
  if (guided) {
    double top = -kInfinity;
    finisher.each_vector(0, all, mine, Source::kTurn, all, [&](float z, int i) { top = max_of(top, log_of(z, i)); });
    top = block_reduce(top, [](double a, double b) { return max_of(a, b); });
    if (threadIdx.x == 0) set_top(&weights, top);
    __syncthreads();
  }
  DLM_SHARED(double, mass, [kMaxChunks]);
  double others = 0;
  for (int c = 0; c < chunks; ++c) {
    const int64_t begin = c * size;
    const int here = static_cast<int>(min_of(size, r.vocab - begin));
    double sum = 0;
    finisher.each_vector(begin, here, mine, Source::kTurn, here, [&](float z, int i) { sum += weight(z, begin + i); });
    sum = block_reduce(sum, [](double a, double b) { return a + b; });
    if (threadIdx.x == 0) mass[c] = sum;
    others += sum;
  }
  __syncthreads();

  Route route = pick_redraw(weights, others, row_uniform(step.draw, r.geometry, row, at, kStreamRoute, 0));
  int64_t drawn = -1;
  if (route == kModel) {
    double left = others * row_uniform(step.draw, r.geometry, row, at, kStreamDraw, 1);
    int chosen = 0;
    for (int c = 0; c < chunks; ++c) {
      if (!(mass[c] > 0)) continue;
      chosen = c;
      if (left < mass[c]) break;
      left -= mass[c];
    }
    drawn = finisher.invert(chosen * size, left, weight);
    if (threadIdx.x == 0 && drawn >= 0) {
      const double p = probability(stats, held(job, source, drawn), law.beta);
      const double u = row_uniform(step.draw, r.geometry, row, at, kStreamNoise, 2);
      if (came_as_noise(weights, p, u)) route = kNoise;
    }
  }
  if (threadIdx.x == 0) store_move<Source>(job, row, stats, route, drawn);
}

}  // namespace dlm::cuda
