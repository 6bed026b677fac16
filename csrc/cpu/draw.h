// One row from logits to a scored draw: what draw_tokens returns and denoise_step decides on.
#pragma once

#include "../core/validate.h"
#include "for_each_row.h"

namespace dlm::cpu {

// Sorts the suppressed ids into the scratch, where every row's source finds them.
void prepare_excluded(const SweepParams& s, const Scratch& scratch);

RowSource row_source(const SweepParams& s, const Geometry& g, const Scratch& scratch, int64_t row);

// Shared by every op that draws: the law of a row's temperature, then the draw from its finished chunks.
class Drawer {
 public:
  Drawer(const SweepParams& sweep, const DrawParams& draw, const Resolved& resolved, bool tilt);
  RowJob job(const Scratch& scratch, int64_t row, const Place& at) const;
  DrawnRow finish(const KernelTable& k, const RowJob& job, const ChunkStats* chunks, int64_t row,
                  const Place& at) const;

 private:
  const SweepParams& sweep_;
  const DrawParams& draw_;
  const Resolved& resolved_;
  bool tilt_;
};

}  // namespace dlm::cpu
