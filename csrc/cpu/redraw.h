// The second read of steps whose posterior is no finite mixture.
#pragma once

#include "../core/redraw.h"
#include "draw.h"

namespace dlm::cpu {

struct Redrawn {
  Route route;
  int64_t token;
};

// The row has these chunks and statistics, and its position holds `current`. `uncond`: the other row of guidance,
// unfiltered; else null.
Redrawn redraw(const TransitionArgs& a, const Resolved& r, const KernelTable& k, const RowJob& job, RowSource* uncond,
               const ChunkStats* swept, const RowStats& stats, const Place& at, const Current& current, double u_route,
               double u_draw, double u_noise);

}  // namespace dlm::cpu
