#include "../core/divergence.h"

#include "backend.h"

namespace dlm::cpu {
namespace {

constexpr double kLog2e = 1.4426950408889634;

template <class T>
void widen(const void* row, int64_t begin, int64_t n, float* out) {
  const T* const z = static_cast<const T*>(row) + begin;
  for (int64_t i = 0; i < n; ++i) out[i] = to_float(z[i]);
}

void widen(const void* row, int32_t dtype, int64_t begin, int64_t n, float* out) {
  switch (dtype) {
    case kFloat32: return widen<float>(row, begin, n, out);
    case kBFloat16: return widen<BFloat16>(row, begin, n, out);
    default: return widen<Float16>(row, begin, n, out);
  }
}

// exp((z - max) * beta) of n logits.
void exponentials(const KernelTable& k, const float* z, int64_t n, float max, double beta, float* out) {
  LawScales scales;
  scales.ref = max == -kInfinity ? 0 : max;
  scales.scale = static_cast<float>(beta * kLog2e);
  k.dtype[kFloat32].exponentials(z, n, scales, out);
}

// Of n logits of either row.
Divergence of_tile(const KernelTable& k, const float* z, const float* y, int64_t n, double beta) {
  Divergence d = of_nothing();
  int32_t bad = 0, escaped = 0;
  for (int64_t i = 0; i < n; ++i) {
    bad |= !(z[i] < kInfinity) | !(y[i] < kInfinity);
    escaped |= (z[i] > -kInfinity) & (y[i] == -kInfinity);
  }
  d.bad = bad;
  d.escaped = escaped;
  if (bad != 0) return d;
  d.max = k.dtype[kFloat32].maximum(z, n);
  d.other_max = k.dtype[kFloat32].maximum(y, n);
  float p[kTile], q[kTile];
  exponentials(k, z, n, d.max, beta, p);
  exponentials(k, y, n, d.other_max, beta, q);
  double cross = 0;
  for (int64_t i = 0; i < n; ++i) {
    d.mass += p[i];
    d.other_mass += q[i];
    const bool counts = p[i] > 0 && y[i] > -kInfinity;
    cross += counts ? static_cast<double>(p[i]) * ((z[i] - d.max) - (y[i] - d.other_max)) : 0;
  }
  d.cross = cross * beta;
  return d;
}

Divergence of_row(const DivergenceArgs& a, const Resolved& r, const KernelTable& kernels, int64_t row, double beta) {
  const Geometry& g = r.geometry;
  const auto start = [&](const Array& logits) {
    return static_cast<const char*>(logits.data) + logits_offset(g, logits, row) * dtype_size(logits.dtype);
  };
  const char *const logits = start(a.logits), *const previous = start(a.previous);
  Divergence d = of_nothing();
  float z[kTile], y[kTile];
  for (int64_t begin = 0; begin < r.vocab; begin += kTile) {
    const int64_t n = min_of(kTile, r.vocab - begin);
    widen(logits, a.logits.dtype, begin, n, z);
    widen(previous, a.previous.dtype, begin, n, y);
    d = merge(d, of_tile(kernels, z, y, n, beta), beta);
  }
  return d;
}

}  // namespace

void row_kl(const DivergenceArgs& a, const Resolved& r, const dlm_executor* executor) {
  const Geometry& g = r.geometry;
  const KernelTable& kernels = active_kernels();
  std::atomic<int64_t> next{0};
  run_workers(executor, min_of<int64_t>(thread_count(executor), g.num_rows), [&] {
    for (int64_t row; (row = next.fetch_add(1, std::memory_order_relaxed)) < g.num_rows;) {
      const bool asked = is_asked_for(a, g, row);
      const double beta = inverse_temperature(float_at(a.temperature, quotient(row, g.width)));
      store(a.out, row, asked, asked ? of_row(a, r, kernels, row, beta) : of_nothing());
    }
  });
}

}  // namespace dlm::cpu
