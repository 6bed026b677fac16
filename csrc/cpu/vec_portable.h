// Four floats in the compiler's own vector type: SSE2 on x86-64, NEON on AArch64, plain code elsewhere.
#pragma once

#include <cstring>

#include "../core/dtype.h"

namespace {

struct Vec {
  static constexpr int kWidth = 4;
  static constexpr int kStep = 1;  // Vecs per exp2()
  typedef float Floats __attribute__((vector_size(16)));
  typedef int32_t Ints __attribute__((vector_size(16)));
  Floats v;

  static Vec set(float s) { return {Floats{s, s, s, s}}; }
  friend Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
  friend Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
  static Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }  // b when either is NaN
  static bool any_equal(Vec a, Vec b) {
    const Ints eq = a.v == b.v;
    return (eq[0] | eq[1] | eq[2] | eq[3]) != 0;
  }
  // then, but -inf where x is below the floor or NaN.
  static Vec where_at_least(Vec floor, Vec x, Vec then) { return {x.v >= floor.v ? then.v : set(-dlm::kInfinity).v}; }
  // x = mantissa * 2^exponent, mantissa in [1, 2), of a positive normal number; of anything else, anything.
  static void split(Vec x, Vec* mantissa, Vec* exponent) {
    const Ints bits = (Ints)x.v;
    mantissa->v = (Floats)((bits & 0x7fffff) | 0x3f800000);
    exponent->v = __builtin_convertvector((bits >> 23) - 127, Floats);
  }
  // The lanes in [low, high], one after the other; returns how many. May write kWidth floats.
  static int64_t compress(Vec z, Vec low, Vec high, float* out) {
    const Ints inside = (z.v >= low.v) & (z.v <= high.v);
    int64_t n = 0;
    for (int i = 0; i < kWidth; ++i) {
      out[n] = z.v[i];
      n -= inside[i];
    }
    return n;
  }
  void store(float* out) const { memcpy(out, &v, sizeof v); }

  // exp2(d * scale) of kStep Vecs as fraction * power, d * scale in [-126, 127] or NaN. Adding 1.5 * 2^23 rounds to an
  // integer in the low mantissa bits, 127 more biases it, and a shift makes the power of two. The fraction is minimax
  // of degree 5 on [-1/2, 1/2] with 2^0 = 1 kept exact: 9.2e-8 relative, 1.6e-7 with float rounding. One degree less
  // (2.8e-6) is invisible to a chi-squared test and plain on a grid of uniforms.
  static void exp2(const Vec d[kStep], Vec scale, Vec fraction[kStep], Vec power[kStep]) {
    const Vec magic = set(12582912.0f + 127.0f);
    for (int i = 0; i < kStep; ++i) {
      const Vec e = d[i] * scale, t = {e.v + magic.v}, f = e - (t - magic);
      Vec p = fma(set(1.3264727e-3f), f, set(9.671513e-3f));
      p = fma(p, f, set(5.5507336e-2f));
      p = fma(p, f, set(2.4022242e-1f));
      p = fma(p, f, set(6.931470e-1f));
      fraction[i] = fma(p, f, set(1.0f));
      power[i].v = (Floats)((Ints)t.v << 23);
    }
  }

  template <class T>
  static void load(const T* z, Vec out[4]) {
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < kWidth; ++j) out[i].v[j] = dlm::to_float(z[kWidth * i + j]);
    }
  }
  static void load(const float* z, Vec out[4]) { memcpy(out, z, 4 * sizeof(Vec)); }
};

}  // namespace
