// The sweep: one read of a chunk leaves one partial per warp. The block's threads take turns at the chunk's vectors, a
// few at a time (a tile): first the warp's maximum of the tile, then every exponential against it, so that nothing is
// rescaled per logit and no exponential exceeds 1. No barrier: warps run through a part of a row on their own, and
// feed.h keeps what they need next on its way.
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

// The exponent (z - ref) * scale in one multiply-add per logit, z * scale - product. The product is rounded; all
// exponents are too large by the same `slip`, at most 1/2, and sums of their exponentials are repaired by one factor.
struct ByProduct {
  float scale, product, slip, repair;

  __device__ static bool suits(float ref, float scale) { return fabsf(ref) * scale < 0x1p24f; }
  __device__ ByProduct(float ref, float s)
      : scale(s), product(ref * s), slip(fmaf(ref, s, -product)), repair(exp2_approx(-slip)) {}
  __device__ float of(float z) const { return fmaf(z, scale, -product); }
};

// The same for laws colder than anybody draws from, or logits larger than any model's.
struct ByDifference {
  static constexpr float slip = 0, repair = 1;
  float ref, scale;

  __device__ ByDifference(float r, float s) : ref(r), scale(s) {}
  __device__ float of(float z) const { return (z - ref) * scale; }
};

template <int kFlags, class Source>
class Sweeper {
 public:
  __device__ Sweeper(const Source& source, const RowLaw& law)
      : source_(source),
        scale_(static_cast<float>(law.beta * kLog2e)),
        draw_scale_(static_cast<float>((law.draw_beta > 0 ? law.draw_beta : law.beta) * kLog2e)) {}

  // The chunk of `size` logits from `begin` on, whose tiles are next: the calling warp's partial, in every lane.
  __device__ Partial sweep(Feed<Source>* feed, int begin, int size) const {
    Partial lane = {-kInfinity, 0, 0, 0};
    for (int tile = 0; tile < size; tile += Source::kTile) {
      Vector vector[kVectors];
      const int live = feed->next(begin, tile, size, vector);
      Vector high = vector[0];
#pragma unroll
      for (int i = 1; i < kVectors; ++i) high = high.max(vector[i]);
      const float top = warp_max(source_.effective(high.top()));
      if (tile > 0) rescale(&lane, top);
      lane.max = fmaxf(lane.max, top);
      const float ref = reference(lane.max);
      if (ByProduct::suits(ref, fmaxf(scale_, draw_scale_))) {
        accumulate<ByProduct>(&lane, vector, live, ref);
      } else {
        accumulate<ByDifference>(&lane, vector, live, ref);
      }
    }
    lane.mass = sum(lane.mass);
    if ((kFlags & kTilt) != 0) lane.tilt = sum(lane.tilt);
    lane.draw_mass = (kFlags & kTwoLaws) != 0 ? sum(lane.draw_mass) : lane.mass;
    return lane;
  }

 private:
  using Vector = typename Source::Vector;
  static constexpr int kVectors = Source::kTileVectors;

  __device__ static float sum(float v) {
    return warp_reduce(v, [](float a, float b) { return a + b; });
  }

  // To the maximum of everything so far; sums of 0 stay 0, whatever the factor would be.
  __device__ void rescale(Partial* lane, float top) const {
    const float fall = fminf(reference(lane->max) - reference(fmaxf(lane->max, top)), 0);
    const float factor = exp2_approx(fall * scale_);
    if ((kFlags & kTilt) != 0) {
      lane->tilt = factor > 0 ? factor * fmaf(fall * scale_, lane->mass, lane->tilt) : 0;
    }
    lane->mass *= factor;
    if ((kFlags & kTwoLaws) != 0) lane->draw_mass *= exp2_approx(fall * draw_scale_);
  }

  template <class Exponent>
  __device__ void accumulate(Partial* lane, const Vector (&vector)[kVectors], int live, float ref) const {
    const Exponent law(ref, scale_), draw(ref, draw_scale_);
    float mass = 0, tilt = 0, draw_mass = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      if (i >= live) continue;
      vector[i].each([&](int, float as_read) {
        const float z = source_.effective(as_read), y = law.of(z), e = exp2_approx(y);
        mass += e;
        if ((kFlags & kTilt) != 0) tilt = fmaf(e, fmaxf(y, -126.0f), tilt);  // e is 0 below, and 0 * -inf no number
        if ((kFlags & kTwoLaws) != 0) draw_mass += exp2_approx(draw.of(z));
      });
    }
    lane->mass = fmaf(mass, law.repair, lane->mass);
    if ((kFlags & kTilt) != 0) lane->tilt = fmaf(fmaf(-law.slip, mass, tilt), law.repair, lane->tilt);
    if ((kFlags & kTwoLaws) != 0) lane->draw_mass = fmaf(draw_mass, draw.repair, lane->draw_mass);
  }

  const Source& source_;
  const float scale_, draw_scale_;
};

// Chunks [first, stop) of a row, by the calling block: kWarps partials each, to where `parts` has those of chunk 0.
// `space` is the block's.
template <int kFlags, class Source>
__device__ void sweep_chunks(const Source& source, const RowLaw& law, int64_t vocab, int first, int stop,
                             Partial* parts, FeedSpace<Source>* space) {
  const Sweeper<kFlags, Source> sweeper(source, law);
  Feed<Source> feed(source, vocab, first, stop, space);
  const int size = static_cast<int>(chunk_size(vocab)),
            end = static_cast<int>(min_of<int64_t>(stop * chunk_size(vocab), vocab));
  parts += first * kWarps + threadIdx.x / kWarp;
  for (int begin = first * size; begin < end; begin += size, parts += kWarps) {
    const Partial p = sweeper.sweep(&feed, begin, min_of(size, end - begin));
    if (threadIdx.x % kWarp == 0) *parts = p;
  }
}

}  // namespace dlm::cuda
