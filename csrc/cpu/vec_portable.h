// Four floats in the compiler's own vector type: SSE2 on x86-64, NEON on AArch64, plain code elsewhere.
#pragma once

#include <cstring>

#include "../core/dtype.h"
#include "exp2_fraction.h"

namespace {

struct Vec {
  static constexpr int kWidth = 4;
  typedef float Floats __attribute__((vector_size(16)));
  typedef int32_t Ints __attribute__((vector_size(16)));
  Floats v;

  static Vec set(float s) { return {Floats{s, s, s, s}}; }
  friend Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
  friend Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
  static Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }  // b when either is NaN
  static bool any_equal(Vec a, Vec b) {
    const Ints eq = a.v == b.v;
    return (eq[0] | eq[1] | eq[2] | eq[3]) != 0;
  }
  void store(float* out) const { memcpy(out, &v, sizeof v); }

  // sum + exp2(d * scale), d * scale in [-126, 127] or NaN: adding 1.5 * 2^23 rounds to an integer in the low mantissa
  // bits, 127 more biases it, and a shift makes the power of two.
  static Vec add_exp2(Vec d, Vec scale, Vec sum) {
    const Vec magic = set(12582912.0f + 127.0f);
    const Vec e = {d.v * scale.v}, t = e + magic;
    return fma(exp2_fraction(e - (t - magic)), {(Floats)((Ints)t.v << 23)}, sum);
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
