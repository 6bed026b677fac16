#include "draw.h"

#include "../core/commit.h"
#include "cutoff.h"

namespace dlm::cpu {

void prepare_excluded(const SweepParams& s, const Scratch& scratch) {
  if (!given(s.suppress)) return;
  const int64_t n = s.suppress.shape[0];
  for (int64_t i = 0; i < n; ++i)
    scratch.excluded[i] = static_cast<const int64_t*>(s.suppress.data)[i * s.suppress.stride[0]];
  std::sort(scratch.excluded, scratch.excluded + n);
}

RowSource row_source(const KernelTable& k, const SweepParams& s, const Geometry& g, const Scratch& scratch,
                     int64_t row) {
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
  if (s.softcap > 0) {
    out.soften = k.soften;
    out.softcap = static_cast<float>(s.softcap);
  }
  return out;
}

float trace_gain(const TraceParams& trace, const RowSource& source, int64_t vocab, const RowLaw& law,
                 const RowStats& stats, const Place& at, int64_t token) {
  const Current before = holding(source, committed_token(trace, at), vocab);
  if (before.token < 0) return 0;
  const Current now = holding(source, token, vocab);
  return static_cast<float>(log_prob(stats, now.token, now.z, law.beta) -
                            log_prob(stats, before.token, before.z, law.beta));
}

Drawer::Drawer(const SweepParams& sweep, const DrawParams& draw, const DecideParams* decide, const Resolved& resolved,
               bool tilt)
    : sweep_(sweep),
      draw_(draw),
      decide_(decide),
      resolved_(resolved),
      tilt_(tilt || resolved.confidence == kNegEntropy) {}

RowJob Drawer::job(const KernelTable& k, const Scratch& scratch, int64_t row, const Place& at) const {
  RowJob job;
  job.source = row_source(k, sweep_, resolved_.geometry, scratch, row);
  job.law = row_law(float_at(sweep_.temperature, at.b), resolved_.confidence_from, tilt_);
  job.filter = filter_of(sweep_, resolved_, at.b);
  return job;
}

DrawnRow Drawer::finish(const KernelTable& k, RowJob* job, ChunkStats* chunks, int64_t row, const Place& at,
                        RowStats* stats) const {
  const Geometry& g = resolved_.geometry;
  const int64_t vocab = resolved_.vocab;
  if (!finish_row(k, job->source, vocab, job->law, chunks, stats)) return DrawnRow{};
  const bool greedy = !(job->law.draw_beta > 0), from_sampled = resolved_.confidence_from == kSampled;
  RowSource drawn_from = job->source;
  if (job->filter.on() && (from_sampled || !greedy)) {
    const RowLaw law = from_sampled ? job->law : RowLaw{job->law.draw_beta, job->law.draw_beta, false};
    cut_row(k, &drawn_from, vocab, law, job->filter, chunks, job->room);
    if (from_sampled) {
      job->source = drawn_from;
      finish_row(k, job->source, vocab, job->law, chunks, stats);
    }
  }
  int64_t token = -1;
  if (!greedy) token = draw_token(k, drawn_from, vocab, job->law, chunks, row_uniform(draw_, g, row, at));
  if (token < 0) token = stats->argmax;
  const float z = token == stats->argmax ? stats->max : logit_at(job->source, token);
  Current current;
  if (compares(resolved_.confidence)) {
    current =
        holding(job->source, decide_ != nullptr ? token_on_canvas(decide_->x, at) : given_token(draw_, g, row), vocab);
  }
  return score_draw(draw_, resolved_, job->law, *stats, at, token, z, current);
}

}  // namespace dlm::cpu
