// The hierarchical draw: one uniform per row picks a chunk by its mass; the backend then re-reads that one chunk and
// inverts the CDF inside it, in index order. Together that is the inverse CDF of the whole row in index order.
#pragma once

#include "chunk.h"
#include "row_stats.h"

namespace dlm {

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

}  // namespace dlm
