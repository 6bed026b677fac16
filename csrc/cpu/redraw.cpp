#include "redraw.h"

#include <algorithm>

#include "cutoff.h"

namespace dlm::cpu {
namespace {

// The two laws of a row as probabilities, a tile at a time.
class Weigher {
 public:
  struct Side {
    const RowSource* source = nullptr;
    RowStats stats;
  };

  // `weights` may still change: a top is found by the weigher itself.
  Weigher(const KernelTable& k, const RowLaw& law, const RedrawLaw& weights, const Side& cond, const Side& uncond,
          int64_t current, int64_t mask)
      : k_(k), law_(law), weights_(weights), cond_(cond), uncond_(uncond), apart_{current, mask} {}

  // n <= kTile weights from `begin` on; 0 for x_t and the mask, which are weighed apart.
  void weigh_tile(int64_t begin, int64_t n, double* out) const {
    if (weights_.kind == kGuidance) {
      log_tile(begin, n, out);
      for (int64_t j = 0; j < n; ++j) out[j] = exp_d(out[j] - weights_.top);
      return;
    }
    float e[kTile];
    exponentials(k_, *cond_.source, begin, begin + n, law_, cond_.stats.max, e);
    const double share = 1 / (1 + cond_.stats.rest);
    for (int64_t j = 0; j < n; ++j) out[j] = weigh(weights_, e[j] * share);
    set_apart(begin, n, 0, out);
  }

  // Their logarithms, of guidance.
  void log_tile(int64_t begin, int64_t n, double* out) const {
    double other[kTile];
    log_probabilities(cond_, begin, n, out);
    log_probabilities(uncond_, begin, n, other);
    for (int64_t j = 0; j < n; ++j) out[j] = log_weight(weights_, out[j], other[j]);
    set_apart(begin, n, -kInfinity, out);
  }

 private:
  void log_probabilities(const Side& side, int64_t begin, int64_t n, double* out) const {
    const double of_all = log1p_d(side.stats.rest);
    for_each_run(*side.source, begin, begin + n, [&](const void* data, int32_t dtype, int64_t count, int64_t at) {
      const float floor = side.source->floor_at(at);
      for (int64_t j = 0; j < count; ++j) {
        const float z = load_float(data, dtype, j);
        const double d = z >= floor ? (static_cast<double>(z) - side.stats.max) * law_.beta : -kInfinity;
        out[at - begin + j] = d - of_all;
      }
      return false;
    });
  }

  void set_apart(int64_t begin, int64_t n, double nothing, double* out) const {
    for (int64_t id : apart_) {
      if (id >= begin && id < begin + n) out[id - begin] = nothing;
    }
  }

  const KernelTable& k_;
  const RowLaw& law_;
  const RedrawLaw& weights_;
  const Side &cond_, &uncond_;
  const int64_t apart_[2];
};

template <class Body>
void for_each_tile(int64_t begin, int64_t end, Body body) {
  for (int64_t at = begin; at < end; at += kTile) {
    if (body(at, min_of(kTile, end - at))) return;
  }
}

bool sweep_row(const KernelTable& k, RowSource* source, int64_t vocab, const RowJob& like, RowStats* out) {
  ChunkStats chunks[kMaxChunks];
  const int64_t size = chunk_size(vocab);
  for (int64_t c = 0; c < num_chunks(vocab); ++c) {
    chunks[c] = sweep_chunk(k, *source, c * size, min_of(vocab, (c + 1) * size), like.law);
  }
  return filter_row(k, source, vocab, like.law, like.filter, chunks, like.room, out);
}

}  // namespace

Redrawn redraw(const TransitionArgs& a, const Resolved& r, const KernelTable& k, const RowJob& job, RowSource* uncond,
               const RowStats& stats, const Place& at, const Current& current, double u_route, double u_draw,
               double u_noise) {
  const Transition t = transition_at(a.coefficients, at);
  const bool masked = is_mask(current.token, a.mask_id);
  const double support = static_cast<double>(noise_support(r.vocab, a.mask_id));
  const auto posterior_of = [&](const RowStats& s, const Current& held) {
    const double odds = odds_against(s, held.token, held.z, job.law.beta);
    const double exponent = r.tempered_after ? job.law.beta : 1;
    return posterior(t, odds, leave_one_out_odds(odds, t.evidence, support, exponent), masked, support);
  };
  RedrawLaw weights = {};
  weights.kind = r.redraw;
  weights.level = a.level;
  weights.cond = posterior_of(stats, current);
  Weigher::Side own = {&job.source, stats}, other;
  if (uncond != nullptr) {
    if (!sweep_row(k, uncond, r.vocab, job, &other.stats)) return {kStay, -1};
    other.source = uncond;
    const float z = current.z > -kInfinity ? logit_at(*uncond, current.token) : -kInfinity;
    weights.uncond = posterior_of(other.stats, Current{current.token, z});
  }
  weigh_ends(&weights, t, probability(stats, current, job.law.beta), support);
  const Weigher weigher(k, job.law, weights, own, other, current.token, a.mask_id);

  const int64_t size = chunk_size(r.vocab), chunks = num_chunks(r.vocab);
  double mass[kMaxChunks] = {}, weight[kTile], others = 0;
  if (r.redraw == kGuidance) {
    double top = -kInfinity;
    for_each_tile(0, r.vocab, [&](int64_t begin, int64_t n) {
      weigher.log_tile(begin, n, weight);
      top = max_of(top, *std::max_element(weight, weight + n));
      return false;
    });
    set_top(&weights, top);
  }
  for (int64_t c = 0; c < chunks; ++c) {
    for_each_tile(c * size, min_of(r.vocab, (c + 1) * size), [&](int64_t begin, int64_t n) {
      weigher.weigh_tile(begin, n, weight);
      for (int64_t j = 0; j < n; ++j) mass[c] += weight[j];
      return false;
    });
    others += mass[c];
  }
  const Route route = pick_redraw(weights, others, u_route);
  if (route == kRemask) return {route, a.mask_id};
  if (route != kModel) return {kStay, current.token};

  double left = u_draw * others;
  int64_t own_chunk = 0, token = -1;
  for (int64_t c = 0; c < chunks; ++c) {
    if (!(mass[c] > 0)) continue;
    own_chunk = c;
    if (left < mass[c]) break;
    left -= mass[c];
  }
  for_each_tile(own_chunk * size, min_of(r.vocab, (own_chunk + 1) * size), [&](int64_t begin, int64_t n) {
    weigher.weigh_tile(begin, n, weight);
    for (int64_t j = 0; j < n; ++j) {
      if (!(weight[j] > 0)) continue;
      token = begin + j;
      if (left < weight[j]) return true;
      left -= weight[j];
    }
    return false;
  });
  const double p = probability(stats, holding(job.source, token, r.vocab), job.law.beta);
  return {came_as_noise(weights, p, u_noise) ? kNoise : kModel, token};
}

}  // namespace dlm::cpu
