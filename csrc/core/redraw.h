// Steps whose posterior is no finite mixture, because something acts on the posterior itself: GIDD's min_p, guidance
// between two posteriors (UDLM), and SEDD's analytic step, which cuts scores off. Once the statistics of a row are
// known, a second read of it weighs every token, and the token is drawn from those weights.
//
// x_t and the mask are weighed apart, in closed form; for every other token v the posterior is model * p(v) + noise.
#pragma once

#include "transition.h"

namespace dlm {

enum Redraw : int32_t { kNoRedraw = 0, kMinP = 1, kGuidance = 2, kScore = 3, kNumRedraws = 4 };

inline const char* redraw_name(int32_t kind) {
  const char* const names[] = {"none", "min_p", "guidance", "score"};
  return names[kind];
}

// A posterior, token by token. Sums to 1 over the tokens, x_t and the mask.
struct Posterior {
  double model, noise;   // of another token v: model * p(v) + noise
  double current, mask;  // of x_t, and of the mask where x_t is another token
  double log_model;
};

// `odds` against x_t under the law, `shifted` after the leave-one-out shift, if there is one.
DLM_HD Posterior posterior(const Transition& t, double odds, double shifted, bool is_mask, double support) {
  const RouteWeights w = route_weights(t, shifted, is_mask, support);
  const double others = odds == kInfinity ? 1 : odds / (1 + odds);
  Posterior out = {};
  out.model = others > 0 ? w.model / others : 0;
  out.noise = w.noise / support;
  out.current = is_mask ? w.stay : w.stay + out.noise;
  out.mask = w.mask;
  out.log_model = log_d(out.model);
  return out;
}

// What the tokens of a row weigh. Made as {}: a GPU's shared memory, where it may lie, runs no constructors.
struct RedrawLaw {
  int32_t kind;
  double level;            // the least weight that counts, but of guidance: gamma
  Posterior cond, uncond;  // of SEDD's step, which has no posterior, `cond` is what other tokens weigh
  double current, mask;    // the weights of x_t and the mask; of guidance their logarithms, until its `top` is known
  double top;              // guidance: the largest logarithm of a weight of the row, about which all of them are taken
};

// log(model * p + noise), where p alone may be too small for a number.
DLM_HD double log_posterior(const Posterior& q, double log_p) {
  if (q.noise > 0) return log_d(q.model * exp_d(log_p) + q.noise);
  return q.log_model + log_p;
}

// gamma log c + (1 - gamma) log u; what either posterior forbids is forbidden.
DLM_HD double guide(double gamma, double log_c, double log_u) {
  if (log_c == -kInfinity || log_u == -kInfinity) return -kInfinity;
  return gamma * log_c + (1 - gamma) * log_u;
}

// The logarithm of a token's weight under guidance, from those of its probabilities.
DLM_HD double log_weight(const RedrawLaw& law, double log_p, double log_p_uncond) {
  return guide(law.level, log_posterior(law.cond, log_p), log_posterior(law.uncond, log_p_uncond));
}

// The weight of a token beside x_t and the mask, but for guidance: exp(log_weight - top) there.
DLM_HD double weigh(const RedrawLaw& law, double p) {
  const double c = law.cond.model * p + law.cond.noise;
  return c >= law.level ? c : 0;
}

// `p` of x_t under the law. The posteriors are filled in already, but for SEDD, which has none: t.token keeps with
// e^-dsigma and leaves with 1 - e^-dsigma.
DLM_HD void weigh_ends(RedrawLaw* law, const Transition& t, double p, double support) {
  if (law->kind == kScore) {
    const double floor = t.token.leave / support;
    law->current = (floor + t.token.keep) * max_of(0.0, p - floor);
    law->cond.model = floor;  // floor * (p - floor), where that is positive
    law->cond.noise = -floor * floor;
    law->level = 0;
    return;
  }
  law->current = law->cond.current;
  law->mask = law->cond.mask;
  if (law->kind == kMinP) {
    if (law->current < law->level) law->current = 0;
    if (law->mask < law->level) law->mask = 0;
  } else {
    law->current = guide(law->level, log_d(law->cond.current), log_d(law->uncond.current));
    law->mask = guide(law->level, log_d(law->cond.mask), log_d(law->uncond.mask));
  }
}

// Guidance, once the largest log_weight of the other tokens is known.
DLM_HD void set_top(RedrawLaw* law, double largest) {
  law->top = max_of(largest, max_of(law->current, law->mask));
  if (law->top == -kInfinity) law->top = 0;
  law->current = exp_d(law->current - law->top);
  law->mask = exp_d(law->mask - law->top);
}

// Whether a drawn token with this probability came as noise: of what the (conditional) posterior has for it, the law
// has a part and noise the rest. In SEDD's step noise only takes away.
DLM_HD bool came_as_noise(const RedrawLaw& law, double p, double u) {
  return u * (law.cond.model * p + law.cond.noise) < law.cond.noise;
}

// `others`: the sum of weigh() over all other tokens. Where nothing has a weight the position stays.
DLM_HD Route pick_redraw(const RedrawLaw& law, double others, double u) {
  const double total = law.current + law.mask + others;
  RouteWeights w;
  if (total > 0) {
    w.stay = law.current / total;
    w.mask = law.mask / total;
    w.model = others / total;
  }
  return pick_route(w, u);
}

}  // namespace dlm
