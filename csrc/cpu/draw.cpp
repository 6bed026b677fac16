#include "draw.h"

namespace dlm::cpu {
namespace {

bool holds(const Array& ids, int64_t token) {
  for (int64_t i = 0; given(ids) && i < ids.shape[0]; ++i) {
    if (static_cast<const int64_t*>(ids.data)[i * ids.stride[0]] == token) return true;
  }
  return false;
}

}  // namespace

void prepare_excluded(const SweepParams& s, const Scratch& scratch) {
  if (!given(s.suppress)) return;
  const int64_t n = s.suppress.shape[0];
  for (int64_t i = 0; i < n; ++i)
    scratch.excluded[i] = static_cast<const int64_t*>(s.suppress.data)[i * s.suppress.stride[0]];
  std::sort(scratch.excluded, scratch.excluded + n);
}

RowSource row_source(const SweepParams& s, const Geometry& g, const Scratch& scratch, int64_t row) {
  RowSource out;
  const int64_t bytes = dtype_size(s.logits.dtype);
  out.dtype = s.logits.dtype;
  out.cond = static_cast<const char*>(s.logits.data) + logits_offset(g, s.logits, row) * bytes;
  if (given(s.uncond)) {
    out.uncond = static_cast<const char*>(s.uncond.data) + logits_offset(g, s.uncond, row) * bytes;
    out.cfg_weight = static_cast<float>(s.cfg_scale + 1);
  }
  if (given(s.suppress)) {
    out.excluded = scratch.excluded;
    out.num_excluded = s.suppress.shape[0];
  }
  return out;
}

Drawer::Drawer(const SweepParams& sweep, const DrawParams& draw, const Resolved& resolved, bool tilt)
    : sweep_(sweep), draw_(draw), resolved_(resolved), tilt_(tilt || resolved.confidence == kNegEntropy) {}

RowJob Drawer::job(const Scratch& scratch, int64_t row, const Place& at) const {
  RowJob job;
  job.source = row_source(sweep_, resolved_.geometry, scratch, row);
  job.law.tilt = tilt_;
  const float temperature = float_at(sweep_.temperature, at.b);
  if (temperature > 0) {
    job.law.draw_beta = inverse_temperature(temperature);
    if (resolved_.from_sampled) job.law.beta = job.law.draw_beta;
  }
  return job;
}

DrawnRow Drawer::finish(const KernelTable& k, const RowJob& job, const ChunkStats* chunks, int64_t row,
                        const Place& at) const {
  DrawnRow out;
  RowStats stats;
  out.good = finish_row(k, job.source, resolved_.vocab, job.law, chunks, &stats);
  if (!out.good) return out;
  const int64_t seed = int_at(draw_.seed, at.b), step = int_at(draw_.step, 0);
  double uniform = 0.5;
  if (given(draw_.uniform)) {
    uniform = static_cast<const double*>(draw_.uniform.data)[row_offset(resolved_.geometry, draw_.uniform, row)];
  } else if (job.law.draw_beta > 0) {
    uniform = uniform_52(noise(seed, at.p, step, kStreamDraw));
  }
  out.token = draw_token(k, job.source, resolved_.vocab, job.law, chunks, stats, uniform);
  const float z = out.token == stats.argmax ? stats.max : logit_at(job.source, out.token);
  const float rank = resolved_.confidence == kRandom ? uniform_23(noise(seed, at.p, step, kStreamRank)) : 0;
  out.score = holds(draw_.demote, out.token)
                  ? demoted(resolved_.confidence)
                  : score(resolved_.confidence, resolved_.conf_dtype, stats,
                          odds_against(stats, out.token, z, job.law.beta), job.law.beta, rank);
  out.logprob = static_cast<float>(log_prob(stats, out.token, z, job.law.beta));
  out.entropy = job.law.tilt ? static_cast<float>(entropy(stats)) : 0;
  return out;
}

}  // namespace dlm::cpu
