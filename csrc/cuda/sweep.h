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

__device__ inline float warp_max(float v) { return max_of_quarters(quarter_max(v)); }
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

  __device__ void store(Partial* to, Maxima* maxima) const {
    constexpr int kLanes = kWarp / kQuarters;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if (lane == 0) *to = part;
    if (lane % kLanes == 0) maxima->of[lane / kLanes] = quarter;
  }
};

// A chunk's partial by two reads and a subtraction per logit: of logits of which a product with the scale says nothing
// any more. A call, and its arguments are copies: the sweep keeps its registers.
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
  __device__ Sweeper(const Source& source, const RowLaw& law)
      : source_(source),
        scale_(static_cast<float>(law.beta * kLog2e)),
        draw_scale_(static_cast<float>((law.draw_beta > 0 ? law.draw_beta : law.beta) * kLog2e)) {}

  // Some logits of the lane's.
  template <class Words>
  __device__ void add(const Words& words) {
    const float top = source_.effective(words.top());
    max_ = fmaxf(max_, top);
    law_.raise(top, scale_);
    if ((kFlags & kTwoLaws) != 0) draw_.raise(top, draw_scale_);
    float mass[2], tilt[2], draw_mass[2];  // two sums each: one would wait for itself
    words.each([&](int i, float as_read) {
      const float z = source_.effective(as_read), y = fmaf(z, scale_, -law_.ref), e = exp2_approx(y);
      sum(i, e, mass);
      if ((kFlags & kTilt) != 0) sum(i, e * fmaxf(y, -126.0f), tilt);  // e is 0 below, and 0 * -inf no number
      if ((kFlags & kTwoLaws) != 0) sum(i, exp2_approx(fmaf(z, draw_scale_, -draw_.ref)), draw_mass);
    });
    law_.mass += mass[0] + mass[1];
    if ((kFlags & kTilt) != 0) law_.tilt += tilt[0] + tilt[1];
    if ((kFlags & kTwoLaws) != 0) draw_.mass += draw_mass[0] + draw_mass[1];
  }

  // The chunk that ends here; false if it is to be swept with care.
  __device__ bool close(Swept* swept) {
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
    return p.max == -kInfinity || (is_sane(p.mass) && ((kFlags & kTwoLaws) == 0 || is_sane(p.draw_mass)));
  }

  __device__ Swept with_care(int begin, int size) const {
    return sweep_with_care<kFlags>(source_, scale_, draw_scale_, begin, size);
  }

 private:
  __device__ static void sum(int i, float term, float (&sums)[2]) { sums[i % 2] = i < 2 ? term : sums[i % 2] + term; }

  // The maximum itself weighs 1.
  __device__ static bool is_sane(float mass) { return mass >= 0.5f && mass < kInfinity; }

  const Source& source_;
  const float scale_, draw_scale_;
  float max_ = -kInfinity;
  LaneSums<(kFlags & kTilt) != 0> law_;
  LaneSums<false> draw_;
};

// The chunks of a row that `tiles` feeds, by the calling block, whose warps take turns at them: a partial each, to
// where `parts` has that of chunk 0, and maxima likewise.
template <int kFlags, class Source>
__device__ void sweep_chunks(const Source& source, const RowLaw& law, int vocab, Chunks part, Feed<Source>& tiles,
                             Partial* parts, Maxima* maxima) {
  using Tiles = Feed<Source>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int size = chunk_size(vocab);
  static_assert(kMaxChunks <= 32, "one bit per chunk");
  const unsigned suppressed = source.chunks_suppressed(size);
  unsigned doubtful = 0;
  Sweeper<kFlags, Source> sweeper(source, law);
#pragma unroll 1
  for (int chunk = part.first_of_warp(); chunk < part.stop; chunk += kWarps) {
    const int end = min_of(chunk * size + size, vocab);
    int left = end - chunk * size;
    const auto next = [&] {
      tiles.next();
      if ((suppressed >> chunk & 1) != 0) tiles.leave_out(end - left, left);
    };
#pragma unroll 1
    for (; left >= Tiles::kTile; left -= Tiles::kTile) {
      next();
      sweeper.add(tiles.template read<Tiles::kWords>());
    }
    if (left > 0) {
      constexpr int kHalf = Tiles::kWords / 2, kSome = 2;
      int turn = 0;
      next();
      if (left >= kHalf * Tiles::kTurn) {
        sweeper.add(tiles.template read<kHalf>());
        turn = kHalf;
      }
#pragma unroll 1
      for (; turn * Tiles::kTurn < left; turn += kSome) {
        sweeper.add(tiles.template read<kSome>(turn, left - turn * Tiles::kTurn - lane * Tiles::kPerWord));
      }
    }
    Swept swept;
    if (!sweeper.close(&swept)) doubtful |= 1u << chunk;
    swept.store(parts + chunk, maxima + chunk);
  }
#pragma unroll 1
  for (; doubtful != 0; doubtful &= doubtful - 1) {  // not in between: here the sweep's registers are free
    const int chunk = __ffs(static_cast<int>(doubtful)) - 1, begin = chunk * size;
    sweeper.with_care(begin, min_of(size, vocab - begin)).store(parts + chunk, maxima + chunk);
  }
}

}  // namespace dlm::cuda
