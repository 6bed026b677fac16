#include "backend.h"

#include <algorithm>
#include <utility>

#include "../core/carve.h"
#include "../core/redraw.h"
#include "counters.h"

namespace dlm::cuda {
namespace {

// Sorting beside the sweep takes shared memory from every block of it, so only block-sized sequences are.
constexpr int64_t kFusedRows = 512;
// A packed step looks through all rows for each sequence.
constexpr int64_t kFusedPackedSequences = 32;
// As many as may have counters, up to three each, beside those of split rows, which are few.
constexpr int64_t kFusedSequences = kMaxCounters / 4;
// Most a block may ask for on every architecture from sm_80 on, in rows: 96 KiB.
constexpr int64_t kSharedRows = 4096;

// How many times over the device is filled where it cannot run all rows at once: while some finish theirs, others keep
// the memory busy.
constexpr int64_t kWaves = 2;
// Of more rows the last turn does not matter, and each row that is shared takes a counter.
constexpr int64_t kCountedRows = kMaxCounters / 8;

struct Scratch {
  Partial* parts;
  Maxima* maxima;
  RowRecords records;
  Ranked* ranked;
  int64_t bytes;
};

// vocab 0: no logits are read.
Scratch cut_scratch(void* base, int64_t rows, int64_t vocab) {
  Carver carver(base, 256);
  Scratch s;
  carver.take(s.parts, rows * num_chunks(vocab));
  carver.take(s.maxima, rows * num_chunks(vocab));
  const int64_t recorded = vocab > 0 ? rows : 0;
  carver.take(s.records.value, recorded);
  carver.take(s.records.key, recorded);
  carver.take(s.records.entropy, recorded);
  carver.take(s.records.gain, recorded);
  carver.take(s.records.state, recorded);
  carver.take(s.ranked, rows > kSharedRows ? 2 * rows : 0);
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

// Few rows are shared by as many blocks as run at once, or as have a chunk for each of their warps; of many, blocks
// take turns, and the rows of a last turn that would leave places empty are shared by more.
Split split_among(int64_t rows, int64_t vocab, int64_t at_once) {
  const int64_t most = (num_chunks(vocab) + kWarps - 1) / kWarps;
  const int64_t each = at_once / max_of<int64_t>(1, rows);
  const int64_t wanted = each >= 2 ? next_power_of_two(each / 2 + 1) : next_power_of_two(kWaves * at_once / rows);
  const int64_t first = min_of(most, wanted), rest = rows % max_of<int64_t>(1, at_once / first);
  const int64_t spare = rest > 0 && rest < rows ? at_once / rest : 1;
  int64_t finer = first;
  while (rows <= kCountedRows && 2 * finer <= min_of(most, spare)) finer *= 2;
  Split split;
  split.rows = static_cast<int32_t>(rows - rest);
  split.first = static_cast<int32_t>(first), split.rest = static_cast<int32_t>(finer);
  return split;
}

// Whole rows that take as many turns with a block less per multiprocessor take those: fuller turns, and more memory for
// each block meanwhile. In two turns that are full, all blocks would end together, and memory be idle while they do:
// some rows are cut in two, so that the first turn's blocks end one after the other; elsewhere blocks look ahead. (All
// of it was measured, bench/notes/gpu.md: elsewhere cuts cost more than they bring, and so does looking ahead beside
// cuts.)
Split split_of(int64_t rows, int64_t vocab, bool plain) {
  const int64_t count = multiprocessors(), most = blocks_at_once(plain), at_once = count * most;
  const auto turns = [&](int64_t blocks) { return (rows + blocks - 1) / blocks; };
  Split split = split_among(rows, vocab, at_once);
  if (split.first > 1 || split.rest > 1 || turns(at_once) < 2) return split;
  int64_t places = at_once;
  if (most > 1 && turns(count * (most - 1)) == turns(at_once)) {
    places = count * (most - 1);
    split = split_among(rows, vocab, places);
    split.held = static_cast<int32_t>(most - 1);
  } else if (turns(at_once) == 2 && rows <= kCountedRows && num_chunks(vocab) >= kCutPieces) {
    split.cut = static_cast<int32_t>(at_once * 9 / 20);
  }
  if (plain && split.cut == 0) split.turn = static_cast<int32_t>(places);
  return split;
}

RowsJob rows_job(RowsOp op, const SweepParams& sweep, const Resolved& r, const Scratch& scratch) {
  RowsJob job;
  job.op = op;
  job.args.step.sweep = sweep;
  job.resolved = r;
  job.split = split_of(r.geometry.num_rows, r.vocab, !given(sweep.uncond) && !(sweep.softcap > 0));
  job.parts = scratch.parts;
  job.maxima = scratch.maxima;
  job.records = scratch.records;
  return job;
}

// The counters that the job needs, and no more: whole rows and launches that finish no sequence need none.
void take_counters(RowsJob* job, void* stream) {
  const bool shared = max_of(job->split.first, job->split.rest) > 1 || job->split.cut > 0;
  const int64_t rows = shared ? (job->resolved.geometry.num_rows + 1) / 2 * 2 : 0;
  const int64_t each = job->op == RowsOp::kTransition ? 2 : 1;  // count_move's numbers have 64 bits
  const int64_t sequences = job->fused ? each * job->args.step.decide.x.shape[0] : 0;
  if (rows + sequences == 0) return;
  job->row_arrivals = counters_for(stream, rows + sequences);
  job->sequence_counts = job->row_arrivals + rows;
}

// Rows, then their sequences: in one launch where that is cheap. Transitions sort nothing.
void run_step(RowsJob* job, const Scratch& scratch, void* stream) {
  const Geometry& g = job->resolved.geometry;
  const int64_t batch = job->args.step.decide.x.shape[0];
  const bool few = g.packed ? g.num_rows <= kFusedRows && batch <= kFusedPackedSequences : batch <= kFusedSequences;
  const SortSpace space = job->op == RowsOp::kTransition ? SortSpace{} : sort_space(g, scratch);
  const bool counted = job->op != RowsOp::kTransition || g.num_rows >> kMoveCountBits == 0;
  job->fused = g.num_rows > 0 && few && counted && space.capacity <= kFusedRows;
  take_counters(job, stream);
  launch_rows(*job, space, stream);
  if (!job->fused) launch_sequences(*job, space, stream);
}

}  // namespace

int64_t scratch_bytes(int64_t rows, int64_t vocab) { return cut_scratch(nullptr, rows, vocab).bytes; }

void row_stats(const RowStatsArgs& a, const Resolved& r, void* scratch, void* stream) {
  RowsJob job = rows_job(RowsOp::kRowStats, a.sweep, r, cut_scratch(scratch, r.geometry.num_rows, r.vocab));
  job.tilt = true;
  job.args.step.draw.current = a.given;
  job.stats_out = a.out;
  take_counters(&job, stream);
  launch_rows(job, SortSpace{}, stream);
}

void draw_tokens(const DrawArgs& a, const Resolved& r, void* scratch, void* stream) {
  RowsJob job = rows_job(RowsOp::kDraw, a.sweep, r, cut_scratch(scratch, r.geometry.num_rows, r.vocab));
  job.tilt = true;
  job.args.step.draw = a.draw;
  job.draw_out = a.out;
  take_counters(&job, stream);
  launch_rows(job, SortSpace{}, stream);
}

void denoise_step(const StepArgs& a, const Resolved& r, void* scratch, void* stream) {
  const Scratch cut = cut_scratch(scratch, r.geometry.num_rows, r.vocab);
  RowsJob job = rows_job(RowsOp::kStep, a.sweep, r, cut);
  job.tilt = r.confidence == kNegEntropy || needs_entropy(r.rule);
  job.args.step = a;
  run_step(&job, cut, stream);
}

void renoise_step(const RenoiseArgs& a, const Resolved& r, void* scratch, void* stream) {
  const Scratch cut = cut_scratch(scratch, r.geometry.num_rows, r.vocab);
  RowsJob job = rows_job(RowsOp::kRenoise, a.step.sweep, r, cut);
  job.tilt = true;
  job.args = a;
  run_step(&job, cut, stream);
}

void transition_step(const TransitionArgs& a, const Resolved& r, void* scratch, void* stream) {
  const Scratch cut = cut_scratch(scratch, r.geometry.num_rows, r.vocab);
  RowsJob job = rows_job(RowsOp::kTransition, a.sweep, r, cut);
  job.args.step.draw = a.draw;
  job.args.step.decide = a.decide;
  job.args.mask_id = a.mask_id;
  job.coefficients.is_row = is_host_row(a.coefficients);
  if (job.coefficients.is_row) {
    std::copy_n(static_cast<const double*>(a.coefficients.data), kTransitionSize, job.coefficients.row);
  } else {
    job.coefficients.array = a.coefficients;
  }
  job.level = a.level;
  if (r.redraw == kGuidance) std::swap(job.other, job.args.step.sweep.uncond);  // posteriors are combined, not logits
  job.transition_out = a.out;
  run_step(&job, cut, stream);
}

void row_kl(const DivergenceArgs& a, const Resolved& r, void* stream) { launch_divergence(a, r, stream); }

void q_sample(const NoisingArgs& a, const Resolved& r, void* stream) { launch_noising(a, r, stream); }

void topk_unmask(const UnmaskArgs& a, const Resolved& r, void* scratch, void* stream) {
  launch_unmask(a, r, sort_space(r.geometry, cut_scratch(scratch, r.geometry.num_rows, 0)), stream);
}

}  // namespace dlm::cuda
