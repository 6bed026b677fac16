// One row from logits to a scored draw: what draw_tokens returns and denoise_step decides on.
#pragma once

#include "../core/validate.h"
#include "for_each_row.h"

namespace dlm::cpu {

// Sorts the suppressed ids into the scratch, where every row's source finds them.
void prepare_excluded(const SweepParams& s, const Scratch& scratch);

RowSource row_source(const KernelTable& k, const SweepParams& s, const Geometry& g, const Scratch& scratch,
                     int64_t row);

inline Current holding(const RowSource& source, int64_t token, int64_t vocab) {
  return {token, token >= 0 && token < vocab ? logit_at(source, token) : -kInfinity};
}

// log p(token) - log p(what the trace has committed at this place).
float trace_gain(const TraceParams& trace, const RowSource& source, int64_t vocab, const RowLaw& law,
                 const RowStats& stats, const Place& at, int64_t token);

// Shared by every op that draws for a position and scores the draw: the law of a row's temperature, then the draw from
// its finished chunks.
class Drawer {
 public:
  // `decide` null: there is no canvas.
  Drawer(const SweepParams& sweep, const DrawParams& draw, const DecideParams* decide, const Resolved& resolved,
         bool tilt);
  RowJob job(const KernelTable& k, const Scratch& scratch, int64_t row, const Place& at) const;
  // *stats is filled unless the row is bad. The job's source is left as the law of confidence has it.
  DrawnRow finish(const KernelTable& k, RowJob* job, ChunkStats* chunks, int64_t row, const Place& at,
                  RowStats* stats) const;

 private:
  const SweepParams& sweep_;
  const DrawParams& draw_;
  const DecideParams* const decide_;
  const Resolved& resolved_;
  bool tilt_;
};

}  // namespace dlm::cpu
