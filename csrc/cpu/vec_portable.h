// Four floats in the compiler's own vector type: SSE2 on x86-64, NEON on AArch64, plain code elsewhere.
#pragma once

#include <cstring>

#include "../core/dtype.h"

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
  static Vec at_least(Vec d, Vec low) { return max(low, d); }                    // NaN stays
  static bool any_equal(Vec a, Vec b) {
    const Ints eq = a.v == b.v;
    return (eq[0] | eq[1] | eq[2] | eq[3]) != 0;
  }
  void store(float* out) const { memcpy(out, &v, sizeof v); }

  // As in vec_avx2.h; without FMA the product rounds once more.
  static void split(Vec d, Vec scale, Vec& fraction, Vec& power) {
    const Vec magic = set(12582912.0f + 127.0f);
    const Floats e = d.v * scale.v;
    const Floats t = e + magic.v;
    fraction.v = e - (t - magic.v);
    power.v = (Floats)((Ints)t << 23);
  }
  static Vec scale_add(Vec p, Vec power, Vec sum) { return fma(p, power, sum); }

  template <class T>
  static void load(const T* z, Vec out[4]) {
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < kWidth; ++j) out[i].v[j] = dlm::to_float(z[kWidth * i + j]);
    }
  }
  static void load(const float* z, Vec out[4]) { memcpy(out, z, 4 * sizeof(Vec)); }
};

}  // namespace

#include "float_top.h"
