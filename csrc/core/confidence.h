// RowStats and a drawn token -> how confident the model is of it. To add a confidence: a name here, its formula in
// `score`, python_ref/confidence.py, and the name in dlm_kernels/rules.py.
#pragma once

#include "dtype.h"
#include "philox.h"
#include "row_stats.h"

namespace dlm {

enum Confidence : int32_t {
  kProb = 0,
  kMargin = 1,
  kNegEntropy = 2,
  kRandom = 3,
  kGain = 4,    // p(argmax) - p(what the position holds): Sumi's and GIDD's adaptive step
  kChange = 5,  // p(draw) where it differs from what the position holds, else 0: GIDD's self-correction
  kNumConfidences = 6
};

// Whether the score looks at what the position holds.
DLM_HD bool compares(int32_t kind) { return kind == kGain || kind == kChange; }

// Which law a draw is scored by.
enum ConfidenceFrom : int32_t {
  kRaw = 0,       // T = 1, unfiltered
  kSampled = 1,   // what is drawn from: tempered and filtered; at T = 0 the filtered law at T = 1
  kTempered = 2,  // tempered, unfiltered; at T = 0 as raw
  kNumConfidenceFrom = 3
};

inline const char* confidence_from_name(int32_t kind) {
  const char* const names[] = {"raw", "sampled", "tempered"};
  return names[kind];
}

inline const char* confidence_name(int32_t kind) {
  const char* const names[] = {"prob", "margin", "neg_entropy", "random", "gain", "change"};
  return names[kind];
}

struct Score {
  double value = -kInfinity;  // what the user sees and thresholds compare, rounded to conf_dtype
  float key = -kInfinity;     // what ranks: higher first
};

// The token that a position holds, and its logit: -inf for what is no token.
struct Current {
  int64_t token = -1;
  float z = -kInfinity;
};

// exp((z - max) * beta); 0 for -inf, also where there is nothing else.
DLM_HD double relative_weight(const RowStats& s, float z, double beta) {
  return z == -kInfinity ? 0 : exp_d((static_cast<double>(z) - s.max) * beta);
}

// Keys of live positions stay above this, which is the key of a demoted one.
constexpr float kDemotedKey = -kFloatMax;

// conf_dtype float32 ranks on what is *left* beside the token: p rounds to 1.0 for every confident position, the rest
// does not. bfloat16 and float64 rank on p as a codebase computing in that dtype holds it, ties included.
// `odds` are those against `token`, the draw.
DLM_HD Score score(int32_t kind, int32_t conf_dtype, const RowStats& s, int64_t token, double odds, double beta,
                   float rank_uniform, const Current& current) {
  if (kind == kChange && token == current.token) {  // behind all that would change something
    Score unchanged;
    unchanged.value = 0;
    unchanged.key = -1e38f;
    return unchanged;
  }
  const bool difference = kind == kMargin || kind == kGain;
  double value = 0, shortfall = 0;  // value = 1 - shortfall, each without cancellation
  if (kind == kProb || kind == kChange) {
    value = 1 / (1 + odds);
    shortfall = odds;  // monotone in 1 - p and finer where p is small
  } else if (difference) {
    const double other = relative_weight(s, kind == kMargin ? s.second : current.z, beta);
    value = (1 - other) / (1 + s.rest);
    shortfall = (s.rest + other) / (1 + s.rest);
  } else {
    value = kind == kRandom ? rank_uniform : -entropy(s);
  }
  Score out;
  out.value = kind == kRandom ? value : round_to(conf_dtype, value);  // noise is not a probability: nobody rounds it
  double key = out.value;
  if (difference && conf_dtype == kFloat64) {
    key = -(1 - value);
  } else if (difference && conf_dtype == kFloat32) {
    key = -shortfall;
  } else if (kind == kProb || kind == kChange) {
    if (conf_dtype == kFloat64) key = value > 0 ? -(1 - value) / value : -kInfinity;
    if (conf_dtype == kFloat32) key = -shortfall;
  }
  out.key = static_cast<float>(max_of(key, -1e38));
  return out;
}

// Ranking by this key draws without replacement from softmax(value / temperature), one position after the other (Gumbel
// top-k; Dream's alg_temp). The softmax does not notice the 1, without which confident values keep their digits. Nobody
// ranks colder than 1e-30, where floats still hold the quotients.
DLM_HD float stochastic_key(double value, double temperature, double u) {
  return static_cast<float>(max_of((value - 1) / max_of(temperature, 1e-30) + gumbel(u), -1e38));
}

// A draw the caller wants decided last (LLaDA's EOS/EoT): still eligible, behind every other position.
DLM_HD Score demoted(int32_t kind) {
  Score out;
  out.value = kind == kNegEntropy ? -kInfinity : 0;
  out.key = kDemotedKey;
  return out;
}

}  // namespace dlm
