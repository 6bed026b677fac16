// One reverse step of the uniform, hybrid and absorbing families as a route: stay at x_t, move to another token of the
// model's law, fall to a uniform token, or to the mask. The four probabilities need only the odds against x_t and
// numbers of the schedule, so no posterior over the vocabulary is ever made.
//
// Why: q_{t|s}(x_t | v) = a [v = x_t] + b for every noise prior, so Bayes' rule gives
//     p(x_s = v | x_t)  ~  a q_s(x_t) [v = x_t]  +  b q_s(v),     q_s(v) = alpha_s p(v) + (1 - alpha_s) prior_s(v)
// in words: keep x_t, or leave it for a fresh draw of q_s. dlm_kernels/transitions.py has the coefficients of every
// sampler. They are free of V: it enters here, as `support`, the number of tokens that uniform noise can be.
#pragma once

#include "draw.h"

namespace dlm {

enum Route : int32_t { kStay = 0, kModel = 1, kNoise = 2, kRemask = 3, kNumRoutes = 4 };

// Unnormalised: kept = keep + keep_p * support * p(x_t), against leave. Scaled so that nothing in it is a difference
// of nearly equal numbers. Only SEDD's Euler step has a negative `keep`, which counts per probability of the *others*:
// kept = keep_p * support * p(x_t) + keep * (1 - p(x_t)), at least 0 as in the original, and nobody comes back.
struct Bridge {
  double keep_p = 0;
  double keep = 0;
  double leave = 0;
  double model = 1;  // where those who leave go: q_s; model + noise + mask = 1
  double noise = 0;
  double mask = 0;
};

// Of one sequence or position: 14 doubles, as the op takes them, in this order.
struct Transition {
  double fresh = 0;     // probability of noise whatever x_t and the model are: Duo's corrector
  double evidence = 0;  // alpha_t / (1 - alpha_t) where the model's law already counts x_t ("denoiser"); else 0
  Bridge token;         // x_t is a token
  Bridge mask;          // x_t is the mask
};

constexpr int64_t kTransitionSize = 14;

DLM_HD Bridge bridge_from(const double* v) { return {v[0], v[1], v[2], v[3], v[4], v[5]}; }
DLM_HD Transition transition_from(const double* v) { return {v[0], v[1], bridge_from(v + 2), bridge_from(v + 8)}; }

// The numbers of position `at`, from [1, n], [B, n] or [B, L, n] float64.
DLM_HD const double* of_schedule(const Array& numbers, const Place& at) {
  const int64_t b = numbers.shape[0] == 1 ? 0 : at.b;
  const int64_t offset = b * numbers.stride[0] + (numbers.ndim == 3 ? at.p * numbers.stride[1] : 0);
  return static_cast<const double*>(numbers.data) + offset;
}

// Numbers that are the same for all may stay on the host: a step takes them with it.
inline bool is_host_row(const Array& numbers) {
  return numbers.device < 0 && numbers.ndim == 2 && numbers.shape[0] == 1;
}

DLM_HD Transition transition_at(const Array& coefficients, const Place& at) {
  return transition_from(of_schedule(coefficients, at));
}

// Probabilities. `model` is a draw from the model's law without x_t, and `mask` a move to the mask: whatever lands on
// x_t again counts as staying, except that uniform noise may be x_t by chance.
struct RouteWeights {
  double stay = 1;
  double model = 0;
  double noise = 0;
  double mask = 0;
};

DLM_HD bool is_mask(int64_t token, int64_t mask_id) { return mask_id >= 0 && token == mask_id; }

// How many tokens uniform noise can be: a mask inside the vocabulary is not one of them.
DLM_HD int64_t noise_support(int64_t vocab, int64_t mask_id) { return vocab - (mask_id >= 0 && mask_id < vocab); }

// Odds against x_t under the law of a network that was trained to predict x_0 (diffusers' DiscreteDDIM): its output
// already counts x_t as evidence, the bridge counts it again, so its logit goes down by delta = log(1 + V alpha_t /
// (1 - alpha_t)). exponent 1: `odds` are tempered, then shifted; 1 / T: shifted, then tempered (`odds` being the
// tempered ones all the same).
DLM_HD double leave_one_out_odds(double odds, double evidence, double support, double exponent) {
  if (!(odds > 0) || odds == kInfinity) return odds;  // 0 * inf
  return odds * exp_d(exponent * log1p_d(support * evidence));
}

// `odds` against x_t under the (shifted, where evidence > 0) law, inf where the law does not have it. A law never has
// the mask: suppress it in the sweep.
DLM_HD RouteWeights route_weights(const Transition& t, double odds, bool is_mask, double support) {
  const Bridge b = is_mask ? t.mask : t.token;
  const bool absent = is_mask || odds == kInfinity;
  const double p = absent ? 0 : 1 / (1 + odds), others = absent ? 1 : odds / (1 + odds);
  const double seen = b.keep_p * support * p, back = b.model * p + (is_mask ? b.mask : 0);
  double stay = b.keep < 0 ? max_of(0.0, seen + b.keep * others) : seen + b.keep + b.leave * back, left = b.leave;
  const double either = stay + left;
  if (either > 0) {  // to the order of 1: products with the last of the denormals would vanish, and 0 / 0 follow
    stay /= either;
    left /= either;
  } else {  // q_t(x_t) = 0: x_t says nothing, so x_s is a fresh draw of q_s
    stay = back;
    left = 1;
  }
  RouteWeights w;
  w.stay = stay;
  w.model = left * b.model * others;
  w.noise = left * b.noise;
  w.mask = is_mask ? 0 : left * b.mask;
  const double scale = (1 - t.fresh) / (w.stay + w.model + w.noise + w.mask);
  w.stay *= scale;
  w.model *= scale;
  w.noise = w.noise * scale + t.fresh;
  w.mask *= scale;
  return w;
}

// u in (0, 1). The rare routes come first, where u is finest, and staying takes what rounding leaves. A route of weight
// 0 is never taken. u is spent: the token needs another number (kStreamDraw, kStreamNoise), or it would depend on
// how narrowly the route was taken.
DLM_HD Route pick_route(const RouteWeights& w, double u) {
  Route last = kStay;
  bool taken = false;
  const auto offer = [&](Route route, double weight) {
    if (taken || !(weight > 0)) return;
    last = route;
    taken = u < weight;
    u -= weight;
  };
  offer(kNoise, w.noise);
  offer(kRemask, w.mask);
  offer(kModel, w.model);
  offer(kStay, w.stay);
  return last;
}

// Odds against what a position holds; a greedy law is its argmax alone.
DLM_HD double odds_of(const RowLaw& law, const RowStats& stats, const Current& current) {
  if (!(law.draw_beta > 0)) return current.token == stats.argmax && current.z > -kInfinity ? 0 : kInfinity;
  return odds_against(stats, current.token, current.z, law.beta);
}

// The route of a position that holds `current`, whose row has these statistics.
DLM_HD Route choose_route(const Transition& t, int64_t mask_id, const Resolved& r, const RowLaw& law,
                          const RowStats& stats, const Current& current, double u) {
  const double support = static_cast<double>(noise_support(r.vocab, mask_id));
  const double odds =
      leave_one_out_odds(odds_of(law, stats, current), t.evidence, support, r.tempered_after ? law.beta : 1);
  return pick_route(route_weights(t, odds, is_mask(current.token, mask_id), support), u);
}

// Of the law, whatever the route.
DLM_HD double probability(const RowStats& stats, const Current& of, double beta) {
  return 1 / (1 + odds_against(stats, of.token, of.z, beta));
}

// Forward: what becomes of a clean token at a level where it is uniform noise or the mask with these probabilities.
DLM_HD Route noising_route(double noise, double mask, double u) {
  RouteWeights w;
  w.noise = noise;
  w.mask = mask;
  w.stay = max_of(0.0, 1 - noise - mask);
  return pick_route(w, u);
}

// A uniform token, never the mask; support >= 1. Any u, a NaN too, gives a token: on a device it comes unchecked.
DLM_HD int64_t noise_token(double u, int64_t support, int64_t mask_id) {
  const double size = static_cast<double>(support), at = u > 0 ? min_of(u * size, size) : 0;
  const int64_t token = min_of(static_cast<int64_t>(at), support - 1);
  return token + (mask_id >= 0 && mask_id <= token);
}

// One position of q_sample.
DLM_HD void noise_position(const NoisingArgs& a, const Resolved& r, const Place& at) {
  const auto uniform = [&](Stream stream, int64_t column) {
    if (given(a.uniform)) {
      const int64_t* const s = a.uniform.stride;
      return static_cast<const double*>(a.uniform.data)[at.b * s[0] + at.p * s[1] + column * s[2]];
    }
    return uniform_52(noise(int_at(a.seed, at.b), at.p, int_at(a.step, 0), stream));
  };
  const double* const rates = of_schedule(a.rates, at);
  const int64_t row = at.b * a.x.shape[1] + at.p;
  int64_t token = token_on_canvas(a.x, at);
  Route route = kStay;
  if (!flag_at(a.frozen, at)) route = noising_route(rates[0], rates[1], uniform(kStreamForwardRoute, 0));
  if (route == kNoise)
    token = noise_token(uniform(kStreamForwardNoise, 1), noise_support(r.vocab, a.mask_id), a.mask_id);
  if (route == kRemask) token = a.mask_id;
  store_int(a.out.x_t, a.x.dtype, row, token);
  a.out.route[row] = static_cast<uint8_t>(route);
}

}  // namespace dlm
