// The sweep: one read of a chunk leaves one partial. A warp takes a chunk, its lanes take turns at the vectors, a few
// at a time (a tile); while a tile is worked on, the next ones are on their way. No barrier, and no word between lanes
// before the end of a chunk: until then each lane has a maximum and sums of its own.
//
// Bytes: each logit once. Per logit: half a maximum (16-bit types), widen, multiply-add, exp2, add.
#pragma once

#include "feed.h"

namespace dlm::cuda {

enum SweepFlags : int { kPlain = 0, kTilt = 1, kTwoLaws = 2 };

// A partial as core's formulas take it.
__device__ inline ChunkStats as_chunk(const Partial& p) {
  ChunkStats c;
  c.max = p.max;
  c.mass = p.mass;
  c.tilt = p.tilt * kLn2;
  c.draw_mass = p.draw_mass;
  return c;
}

// The maximum as a reference: -inf cannot be subtracted, and anything else will do in its place.
__device__ inline float reference(float max) { return max == -kInfinity ? 0 : max; }

// Of the lane's quarter of the warp; of all, from those.
__device__ inline float quarter_max(float v) {
#pragma unroll
  for (int lanes = 1; lanes < kWarp / kQuarters; lanes *= 2) v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, lanes));
  return v;
}
__device__ inline float max_of_quarters(float v) {
#pragma unroll
  for (int lanes = kWarp / kQuarters; lanes < kWarp; lanes *= 2) v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, lanes));
  return v;
}

__device__ inline float warp_sum(float v) {
  return warp_reduce(v, [](float a, float b) { return a + b; });
}

// What a lane knows of its logits under one law: sums of exponentials about `ref`, in log2 units, the largest product
// of logit and scale so far. A product is rounded, but a multiply-add against it is as exact as any other.
template <bool kWithTilt>
struct LaneSums {
  float ref = -1e30f;  // of nothing: what is added up about it is 0, and it is below what anybody's logits come to
  float mass = 0, tilt = 0;

  // About the larger of `ref` and this logit from now on.
  __device__ void raise(float top, float scale) {
    const float higher = fmaxf(ref, top * scale), fall = ref - higher, factor = exp2_approx(fall);
    if (kWithTilt) tilt = factor > 0 ? factor * fmaf(fall, mass, tilt) : 0;
    mass *= factor;
    ref = higher;
  }
  // About that logit, which is at least as large as the lane's.
  __device__ void settle(float max, float scale) {
    const float fall = -fmaf(max, scale, -ref), factor = exp2_approx(fall);
    if (kWithTilt) tilt = factor > 0 ? factor * fmaf(fall, mass, tilt) : 0;
    mass *= factor;
  }
};

// The lane's vectors of a chunk, without what is suppressed, one by one.
template <class Source, class Body>
__device__ void each_vector_of_lane(const Source& source, int64_t begin, int size, Body body) {
#pragma unroll 1
  for (int at = static_cast<int>(threadIdx.x) % kWarp * Source::kLogits; at < size; at += Source::kWarpTurn) {
    typename Source::Vector vector = source.load(begin + at, size - at);
    source.suppress(begin + at, &vector);
    body(vector);
  }
}

// A swept chunk: its partial, in every lane, and the maximum of the lane's quarter.
struct Swept {
  Partial part;
  float quarter;

  __device__ void store(Partial* parts, Maxima* maxima, int chunk) const {
    constexpr int kLanes = kWarp / kQuarters;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if (lane == 0) parts[chunk] = part;
    if (lane % kLanes == 0) maxima[chunk].of[lane / kLanes] = quarter;
  }
};

// A chunk's partial by two reads and a subtraction per logit: where tokens are suppressed, and of logits of which a
// product with the scale says nothing any more. A call, and its arguments are copies: the sweep keeps its registers.
template <int kFlags, class Source>
__device__ DLM_NOINLINE Swept sweep_with_care(Source source, float scale, float draw_scale, int begin, int size) {
  Partial p = {-kInfinity, 0, 0, 0};
  using Vector = typename Source::Vector;
  each_vector_of_lane(source, begin, size, [&](const Vector& v) { p.max = fmaxf(p.max, source.effective(v.top())); });
  const float quarter = quarter_max(p.max);
  p.max = max_of_quarters(quarter);
  const float about = reference(p.max);
  each_vector_of_lane(source, begin, size, [&](const Vector& v) {
    v.each([&](int, float as_read) {
      const float d = source.effective(as_read) - about, y = d * scale, e = exp2_approx(y);
      p.mass += e;
      if ((kFlags & kTilt) != 0) p.tilt = fmaf(e, fmaxf(y, -126.0f), p.tilt);
      if ((kFlags & kTwoLaws) != 0) p.draw_mass += exp2_approx(d * draw_scale);
    });
  });
  p.mass = warp_sum(p.mass);
  p.tilt = warp_sum(p.tilt);
  p.draw_mass = (kFlags & kTwoLaws) != 0 ? warp_sum(p.draw_mass) : p.mass;
  return {p, quarter};
}

template <int kFlags, class Source>
class Sweeper {
 public:
  using Vector = typename Source::Vector;

  __device__ Sweeper(const Source& source, const RowLaw& law)
      : source_(source),
        scale_(static_cast<float>(law.beta * kLog2e)),
        draw_scale_(static_cast<float>((law.draw_beta > 0 ? law.draw_beta : law.beta) * kLog2e)) {}

  // The lane's share of a tile, of which its first `live` vectors have any logits.
  __device__ void add(const Vector (&tile)[Source::kTileVectors], int live) {
    Vector high = tile[0];
#pragma unroll
    for (int i = 1; i < Source::kTileVectors; ++i) high = high.max(tile[i]);
    const float top = source_.effective(high.top());
    max_ = fmaxf(max_, top);
    law_.raise(top, scale_);
    if ((kFlags & kTwoLaws) != 0) draw_.raise(top, draw_scale_);
    if (live == Source::kTileVectors) {
#pragma unroll
      for (int i = 0; i < Source::kTileVectors; ++i) add(tile[i]);
    } else {
#pragma unroll
      for (int i = 0; i < Source::kTileVectors; ++i) {
        if (i < live) add(tile[i]);
      }
    }
  }

  // The chunk that ends here; false if it is to be swept with care.
  __device__ bool close(int begin, int size, Swept* swept) {
    Partial& p = swept->part;
    swept->quarter = quarter_max(max_);
    p.max = max_of_quarters(swept->quarter);
    const float about = reference(p.max);
    law_.settle(about, scale_);
    p.mass = warp_sum(law_.mass);
    p.tilt = (kFlags & kTilt) != 0 ? warp_sum(law_.tilt) : 0;
    p.draw_mass = p.mass;
    if ((kFlags & kTwoLaws) != 0) {
      draw_.settle(about, draw_scale_);
      p.draw_mass = warp_sum(draw_.mass);
    }
    max_ = -kInfinity;
    law_ = {};
    draw_ = {};
    return (p.max == -kInfinity || (is_sane(p.mass) && is_sane(p.draw_mass))) && !source_.suppresses(begin, size);
  }

  __device__ Swept with_care(int begin, int size) const {
    return sweep_with_care<kFlags>(source_, scale_, draw_scale_, begin, size);
  }

 private:
  // The maximum itself weighs 1.
  __device__ static bool is_sane(float mass) { return mass >= 0.5f && mass < kInfinity; }

  __device__ void add(const Vector& vector) {
    float mass = 0, tilt = 0, draw_mass = 0;
    vector.each([&](int, float as_read) {
      const float z = source_.effective(as_read), y = fmaf(z, scale_, -law_.ref), e = exp2_approx(y);
      mass += e;
      if ((kFlags & kTilt) != 0) tilt = fmaf(e, fmaxf(y, -126.0f), tilt);  // e is 0 below, and 0 * -inf no number
      if ((kFlags & kTwoLaws) != 0) draw_mass += exp2_approx(fmaf(z, draw_scale_, -draw_.ref));
    });
    law_.mass += mass;
    law_.tilt += tilt;
    draw_.mass += draw_mass;
  }

  const Source& source_;
  const float scale_, draw_scale_;
  float max_ = -kInfinity;
  LaneSums<(kFlags & kTilt) != 0> law_;
  LaneSums<false> draw_;
};

// Chunks [first, stop) of a row, by the calling block, whose warps take turns at them: a partial each, to where `parts`
// has that of chunk 0, and maxima likewise. `space` is the block's.
template <int kFlags, class Source>
__device__ void sweep_chunks(const Source& source, const RowLaw& law, int64_t vocab, int first, int stop,
                             Partial* parts, Maxima* maxima, void* space) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int size = static_cast<int>(chunk_size(vocab)), end = static_cast<int>(vocab);
  Sweeper<kFlags, Source> sweeper(source, law);
  Feed<Source> feed(source, vocab, first + warp, stop, space);
  static_assert(kMaxChunks <= 32, "one bit per chunk");
  unsigned doubtful = 0;
#pragma unroll 1
  for (int chunk = first + warp; chunk < stop; chunk += kWarps) {
    const int begin = chunk * size, here = min_of(size, end - begin);
#pragma unroll 1
    for (int left = here - lane * Source::kLogits; left > -lane * Source::kLogits; left -= Source::kWarpTile) {
      typename Source::Vector vector[Source::kTileVectors];
      const int live = feed.next(left, vector);
      sweeper.add(vector, live);
    }
    Swept swept;
    if (!sweeper.close(begin, here, &swept)) doubtful |= 1u << chunk;
    swept.store(parts, maxima, chunk);
  }
#pragma unroll 1
  for (; doubtful != 0; doubtful &= doubtful - 1) {  // not in between: here the sweep's registers are free
    const int chunk = __ffs(static_cast<int>(doubtful)) - 1, begin = chunk * size;
    sweeper.with_care(begin, min_of(size, end - begin)).store(parts, maxima, chunk);
  }
}

}  // namespace dlm::cuda
