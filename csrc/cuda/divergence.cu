// KL between rows: a block per row, and 16 bytes of 16-bit logits of either row per thread and turn. Both dtypes are
// looked up as the row is read, so one kernel serves all nine pairs.
#include "../core/divergence.h"
#include "launch.h"
#include "source.h"

namespace dlm::cuda {
namespace {

constexpr int kDivergenceThreads = 512;
constexpr int kAtOnce = 8;  // logits

template <class T>
__device__ void widen(const T* row, int64_t at, int left, float (&out)[kAtOnce]) {
  constexpr int kLogits = Packed<T>::kLogits;
  const bool aligned = reinterpret_cast<uintptr_t>(row) % 16 == 0;
#pragma unroll
  for (int v = 0; v < kAtOnce / kLogits; ++v) {
    const Packed<T> some = Packed<T>::load(row + at + v * kLogits, left - v * kLogits, aligned);
    some.each([&](int i, float z) { out[v * kLogits + i] = z; });
  }
}

// The logits from `at` on; -inf beyond `left` of them.
__device__ void widen(const Array& logits, int64_t offset, int64_t at, int left, float (&out)[kAtOnce]) {
  switch (logits.dtype) {
    case kFloat32: return widen(static_cast<const float*>(logits.data) + offset, at, left, out);
    case kBFloat16: return widen(static_cast<const BFloat16*>(logits.data) + offset, at, left, out);
    default: return widen(static_cast<const Float16*>(logits.data) + offset, at, left, out);
  }
}

__device__ float largest(const float (&z)[kAtOnce], int* bad) {
  float top = -kInfinity;
#pragma unroll
  for (float v : z) {
    top = fmaxf(top, v);
    *bad |= !(v < kInfinity);
  }
  return top;
}

// A thread's part of a row, in float: cross is in units of 1 / beta.
struct Part {
  float max = -kInfinity, other_max = -kInfinity, mass = 0, other_mass = 0, cross = 0;
  int bad = 0, escaped = 0;

  __device__ void add(const float (&z)[kAtOnce], const float (&y)[kAtOnce], float scale) {
    const float top = fmaxf(max, largest(z, &bad)), other_top = fmaxf(other_max, largest(y, &bad));
    if (bad != 0) return;
    rise(top, other_top, scale);
    const float ref = top == -kInfinity ? 0 : top, other_ref = other_top == -kInfinity ? 0 : other_top;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const float p = exp2_approx((z[i] - ref) * scale);
      mass += p;
      other_mass += exp2_approx((y[i] - other_ref) * scale);
      const bool lost = y[i] == -kInfinity;
      escaped |= lost && z[i] > -kInfinity;
      cross += p > 0 && !lost ? p * ((z[i] - ref) - (y[i] - other_ref)) : 0;
    }
  }

 private:
  __device__ void rise(float top, float other_top, float scale) {
    const float fall = max == -kInfinity ? 0 : max - top,
                other_fall = other_max == -kInfinity ? 0 : other_max - other_top;
    const float factor = exp2_approx(fall * scale);
    cross = factor > 0 ? factor * fmaf(fall - other_fall, mass, cross) : 0;
    mass *= factor;
    other_mass *= exp2_approx(other_fall * scale);
    max = top;
    other_max = other_top;
  }
};

}  // namespace

__global__ void __launch_bounds__(kDivergenceThreads)
    divergence_kernel(const __grid_constant__ DivergenceArgs a, const __grid_constant__ Resolved r) {
  const Geometry& g = r.geometry;
  const int64_t row = blockIdx.x;
  const bool asked = is_asked_for(a, g, row);
  Divergence d = of_nothing();
  if (asked) {
    const double beta = inverse_temperature(float_at(a.temperature, quotient(row, g.width)));
    const float scale = static_cast<float>(beta * kLog2e);
    const int64_t offset = logits_offset(g, a.logits, row), other_offset = logits_offset(g, a.previous, row);
    Part part;
    for (int64_t at = static_cast<int64_t>(threadIdx.x) * kAtOnce; at < r.vocab; at += kDivergenceThreads * kAtOnce) {
      const int left = static_cast<int>(min_of<int64_t>(kAtOnce, r.vocab - at));
      float z[kAtOnce], y[kAtOnce];
      widen(a.logits, offset, at, left, z);
      widen(a.previous, other_offset, at, left, y);
      part.add(z, y, scale);
    }
    d.max = part.max, d.other_max = part.other_max;
    d.mass = part.mass, d.other_mass = part.other_mass, d.cross = part.cross * beta;
    d.bad = part.bad, d.escaped = part.escaped;
    d = block_reduce(d, [&](const Divergence& x, const Divergence& y) { return merge(x, y, beta); });
  }
  if (threadIdx.x == 0) store(a.out, row, asked, d);
}

void launch_divergence(const DivergenceArgs& args, const Resolved& resolved, void* stream) {
  launch("divergence", divergence_kernel, resolved.geometry.num_rows, kDivergenceThreads, 0, stream, args, resolved);
}

}  // namespace dlm::cuda
