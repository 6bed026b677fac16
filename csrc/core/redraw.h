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
  return out;
}

// What the tokens of a row weigh. Made as {}: a GPU's shared memory, where it may lie, runs no constructors.
struct RedrawLaw {
  int32_t kind;
  double level;  // min_p: the least posterior that counts. guidance: gamma. score: (1 - e^-dsigma) / V
  Posterior cond, uncond;
  double current, mask;  // the weights of x_t and the mask
};

// gamma log c + (1 - gamma) log u without a NaN: what the conditional posterior forbids is forbidden, and nothing the
// other one forbids is infinitely better for that.
DLM_HD double guided(double gamma, double c, double u) {
  constexpr double kLeast = 2.2250738585072014e-308;
  if (!(c > 0)) return 0;
  return exp_d(gamma * log_d(c) + (1 - gamma) * log_d(max_of(u, kLeast)));
}

// Of a token beside x_t and the mask with these probabilities.
DLM_HD double weigh(const RedrawLaw& law, double p, double p_uncond) {
  if (law.kind == kScore) return law.level * max_of(0.0, p - law.level);
  const double c = law.cond.model * p + law.cond.noise;
  if (law.kind == kMinP) return c >= law.level ? c : 0;
  return guided(law.level, c, law.uncond.model * p_uncond + law.uncond.noise);
}

// `p` of x_t under the law. The posteriors are filled in already, but for SEDD, which has none: t.token keeps with
// e^-dsigma and leaves with 1 - e^-dsigma.
DLM_HD void weigh_ends(RedrawLaw* law, const Transition& t, double p, double support) {
  if (law->kind == kScore) {
    law->level = t.token.leave / support;
    law->current = (law->level + t.token.keep) * max_of(0.0, p - law->level);
    return;
  }
  law->current = law->cond.current;
  law->mask = law->cond.mask;
  if (law->kind == kMinP) {
    if (law->current < law->level) law->current = 0;
    if (law->mask < law->level) law->mask = 0;
  } else {
    law->current = guided(law->level, law->cond.current, law->uncond.current);
    law->mask = guided(law->level, law->cond.mask, law->uncond.mask);
  }
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
