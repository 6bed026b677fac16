// The one kernel that reads logits: row statistics, draws and the fused step are the same sweep with more or less after
// it. Work split: some blocks share a row, chunk by chunk; the last of them to arrive finishes the row, and the last
// row of a sequence to arrive decides and commits it. Nobody waits for anybody.
#pragma once

#include "cut_row.h"
#include "draw_row.h"
#include "launch.h"
#include "redraw_row.h"
#include "sequence.h"

namespace dlm::cuda {

// Whether the row's logits are read at all.
__device__ inline bool is_wanted(const RowsJob& job, const Place& at) {
  return job.op <= RowsOp::kDraw ? at.b >= 0 : may_write(job.args.step.decide, at);
}

// The calling block's part of a row: pieces [begin, end) of `pieces` equal ones.
struct Part {
  int64_t row;
  unsigned begin, end, pieces;
  int of;  // parts of the row

  __device__ Part(const Split& split, int64_t num_rows) {
    const unsigned block = blockIdx.x;
    const unsigned rows = static_cast<unsigned>(num_rows), cut = static_cast<unsigned>(split.cut);
    if (cut > 0) {  // the smaller first parts of rows, whole rows, the larger second parts
      const bool second = block >= rows;
      const unsigned at = second ? block - rows : block;
      const bool whole = at >= cut;
      const unsigned first = 1 + at * (kCutPieces - 1) / cut;
      row = at, pieces = kCutPieces, of = whole ? 1 : 2;
      begin = second ? first : 0, end = whole || second ? kCutPieces : first;
      return;
    }
    const unsigned before = static_cast<unsigned>(split.rows) * split.first;
    const bool first = block < before;
    const unsigned number = first ? block : block - before;
    pieces = static_cast<unsigned>(first ? split.first : split.rest), of = static_cast<int>(pieces);
    const unsigned among = number / pieces;
    begin = number - among * pieces, end = begin + 1;
    row = first ? among : split.rows + static_cast<int64_t>(among);
  }

  __device__ Chunks of_row(int chunks) const { return {edge(begin, chunks), edge(end, chunks)}; }

 private:
  __device__ int edge(unsigned at, int chunks) const {
    return static_cast<int>(at * static_cast<unsigned>(chunks) / pieces);
  }
};

// Transitions have kernels of their own: the end of a row takes more registers there.
enum class Family : int { kDraws = 0, kMoves = 1 };

// What the block reads first that takes this one's place: of whole rows it is known which one that is.
template <class Source, Family kFamily>
__device__ Coming coming(const RowsJob& job, int64_t b) {
  const Geometry& g = job.resolved.geometry;
  const DecideParams& decide = job.args.step.decide;
  const int64_t row = blockIdx.x + static_cast<int64_t>(job.split.turn);
  if (row >= g.num_rows) return {};
  const Place at = find_place(g, row);
  // Nobody may look at what is being written: positions of transitions one by one, others with their sequence.
  const bool settled =
      kFamily == Family::kMoves ? !decide.has_mask || decide.writes == (kMask | kToken) : !job.fused || at.b == b;
  if (!settled || !is_wanted(job, at)) return {};
  const int64_t bytes = job.resolved.vocab * static_cast<int64_t>(sizeof(typename Source::Logit));
  return {
      reinterpret_cast<const unsigned char*>(Source::row_of(job.args.step.sweep.logits, g, row, sequence_of(g, row))),
      static_cast<int>(min_of<int64_t>(bytes, kAheadBytes))};
}

template <class T, Mix kMix, bool kWithTilt, Family kFamily = Family::kDraws>
__global__ void __launch_bounds__(kThreads, kMix == Mix::kPlain ? kPlainBlocks : kOtherBlocks)
    rows_kernel(const __grid_constant__ RowsJob argument) {
  using Source = RowSource<T, kMix>;
  constexpr int kFlags = kWithTilt ? kTilt : kPlain;
  const Geometry& g = argument.resolved.geometry;
  const Part part(argument.split, g.num_rows);
  const int64_t row = part.row;
  const int64_t b = sequence_of(g, row);
  const Place at = find_place(g, row, b);
  const bool wanted = is_wanted(argument, at);
  RowJob& job = row_job();

  if (argument.fused && g.packed && blockIdx.x == 0) count_absent(argument);
  if (!wanted && part.begin != 0) return;
  const bool alone = part.of == 1;
  if (threadIdx.x == 0) job.row = row, job.at = at;
  JobCopy copy;
  copy.load(argument);
  if (wanted) {
    const SweepParams& sweep = argument.args.step.sweep;
    const int vocab = static_cast<int>(argument.resolved.vocab);
    const Source source(sweep, Source::row_of(sweep.logits, g, row, b),
                        kMix == Mix::kGuided ? Source::row_of(sweep.uncond, g, row, b) : nullptr);
    const Chunks chunks = part.of_row(num_chunks(vocab));

    // Everything is asked for before anything is waited for, and what one thread finds out each warp does another of.
    const float temperature = float_at(sweep.temperature, at.b);
    const bool asks = kFamily == Family::kMoves && threadIdx.x == 2 * kWarp;
    const int64_t token = asks ? find_token(argument.args.step.decide.x, at) : -1;
    Feed<Source> tiles(source, vocab, chunks, feed_space(cuts(argument)));

    // While the first logits are on their way:
    copy.store();
    const RowLaw law = law_of(argument, temperature);
    DLM_SHARED(Partial, parts_here, [kMaxChunks]);
    DLM_SHARED(Maxima, maxima_here, [kMaxChunks]);
    Partial* const parts = alone ? parts_here : argument.parts + row * num_chunks(vocab);
    Maxima* const maxima = alone ? maxima_here : argument.maxima + row * num_chunks(vocab);
    if (threadIdx.x == 0) {
      job.law = law, job.logits = source.row(0), job.uncond = source.row(1);
      job.row_parts = parts, job.row_maxima = maxima;
    }
    if (asks) job.before = held(argument, source, token, {});
    if (threadIdx.x == kWarp && (kFamily == Family::kMoves || law.draw_beta > 0)) {
      const Stream stream = kFamily == Family::kMoves ? kStreamRoute : kStreamDraw;
      job.uniform = row_uniform(argument.args.step.draw, g, row, at, stream);
    }
    const bool looks_ahead = argument.split.turn > 0 && threadIdx.x / kWarp == kWarps - 1;
    if (looks_ahead) {
      const Coming next = coming<Source, kFamily>(argument, at.b);
      if (threadIdx.x % kWarp == 0) job.coming = next;
    }

    if (law.draw_beta > 0 && law.draw_beta != law.beta) {
      sweep_chunks<kFlags | kTwoLaws>(source, law, vocab, chunks, tiles, parts, maxima);
    } else {
      sweep_chunks<kFlags>(source, law, vocab, chunks, tiles, parts, maxima);
    }
    if (looks_ahead) job.coming.fetch();
  } else {
    copy.store();
  }
  if (!last_to_arrive(argument.row_arrivals + row, wanted ? static_cast<unsigned>(part.of) : 1)) return;
  if (wanted) {
    if (cuts(job)) cut_row<Source>();
    if constexpr (kFamily == Family::kDraws) finish_draw<Source>();
    if constexpr (kFamily == Family::kMoves) {
      job.resolved.redraw == kNoRedraw ? finish_move<Source>() : finish_redraw<Source>();
    }
  } else {
    if (threadIdx.x == 0) store_unread(job, job.row, job.at, kClosed);
    __syncthreads();
  }
  if (job.fused) finish_fused<kFamily == Family::kMoves>();
}

inline void launch_kernel(void (*kernel)(RowsJob), const RowsJob& job, const SortSpace& space, void* stream) {
  const size_t sweeping = feed_offset(has_filters(job.args.step.sweep)) + kFeedBytes;
  const size_t sorting = job.fused ? space.shared_bytes() : 0;
  const size_t holding = job.split.held > 0 ? shared_to_hold(job.split.held) : 0;
  const int64_t blocks = job.split.blocks(job.resolved.geometry.num_rows);
  launch("rows", kernel, blocks, kThreads, max_of(max_of(sweeping, sorting), holding), stream, job);
}

// Each instantiated once per logit dtype, in draws_*.cu and moves_*.cu, which is where all the compile time goes.
template <class T>
void launch_draws_of(const RowsJob& job, const SortSpace& space, void* stream) {
  const auto kernel = given(job.args.step.sweep.uncond) ? rows_kernel<T, Mix::kGuided, true>
                      : job.args.step.sweep.softcap > 0 ? rows_kernel<T, Mix::kCapped, true>
                      : job.tilt                        ? rows_kernel<T, Mix::kPlain, true>
                                                        : rows_kernel<T, Mix::kPlain, false>;
  launch_kernel(kernel, job, space, stream);
}

template <class T>
void launch_moves_of(const RowsJob& job, const SortSpace& space, void* stream) {
  if (job.args.step.sweep.softcap > 0) launch_failed("rows", "no kernel for transitions of capped logits");
  const auto kernel = given(job.args.step.sweep.uncond) ? rows_kernel<T, Mix::kGuided, false, Family::kMoves>
                                                        : rows_kernel<T, Mix::kPlain, false, Family::kMoves>;
  launch_kernel(kernel, job, space, stream);
}

}  // namespace dlm::cuda
