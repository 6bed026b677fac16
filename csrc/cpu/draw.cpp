#include "draw.h"

namespace dlm::cpu {

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
  job.law = row_law(float_at(sweep_.temperature, at.b), resolved_.from_sampled, tilt_);
  return job;
}

DrawnRow Drawer::finish(const KernelTable& k, const RowJob& job, const ChunkStats* chunks, int64_t row,
                        const Place& at) const {
  RowStats stats;
  if (!finish_row(k, job.source, resolved_.vocab, job.law, chunks, &stats)) return DrawnRow{};
  const double uniform = job.law.draw_beta > 0 ? row_uniform(draw_, resolved_.geometry, row, at) : 0.5;
  const int64_t token = draw_token(k, job.source, resolved_.vocab, job.law, chunks, stats, uniform);
  const float z = token == stats.argmax ? stats.max : logit_at(job.source, token);
  return score_draw(draw_, resolved_, job.law, stats, at, token, z);
}

}  // namespace dlm::cpu
