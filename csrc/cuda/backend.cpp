#include "backend.h"

#include "../core/carve.h"

namespace dlm::cuda {
namespace {

// Sorting beside the sweep takes shared memory from every block of it, so only block-sized sequences are.
constexpr int64_t kFusedRows = 512;
// A packed step looks through all rows for each sequence.
constexpr int64_t kFusedPackedSequences = 32;
// Most a block may ask for on every architecture from sm_80 on, in rows: 96 KiB.
constexpr int64_t kSharedRows = 4096;

// Blocks that run at once on a multiprocessor (__launch_bounds__ of rows_kernel), and how many times over the device is
// to be filled: too few blocks leave it idle at the end, too many finish rows they hardly share.
constexpr int64_t kBlocksPerMultiprocessor = 5;
constexpr int64_t kWaves = 2;

struct Scratch {
  Partial* parts;
  RowRecords records;
  Ranked* ranked;
  int64_t bytes;
};

Scratch cut_scratch(void* base, int64_t rows) {
  Carver carver(base, 256);
  Scratch s;
  carver.take(s.parts, rows * kThreads);
  carver.take(s.records.value, rows);
  carver.take(s.records.key, rows);
  carver.take(s.records.entropy, rows);
  carver.take(s.records.state, rows);
  carver.take(s.ranked, rows > kSharedRows / 2 ? 2 * rows : 0);
  s.bytes = carver.bytes();
  return s;
}

int64_t next_power_of_two(int64_t n) {
  int64_t size = 1;
  while (size < n) size *= 2;
  return size;
}

SortSpace sort_space(const Geometry& g, const Scratch& scratch) {
  SortSpace space;
  space.capacity = next_power_of_two(g.packed ? g.num_rows : g.width);
  if (space.capacity > kSharedRows) space.global = scratch.ranked;
  return space;
}

int32_t split_of(int64_t rows, int64_t vocab) {
  const int64_t wanted = kWaves * kBlocksPerMultiprocessor * multiprocessors() / max_of<int64_t>(1, rows);
  return static_cast<int32_t>(min_of(num_chunks(vocab), next_power_of_two(wanted)));
}

RowsJob rows_job(RowsOp op, const SweepParams& sweep, const Resolved& r, const Workspace& w) {
  const int64_t rows = r.geometry.num_rows;
  const Scratch scratch = cut_scratch(w.scratch, rows);
  RowsJob job;
  job.op = op;
  job.sweep = sweep;
  job.resolved = r;
  job.split = split_of(rows, r.vocab);
  job.row_arrivals = w.counters;
  job.sequence_arrivals = w.counters + rows;
  job.parts = scratch.parts;
  job.records = scratch.records;
  return job;
}

}  // namespace

int64_t num_counters(int64_t rows, int64_t batch) { return rows + batch; }
int64_t scratch_bytes(int64_t rows) { return cut_scratch(nullptr, rows).bytes; }

void row_stats(const RowStatsArgs& a, const Resolved& r, const Workspace& w, void* stream) {
  RowsJob job = rows_job(RowsOp::kRowStats, a.sweep, r, w);
  job.tilt = true;
  job.given = a.given;
  job.stats_out = a.out;
  launch_rows(job, SortSpace{}, stream);
}

void draw_tokens(const DrawArgs& a, const Resolved& r, const Workspace& w, void* stream) {
  RowsJob job = rows_job(RowsOp::kDraw, a.sweep, r, w);
  job.tilt = true;
  job.draw = a.draw;
  job.draw_out = a.out;
  launch_rows(job, SortSpace{}, stream);
}

void denoise_step(const StepArgs& a, const Resolved& r, const Workspace& w, void* stream) {
  const Geometry& g = r.geometry;
  RowsJob job = rows_job(RowsOp::kStep, a.sweep, r, w);
  job.tilt = r.confidence == kNegEntropy || r.rule == kEntropyBudget;
  job.draw = a.draw;
  job.decide = a.decide;
  job.step_out = a.out;
  const SortSpace space = sort_space(g, cut_scratch(w.scratch, g.num_rows));
  job.fused =
      g.num_rows > 0 && space.capacity <= kFusedRows && (!g.packed || a.decide.x.shape[0] <= kFusedPackedSequences);
  launch_rows(job, space, stream);
  if (!job.fused) launch_decide(job, space, stream);
}

void topk_unmask(const UnmaskArgs& a, const Resolved& r, const Workspace& w, void* stream) {
  launch_unmask(a, r, sort_space(r.geometry, cut_scratch(w.scratch, r.geometry.num_rows)), stream);
}

}  // namespace dlm::cuda
