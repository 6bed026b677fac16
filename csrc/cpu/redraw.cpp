// The weights' logarithms, base 2, are a row of logits which nobody stores: a tile of it is computed where it is read,
// summed up by the loops of any sweep, and drawn from by those of any draw.
//
// In floats, as everywhere: a posterior is off by what its term is (tests/helpers.py), its logarithm l, relative to the
// largest that it could be, by that and 2^-22 |l|, and a power g makes |g| times that of it.
#include "redraw.h"

#include <algorithm>

#include "cutoff.h"

namespace dlm::cpu {
namespace {

constexpr double kLn2 = 0.6931471805599453, kLog2e = 1.4426950408889634;
constexpr RowLaw kBits = {kLn2, kLn2, false};  // of logits in base 2

// Guidance is in double where some of a posterior is noise, but less than this of it: probabilities count that a float
// cannot hold. So it is beyond this power, of the logits where there is no noise, which would enlarge what floats
// round off.
constexpr double kFaintNoise = 0x1p-90, kMaxPower = 16;

// A law of the row, the posterior it makes, and the power to which that is taken.
struct Side {
  const RowSource* source = nullptr;
  RowStats stats;
  Posterior posterior;
  double power = 1;

  // What tokens other than x_t and the mask may weigh at most.
  double largest() const { return max_of(posterior.model / (1 + stats.rest), posterior.noise); }
};

class Weights {
 public:
  Weights(const KernelTable& k, const RowLaw& law, const RedrawLaw& weights, const Side* sides, int num_sides,
          int64_t current, int64_t mask)
      : k_(k), law_(law), weights_(weights), sides_(sides), num_sides_(num_sides), apart_{current, mask} {
    for (int i = 0; i < num_sides; ++i) {
      const Side& side = sides[i];
      const double largest = side.largest();
      none_ |= !(largest > 0);
      const double noise = side.posterior.noise / largest, power = std::abs(side.power);
      const bool faint = noise > 0 ? noise < kFaintNoise : power * law.beta > kMaxPower;
      exact_ |= num_sides > 1 && (faint || power > kMaxPower);
      unit_ += side.power * log_d(largest);
    }
  }

  // The logarithm of what a weight of 2^0 stands for.
  double unit() const { return unit_; }

  // `swept`: what the sweep of the row has left.
  void weigh_row(int64_t vocab, const ChunkStats* swept, ChunkStats* out) {
    if (none_) return;
    if (exact_) unit_ = largest_exact(vocab);
    const int64_t size = chunk_size(vocab);
    for (int64_t c = 0; c < num_chunks(vocab); ++c) {
      if (may_weigh(swept[c])) out[c] = weigh_chunk(c * size, min_of(vocab, (c + 1) * size));
    }
  }

  // In index order, with one uniform; -1 if there is no weight.
  int64_t draw(int64_t vocab, const ChunkStats* chunks, double uniform) const {
    const ChunkPick pick = pick_chunk(chunks, num_chunks(vocab), kBits.beta, uniform);
    if (pick.chunk < 0) return -1;
    const int64_t begin = pick.chunk * chunk_size(vocab), end = min_of(vocab, begin + chunk_size(vocab));
    double target = pick.target;
    int64_t token = -1;
    for_each_tile(begin, end, [&](int64_t at, int64_t n, const float* tile) {
      int64_t last = -1;
      const LawScales scales = scales_of(kBits, chunks[pick.chunk].max);
      const int64_t hit = k_.dtype[kFloat32].invert(tile, n, scales, &target, &last);
      if (last >= 0) token = at + last;
      return hit >= 0;
    });
    return token;
  }

 private:
  // False where min_p or SEDD's step drops every token, by more than the roundings of a chunk's sums can be.
  bool may_weigh(const ChunkStats& swept) const {
    const RowStats& s = sides_[0].stats;
    const double p = exp_d((static_cast<double>(swept.max) - s.max) * law_.beta) / (1 + s.rest);
    return num_sides_ > 1 || weigh(weights_, 1.001 * p) > 0;
  }

  ChunkStats weigh_chunk(int64_t begin, int64_t end) const {
    ChunkStats out;
    for_each_tile(begin, end, [&](int64_t, int64_t n, const float* tile) {
      RunStats run;
      const float max = k_.dtype[kFloat32].maximum(tile, n);
      if (max == -kInfinity) return false;
      k_.dtype[kFloat32].accumulate[kPlain](tile, n, scales_of(kBits, max), &run);
      const float top = max_of(out.max, max);
      const double mass = relative_to({max, run.mass, 0, run.mass}, top, kBits.beta, kBits.beta).mass +
                          relative_to(out, top, kBits.beta, kBits.beta).mass;
      out = {top, mass, 0, mass};
      return false;
    });
    return out;
  }

  // Calls body(index of the first, how many, logarithms of their weights) until it returns true.
  template <class Body>
  void for_each_tile(int64_t begin, int64_t end, Body body) const {
    float tile[kTile];
    double exact[kTile];
    for (int64_t at = begin; at < end; at += kTile) {
      const int64_t n = min_of(kTile, end - at);
      if (exact_) {
        exact_tile(at, n, exact);
        for (int64_t j = 0; j < n; ++j) tile[j] = static_cast<float>((exact[j] - unit_) * kLog2e);
      } else {
        std::fill(tile, tile + n, 0.0f);
        for (int i = 0; i < num_sides_; ++i) add_side(sides_[i], at, n, tile);
      }
      for (int64_t id : apart_) {
        if (id >= at && id < at + n) tile[id - at] = -kInfinity;
      }
      if (body(at, n, tile)) return;
    }
  }

  void add_side(const Side& side, int64_t begin, int64_t n, float* out) const {
    const double largest = side.largest();
    AffineScales affine;
    affine.slope = static_cast<float>(side.posterior.model / (1 + side.stats.rest) / largest);
    affine.offset = static_cast<float>(side.posterior.noise / largest);
    if (num_sides_ == 1) affine.least = static_cast<float>(weights_.level / largest);
    affine.factor = static_cast<float>(side.power);
    LawScales scales = scales_of(law_, side.stats.max);
    for_each_run(*side.source, begin, begin + n, [&](const void* data, int32_t dtype, int64_t count, int64_t at) {
      scales.floor = side.source->floor_at(at);
      k_.dtype[dtype].add_log2(data, count, scales, affine, out + (at - begin));
      return false;
    });
  }

  // Natural logarithms of guided weights.
  void exact_tile(int64_t begin, int64_t n, double* out) const {
    double other[kTile];
    log_probabilities(sides_[0], begin, n, out);
    log_probabilities(sides_[1], begin, n, other);
    for (int64_t j = 0; j < n; ++j) out[j] = log_weight(weights_, out[j], other[j]);
  }

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

  double largest_exact(int64_t vocab) const {
    double tile[kTile], top = -kInfinity;
    for (int64_t at = 0; at < vocab; at += kTile) {
      const int64_t n = min_of(kTile, vocab - at);
      exact_tile(at, n, tile);
      for (int64_t j = 0; j < n; ++j) {
        if (at + j != apart_[0] && at + j != apart_[1]) top = max_of(top, tile[j]);
      }
    }
    return top > -kInfinity ? top : 0;
  }

  const KernelTable& k_;
  const RowLaw& law_;
  const RedrawLaw& weights_;
  const Side* const sides_;
  const int num_sides_;
  const int64_t apart_[2];  // x_t and the mask are weighed by themselves
  bool none_ = false, exact_ = false;
  double unit_ = 0;
};

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
               const ChunkStats* swept, const RowStats& stats, const Place& at, const Current& current, double u_route,
               double u_draw, double u_noise) {
  const Transition t = transition_at(a.coefficients, at);
  const bool masked = is_mask(current.token, a.mask_id), guided = uncond != nullptr;
  const double support = static_cast<double>(noise_support(r.vocab, a.mask_id));
  const auto posterior_of = [&](const RowStats& s, const Current& held) {
    const double odds = odds_against(s, held.token, held.z, job.law.beta);
    const double exponent = r.tempered_after ? job.law.beta : 1;
    return posterior(t, odds, leave_one_out_odds(odds, t.evidence, support, exponent), masked, support);
  };
  RowStats other_stats;
  RedrawLaw law = {};
  law.kind = r.redraw;
  law.level = a.level;
  law.cond = posterior_of(stats, current);
  if (guided) {
    if (!sweep_row(k, uncond, r.vocab, job, &other_stats)) return {kStay, -1};
    const float z = current.z > -kInfinity ? logit_at(*uncond, current.token) : -kInfinity;
    law.uncond = posterior_of(other_stats, Current{current.token, z});
  }
  weigh_ends(&law, t, probability(stats, current, job.law.beta), support);
  const Side sides[] = {{&job.source, stats, law.cond, guided ? law.level : 1},
                        {uncond, other_stats, law.uncond, 1 - law.level}};
  Weights weights(k, job.law, law, sides, guided ? 2 : 1, current.token, a.mask_id);

  ChunkStats chunks[kMaxChunks];
  weights.weigh_row(r.vocab, swept, chunks);
  float top = -kInfinity;
  for (const ChunkStats& chunk : chunks) top = max_of(top, chunk.max);
  if (guided) set_top(&law, top > -kInfinity ? weights.unit() + top * kLn2 : top);
  double others = 0;
  for (const ChunkStats& chunk : chunks) {
    if (chunk.max > -kInfinity) others += chunk.mass * exp_d(weights.unit() + chunk.max * kLn2 - law.top);
  }
  const Route route = pick_redraw(law, others, u_route);
  if (route == kRemask) return {route, a.mask_id};
  const int64_t token = route == kModel ? weights.draw(r.vocab, chunks, u_draw) : -1;
  if (token < 0) return {kStay, current.token};
  const double p = probability(stats, holding(job.source, token, r.vocab), job.law.beta);
  return {came_as_noise(law, p, u_noise) ? kNoise : kModel, token};
}

}  // namespace dlm::cpu
