// The cutoff of a row, found by the block that completes it. Every filter comes down to one token: that at which a sum
// over the tokens in the cutoff's order, of their number or of their mass, first exceeds a target. What the sweep has
// left bounds the search: the maxima of quarters of chunks are tokens themselves, so where the largest of them reach
// the target alone, the crossing token is no lower, and chunks whose maximum is are not read again. Of a confident row
// that leaves one or two.
//
// Then tokens are summed up in bins of logits, and again in smaller bins inside the one in which the target is crossed,
// until a thread each can take what is left. All sums are of integers, masses in fixed point: no order of threads
// shows.
#pragma once

#include "cut_space.h"
#include "sweep.h"

namespace dlm::cuda {

__device__ inline void add(CutSpace::Bin* bin, uint64_t weight) {
  const uint32_t low = static_cast<uint32_t>(weight), before = atomicAdd(&bin->low, low);
  const uint32_t high = static_cast<uint32_t>(weight >> 32) + (before + low < before);  // and the carry
  if (high != 0) atomicAdd(&bin->high, high);
}

// Logits as integers of their order. Both zeros are one number.
__device__ inline int key_of(float z) { return ordered(z + 0.0f); }

// Where the crossing token is: its logit's key and its index are in these ranges.
struct Stretch {
  int low, high, first, last;
};

// How the tokens of a stretch are told apart: bins of logits, of keys (which get to the bottom of any floats), of
// indices (of equal logits), or one by one.
enum class Digit { kLogit, kKey, kIndex, kEach };

struct Binning {
  Digit digit;
  float scale, top;  // kLogit: the first bin begins at top / scale, each is 1 / scale wide
  int shift;         // kKey, kIndex: each is 1 << shift wide

  // In the cutoff's order.
  __device__ int bin_of(const Stretch& s, float z, int64_t index) const {
    if (digit == Digit::kLogit) return static_cast<int>(fminf(top - floorf(z * scale), kBins - 1));
    if (digit == Digit::kKey) {
      return static_cast<int>((static_cast<uint32_t>(s.high) - static_cast<uint32_t>(key_of(z))) >> shift);
    }
    return static_cast<int>((index - s.first) >> shift);
  }
  __device__ Stretch inside(Stretch s, int bin) const {
    const int64_t begin = static_cast<int64_t>(bin) << shift, width = int64_t{1} << shift;
    if (digit == Digit::kLogit) {  // whole numbers below 2^24 over a power of two: no edge is rounded
      const float edge = top - static_cast<float>(bin);
      s.high = min_of(s.high, key_of((edge + 1) / scale) - 1);
      if (bin < kBins - 1) s.low = max_of(s.low, key_of(edge / scale));
    } else if (digit == Digit::kKey) {
      s.high = static_cast<int>(s.high - begin);
      s.low = static_cast<int>(max_of<int64_t>(s.low, s.high - width + 1));
    } else {
      s.first = static_cast<int>(s.first + begin);
      s.last = static_cast<int>(min_of<int64_t>(s.last, s.first + width - 1));
    }
    return s;
  }
};

__device__ inline int exponent_of(float v) { return (__float_as_int(v) >> 23 & 255) - 127; }

// From the maximum down to about `reach` below it; all that is lower is in the last bin.
__device__ inline Binning logit_bins(float max, float reach) {
  const int finest = max_of(exponent_of(max) - 13, -100);  // or the edges would not be floats
  const int exponent = min_of(max_of(exponent_of(reach), finest), kBinBits - 1);
  const float scale = __int_as_float((127 + kBinBits - 1 - exponent) << 23);
  return {Digit::kLogit, scale, floorf(max * scale), 0};
}
constexpr float kMaxBinned = 0x1p22f;  // nor would those of larger logits

__device__ inline Binning integer_bins(Digit digit, int64_t first, int64_t last) {
  return {digit, 0, 0, max_of(0, 64 - __clzll(last - first) - kBinBits)};
}

// body(logit, offset) where wanted(logit, offset), for the chunk at `begin`, which kLanes threads share. Few are
// wanted, or many do much: a loop over them instead of a copy of the body for each.
template <int kLanes, class Source, class Wanted, class Body>
__device__ void each_wanted(const Source& source, int vocab, int begin, Wanted wanted, Body body) {
  const int size = min_of(static_cast<int>(chunk_size(vocab)), vocab - begin);
#pragma unroll 1
  for (int tile = 0; tile < size; tile += kLanes * Source::kLaneTile) {
    typename Source::Vector vector[Source::kTileVectors];
    source.template load_tile<kLanes>(begin, tile, size, vector);
#pragma unroll 1
    for (int i = 0; i < Source::kTileVectors; ++i, shift_down(vector)) {
      const int at = tile + (i * kLanes + static_cast<int>(threadIdx.x) % kLanes) * Source::kLogits;
      unsigned left = 0;
      vector[0].each([&](int k, float z) { left |= wanted(source.effective(z), at + k) ? 1u << k : 0; });
#pragma unroll 1
      for (; left != 0; left &= left - 1) {
        const int k = __ffs(static_cast<int>(left)) - 1;
        body(source.effective(vector[0].at(k)), at + k);
      }
    }
  }
}

// The maximum of chunk `lane`.
__device__ inline float lane_max(const Partial* parts, int chunks) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return lane < chunks ? parts[lane].max : -kInfinity;
}

// The largest of the maxima through which their own sum exceeds the target; -inf if there is none. `max`: the thread's.
__device__ inline float crossed_by_maxima(float max, const Weights& weights, CutSpace* space) {
  const int t = static_cast<int>(threadIdx.x);
  space->parts.max[t] = max;
  space->parts.weight[t] = max == -kInfinity ? 0 : weights.of(max);
  __syncthreads();
  uint64_t through = 0;
#pragma unroll 4
  for (int i = 0; i < kThreads; ++i) through += space->parts.max[i] >= max ? space->parts.weight[i] : 0;
  return block_max(static_cast<double>(through) > space->target ? max : -kInfinity);
}

// Cuts behind the one that crosses the target, which is among the few tokens in `space`.
__device__ inline void cut_among_few(const SweepParams& sweep, CutSpace* space) {
  const int t = static_cast<int>(threadIdx.x), count = min_of(space->few.count, kThreads);
  if (t < count) {
    const Cutoff mine = {space->few.z[t], space->few.index[t]};
    uint64_t before = space->before;
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      if (i != t && keeps(mine, space->few.z[i], space->few.index[i])) before += space->few.weight[i];
    }
    const uint64_t through = before + space->few.weight[t];
    if (static_cast<double>(before) <= space->target && static_cast<double>(through) > space->target) {
      const bool by_mass = space->weights.by_mass, dropped = by_mass && sweep.drop_crossing && before > 0;
      space->cut({mine.z, !by_mass && sweep.keep_ties ? INT64_MAX : mine.index - dropped});
    }
  }
  __syncthreads();
}

// Cuts the row, or its other logits, behind the first token through which the sum of weights exceeds the target. A
// call, as all that read a row: each has the registers to itself.
template <class Source>
__device__ DLM_NOINLINE void cut_where_crossed() {
  const RowJob& job = row_job();
  constexpr int kMine = kBins / kThreads;
  const int vocab = static_cast<int>(job.resolved.vocab);
  const int t = static_cast<int>(threadIdx.x), chunks = static_cast<int>(num_chunks(vocab));
  DLM_DYNAMIC_SHARED(CutSpace, space);
  const Source source(job, space->other);
  const Partial* const parts = job.row_parts;
  const Weights& weights = space->weights;
  const Maxima* const maxima = job.row_maxima;
  const float max = t < chunks * kQuarters ? maxima[t / kQuarters].of[t % kQuarters] : -kInfinity;
  const float lowest = -block_max(max == -kInfinity ? max : -max);
  const float floor = fmaxf(space->z, crossed_by_maxima(max, weights, space));

  Stretch s = {max_of(key_of(floor), key_of(-kInfinity) + 1), key_of(weights.max), 0, vocab - 1};
  Binning bins = integer_bins(Digit::kKey, s.low, s.high);
  if (fabsf(weights.max) < kMaxBinned) {
    // Without a bound, as far as the maxima spread, and as far again, and again.
    float reach = floor == -kInfinity ? 4 * (weights.max - lowest) : weights.max - floor;
    if (weights.by_mass) reach = fminf(reach, kMassBits / weights.scale);  // nothing weighs anything below
    bins = logit_bins(weights.max, reach);
  }
#pragma unroll 1
  for (;;) {
    if (bins.digit != Digit::kEach) {
      for (int i = t; i < kBins; i += kThreads) space->bin[i] = {0, 0};
    } else if (t == 0) {
      space->few.count = 0;
    }
    __syncthreads();
    const int size = static_cast<int>(chunk_size(vocab)), begin = t % kWarp * size;
    const bool holds = key_of(lane_max(parts, chunks)) >= s.low && begin <= s.last && begin + size > s.first;
#pragma unroll 1
    for (unsigned left = __ballot_sync(kAllLanes, holds); left != 0; left &= left - 1) {
      const int chunk = (__ffs(static_cast<int>(left)) - 1) * size;
      const int first = offset_in(chunk, size, s.first), last = offset_in(chunk, size, s.last);
      const auto inside = [&](float z, int offset) {
        const int key = key_of(z);
        return key >= s.low && key <= s.high && offset >= first && offset <= last;
      };
      each_wanted<kThreads>(source, vocab, chunk, inside, [&](float z, int offset) {
        if (bins.digit != Digit::kEach) {
          add(&space->bin[bins.bin_of(s, z, chunk + offset)], weights.of(z));
          return;
        }
        const int slot = atomicAdd(&space->few.count, 1);
        if (slot >= kThreads) return;
        space->few.weight[slot] = weights.of(z);
        space->few.index[slot] = chunk + offset;
        space->few.z[slot] = z;
      });
    }
    __syncthreads();
    if (bins.digit == Digit::kEach) break;

    uint64_t sum[kMine], total = 0;
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      const CutSpace::Bin b = space->bin[t * kMine + i];
      sum[i] = static_cast<uint64_t>(b.high) << 32 | b.low;
      total += sum[i];
    }
    uint64_t through = space->before + block_scan(total).before;
    int hit = kBins;
    uint64_t weight = 0;
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      if (hit < kBins) continue;
      weight = sum[i];
      through += weight;
      if (static_cast<double>(through) > space->target) hit = t * kMine + i;
    }
    const int chosen = block_min(hit);
    if (chosen == kBins) return;
    if (hit == chosen) space->before = through - weight, space->inside = weight;
    __syncthreads();

    s = bins.inside(s, chosen);
    const bool light = space->inside <= weights.of(from_ordered(s.low)) * kThreads;  // no token in it weighs less
    if (light || s.last - s.first < kThreads) {
      bins.digit = Digit::kEach;
    } else if ((static_cast<int64_t>(s.high) - s.low) >> Source::kKeyBits != 0) {
      bins = integer_bins(Digit::kKey, s.low, s.high);
    } else {
      bins = integer_bins(Digit::kIndex, s.first, s.last);
    }
  }
  cut_among_few(job.args.step.sweep, space);
}

// Sums up the partials again, about the same maxima, of the tokens kept: all that they hold, or, where the confidence
// is of all tokens, only what is drawn from.
template <class Source>
__device__ DLM_NOINLINE void sum_kept() {
  const RowJob& job = row_job();
  const int vocab = static_cast<int>(job.resolved.vocab);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int chunks = static_cast<int>(num_chunks(vocab));
  DLM_DYNAMIC_SHARED(CutSpace, space);
  const Source source(job, space->other);
  Partial* const parts = job.row_parts;
  const Cutoff cutoff = space->cutoff();
  const float scale = space->weights.scale, max = lane_max(parts, chunks);
  __syncthreads();  // all have read what is written below
  Partial kept = {-kInfinity, 0, 0, 0};
#pragma unroll 1
  for (unsigned left = __ballot_sync(kAllLanes, max >= cutoff.z && lane % kWarps == warp); left != 0;
       left &= left - 1) {
    const int chunk = __ffs(static_cast<int>(left)) - 1;
    const float about = __shfl_sync(kAllLanes, max, chunk);
    float mass = 0, tilt = 0;
    const int size = static_cast<int>(chunk_size(vocab)), begin = chunk * size;
    const Cutoff here = {cutoff.z, offset_in(begin, size, cutoff.index)};
    const auto kept_here = [&](float z, int offset) { return keeps(here, z, offset); };
    each_wanted<kWarp>(source, vocab, begin, kept_here, [&](float z, int) {
      const float y = (z - about) * scale, e = exp2_approx(y);
      mass += e;
      tilt = fmaf(e, fmaxf(y, -126.0f), tilt);
    });
    const auto sum = [](float a, float b) { return a + b; };
    mass = warp_reduce(mass, sum);
    tilt = warp_reduce(tilt, sum);
    if (lane == chunk && mass > 0) kept = {about, mass, tilt, mass};
  }
  if (lane < chunks && lane % kWarps == warp) {
    Partial* const part = parts + lane;
    if (job.resolved.confidence_from == kSampled) {
      *part = kept;
    } else {
      part->draw_mass = kept.mass;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) space->stale = false;
}

// First top_k, then, `by_mass`, what looks at probabilities. Says whether there is anything to search for.
__device__ DLM_NOINLINE inline bool aim(bool by_mass) {
  const RowJob& job = row_job();
  const SweepParams& sweep = job.args.step.sweep;
  const int t = static_cast<int>(threadIdx.x);
  const int64_t b = job.at.b;
  const Filter filter = filter_of(sweep, job.resolved, b);
  const float temperature = float_at(sweep.temperature, b);
  const double beta = temperature > 0 ? inverse_temperature(temperature) : 1;
  ChunkStats mine;
  if (t < static_cast<int>(num_chunks(job.resolved.vocab))) mine = as_chunk(job.row_parts[t]);
  const bool bad = __syncthreads_or(is_bad_chunk(mine)) != 0;
  const bool unseen = !(temperature > 0) && job.resolved.confidence_from != kSampled;
  const float max = block_max(mine.max);
  const double total = block_scan(relative_to(mine, max, beta, beta).draw_mass).total;
  DLM_DYNAMIC_SHARED(CutSpace, space);
  if (t == 0) {
    if (!by_mass) space->z = -kInfinity, space->index = INT64_MAX, space->stale = false;
    if (by_mass && !bad && !unseen) space->cut(min_p_cutoff(filter, max, beta));
    space->before = 0;
    space->weights = {max, static_cast<float>(beta * kLog2e), by_mass};
    space->target = by_mass ? max_of(0.0, filter.top_p) * total * kMassUnits : static_cast<double>(filter.top_k) - 0.5;
  }
  __syncthreads();
  return !bad && !unseen && (by_mass ? filter.top_p < 1 : filter.top_k > 0);
}

// Whether the partials are wanted of the tokens kept so far.
__device__ inline bool wants_sums(bool by_mass) {
  const RowJob& job = row_job();
  DLM_DYNAMIC_SHARED(CutSpace, space);
  if (!by_mass && !(job.resolved.top_k_first && given(job.args.step.sweep.top_p))) return false;
  return space->stale;
}

// Finds the cutoff of the row, or of its other logits, and sums up its partials again of what is kept, wherever
// anything looks at that: a draw, or a confidence under the same law. All threads of the block call. A call, so that
// rows without filters spare its registers.
template <class Source>
__device__ DLM_NOINLINE void cut_row(bool other = false) {
  DLM_DYNAMIC_SHARED(CutSpace, space);
  if (threadIdx.x == 0) space->other = other;
  if (aim(false)) cut_where_crossed<Source>();
  if (wants_sums(false)) sum_kept<Source>();
  if (aim(true)) cut_where_crossed<Source>();
  if (wants_sums(true)) sum_kept<Source>();
}

}  // namespace dlm::cuda
