// The draw of a row. One uniform picks a chunk by its mass; the backend then re-reads that one chunk and inverts the
// CDF inside it, in index order. Together that is the inverse CDF of the whole row in index order. Then the token is
// scored.
#pragma once

#include "chunk.h"
#include "philox.h"
#include "resolved.h"
#include "row_stats.h"

namespace dlm {

// 1 / T, with T kept where float exponents can hold it; nobody samples outside.
DLM_HD_CALL double inverse_temperature(float t) { return 1.0 / min_of(max_of(static_cast<double>(t), 1e-30), 1e30); }

struct RowLaw {
  double beta = 1;       // 1 / T of the confidence law
  double draw_beta = 0;  // 1 / T of the draw law; 0: greedy
  bool tilt = false;     // entropy wanted
};

DLM_HD RowLaw row_law(float temperature, int32_t confidence_from, bool tilt) {
  RowLaw law;
  law.tilt = tilt;
  if (temperature > 0) {
    law.draw_beta = inverse_temperature(temperature);
    if (confidence_from != kRaw) law.beta = law.draw_beta;
  }
  return law;
}

// The uniform number of a row for `stream`: the caller's, in this column where a step needs several, or the one keyed
// by (seed, position, step).
DLM_HD_CALL double row_uniform(const DrawParams& d, const Geometry& g, int64_t row, Place at,
                               Stream stream = kStreamDraw, int64_t column = 0) {
  if (given(d.uniform)) {
    const int64_t offset = row_offset(g, d.uniform, row) + column * d.uniform.stride[d.uniform.ndim - 1];
    return static_cast<const double*>(d.uniform.data)[offset];
  }
  return uniform_52(noise(int_at(d.seed, at.b), at.p, int_at(d.step, 0), stream));
}

// What draw_tokens was told that the row's position holds.
DLM_HD int64_t given_token(const DrawParams& d, const Geometry& g, int64_t row) {
  return given(d.current) ? static_cast<const int64_t*>(d.current.data)[row_offset(g, d.current, row)] : -1;
}

struct ChunkPick {
  int64_t chunk = -1;
  double target = 0;  // mass left to pass inside the chunk, relative to the chunk's own max, in (0, its draw_mass)
};

// u in (0, 1). Chunks without mass are never picked; rounding at the far end falls back to the last one with mass.
DLM_HD ChunkPick pick_chunk(const ChunkStats* chunks, int64_t n, double beta, double u) {
  float top = -kInfinity;
  for (int64_t c = 0; c < n; ++c) top = max_of(top, chunks[c].max);
  double mass[kMaxChunks], scale[kMaxChunks], total = 0;
  for (int64_t c = 0; c < n; ++c) {
    scale[c] = chunks[c].max == -kInfinity ? 0 : exp_d((static_cast<double>(chunks[c].max) - top) * beta);
    mass[c] = scale[c] * chunks[c].draw_mass;
    total += mass[c];
  }
  double left = u * total;
  ChunkPick pick;
  for (int64_t c = 0; c < n; ++c) {
    if (!(mass[c] > 0)) continue;
    pick.chunk = c;
    if (left < mass[c]) {
      pick.target = left / scale[c];
      return pick;
    }
    left -= mass[c];
  }
  pick.target = pick.chunk < 0 ? 0 : chunks[pick.chunk].draw_mass;
  return pick;
}

struct DrawnRow {
  bool good = false;
  int64_t token = -1;
  int64_t best = -1;  // the argmax
  Score score;
  float logprob = -kInfinity;
  float entropy = 0;
};

DLM_HD bool holds(const Array& ids, int64_t token) {
  for (int64_t i = 0; given(ids) && i < ids.shape[0]; ++i) {
    if (static_cast<const int64_t*>(ids.data)[i * ids.stride[0]] == token) return true;
  }
  return false;
}

// A drawn token with logit z, scored under the confidence law.
DLM_HD DrawnRow score_draw(const DrawParams& d, const Resolved& r, const RowLaw& law, const RowStats& stats,
                           const Place& at, int64_t token, float z, const Current& current) {
  DrawnRow out;
  out.good = true;
  out.token = token;
  out.best = stats.argmax;
  if (holds(d.demote, token)) {
    out.score = demoted(r.confidence);
  } else {
    const bool noisy = r.confidence == kRandom || d.rank_temperature > 0;
    const Philox4 words = noisy ? noise(int_at(d.seed, at.b), at.p, int_at(d.step, 0), kStreamRank) : Philox4{};
    out.score = score(r.confidence, r.conf_dtype, stats, token, odds_against(stats, token, z, law.beta), law.beta,
                      uniform_23(words), current);
    if (d.rank_temperature > 0) {
      out.score.key = stochastic_key(out.score.value, d.rank_temperature, uniform_52(words));
    }
  }
  out.logprob = static_cast<float>(log_prob(stats, token, z, law.beta));
  out.entropy = law.tilt ? static_cast<float>(entropy(stats)) : 0;
  return out;
}

DLM_HD void store(const DrawOutputs& out, int64_t row, const DrawnRow& drawn, bool bad) {
  out.tokens[row] = drawn.token;
  out.confidence[row] = static_cast<float>(drawn.score.value);
  out.key[row] = drawn.score.key;
  out.logprob[row] = drawn.logprob;
  out.entropy[row] = drawn.entropy;
  out.bad[row] = bad;
}

}  // namespace dlm
