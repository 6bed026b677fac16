// What every step that draws for its candidates does first, whatever it decides then.
#pragma once

#include "candidates.h"
#include "draw.h"

namespace dlm::cpu {

// Draws and scores every candidate, into a.out and the scratch; note(row, place, job, stats, drawn) for the good ones,
// on any worker.
template <class Note>
void draw_candidates(const StepArgs& a, const Resolved& r, bool tilt, const dlm_executor* executor,
                     const Scratch& scratch, Note note) {
  const KernelTable& kernels = active_kernels();
  const Geometry& g = r.geometry;
  const DecideParams& d = a.decide;
  const Drawer drawer(a.sweep, a.draw, &d, r, tilt);
  prepare_excluded(a.sweep, scratch);
  for_each_place(g, [&](int64_t row, const Place& at) { store_skipped(a.out, d.x, row, at); });
  const int64_t count = group_candidates(g, d, scratch);
  for_each_row(
      kernels, executor, scratch, count, r.vocab,
      [&](int64_t i) { return drawer.job(kernels, scratch, scratch.candidate[i], place_of(g, scratch.candidate[i])); },
      [&](int64_t i, RowJob& job, ChunkStats* chunks) {
        const int64_t row = scratch.candidate[i];
        const Place at = place_of(g, row);
        RowStats stats;
        const DrawnRow drawn = drawer.finish(kernels, &job, chunks, row, at, &stats);
        scratch.good[row] = drawn.good;
        if (!drawn.good) return;
        store_drawn(a.out, d.x, row, drawn);
        scratch.value[row] = drawn.score.value;
        scratch.key[row] = drawn.score.key;
        scratch.entropy[row] = drawn.entropy;
        note(row, at, job, stats, drawn);
      });
}

// The drawn candidates of a sequence, in no order yet: the open ones, if only those are the rule's.
inline Ranking rank_drawn(const Resolved& r, const DecideParams& d, const Scratch& scratch, int64_t b) {
  Ranking ranking(scratch, b);
  for (int64_t i = scratch.offset[b]; i < scratch.offset[b + 1]; ++i) {
    const int64_t row = scratch.candidate[i];
    const Place at = place_of(r.geometry, row);
    const bool open = is_open(d, at);
    ranking.count(open);
    if (!scratch.good[row]) {
      ++ranking.bad;
    } else if (open) {
      ranking.add(rank_key(r.rule, scratch.key[row], scratch.entropy[row]), at.p, row);
    }
  }
  return ranking;
}

}  // namespace dlm::cpu
