// Eight floats of AVX2 + FMA + F16C.
#pragma once

#include <immintrin.h>

#include <cmath>

#include "../core/dtype.h"

namespace {

struct Vec {
  static constexpr int kWidth = 8;
  __m256 v;

  static Vec set(float s) { return {_mm256_set1_ps(s)}; }
  friend Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  // max(d, low) for low < 0, as an unsigned minimum of the bits: float maxima would wait for the ports FMA needs. A
  // negative NaN becomes low; Top finds it.
  static Vec at_least(Vec d, Vec low) {
    return {_mm256_castsi256_ps(_mm256_min_epu32(_mm256_castps_si256(d.v), _mm256_castps_si256(low.v)))};
  }
  static bool any_equal(Vec a, Vec b) { return _mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)) != 0; }
  void store(float* out) const { _mm256_storeu_ps(out, v); }

  // d * scale = n + fraction, |fraction| <= 1/2, and power stands for 2^n, n in [-126, 127]: adding 1.5 * 2^23 rounds n
  // into the low mantissa bits, and 127 more biases it, so that one shift makes the float 2^n.
  static void split(Vec d, Vec scale, Vec& fraction, Vec& power) {
    const Vec magic = set(12582912.0f + 127.0f);
    const Vec t = fma(d, scale, magic);
    const Vec n = t - magic;
    fraction.v = _mm256_fmsub_ps(d.v, scale.v, n.v);
    power.v = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t.v), 23));
  }
  static Vec scale_add(Vec p, Vec power, Vec sum) { return fma(p, power, sum); }

  // A block of 4 * kWidth logits: floats in index order, 16-bit ones in any order that serves sums.
  static void load(const float* z, Vec out[4]) {
    for (int i = 0; i < 4; ++i) out[i].v = _mm256_loadu_ps(z + 8 * i);
  }
  static void load(const dlm::BFloat16* z, Vec out[4]) {  // even and odd lanes of each 32-byte word
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    for (int i = 0; i < 2; ++i) {
      const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(z + 16 * i));
      out[2 * i].v = _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
      out[2 * i + 1].v = _mm256_castsi256_ps(_mm256_and_si256(w, high));
    }
  }
  static void load(const dlm::Float16* z, Vec out[4]) {
    for (int i = 0; i < 4; ++i) {
      out[i].v = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(z + 8 * i)));
    }
  }
};

// The largest of a run of logits, or NaN if there is one, on the raw bits: off the floating-point ports, and sixteen
// lanes at a time for 16-bit logits. Floats order as signed integers while any is positive, NaN above +inf; as unsigned
// ones, a negative NaN is above -inf.
template <class T>
struct Top {
  static constexpr bool kWide = sizeof(T) == 4;
  __m256i highest = kWide ? _mm256_set1_epi32(INT32_MIN) : _mm256_set1_epi16(INT16_MIN);
  __m256i unsigned_highest = _mm256_setzero_si256();

  void push(const Vec*, const T* z) {
    for (int i = 0; i < 4; i += kWide ? 1 : 2) {
      const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(z + 8 * i));
      highest = kWide ? _mm256_max_epi32(highest, bits) : _mm256_max_epi16(highest, bits);
      unsigned_highest = kWide ? _mm256_max_epu32(unsigned_highest, bits) : _mm256_max_epu16(unsigned_highest, bits);
    }
  }

  float finish(const T* z, int64_t n) const {
    T high[32 / sizeof(T)], unsigned_high[32 / sizeof(T)];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(high), highest);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(unsigned_high), unsigned_highest);
    float max = -dlm::kInfinity;
    bool negative = true;
    for (size_t i = 0; i < 32 / sizeof(T); ++i) {
      const float a = dlm::to_float(high[i]), b = dlm::to_float(unsigned_high[i]);
      if (a != a) return a;
      if (b != b) return b;
      negative &= std::signbit(a);
      if (!std::signbit(a) && a > max) max = a;
    }
    if (!negative) return max;
    // All negative: the bits order backwards. Rare enough (no positive logit in thousands) for another pass.
    for (int64_t i = 0; i < n; ++i) max = dlm::to_float(z[i]) > max ? dlm::to_float(z[i]) : max;
    return max;
  }
};

}  // namespace
