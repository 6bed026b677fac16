// Sixteen floats of AVX-512F. Only elementary intrinsics, so that tests can run this very source over plain C++ on a
// CPU without AVX-512 (tests/emulation/avx512.h defines the handful used here).
#pragma once

#if defined(DLM_AVX512_HEADER)
#include DLM_AVX512_HEADER
#else
#include <immintrin.h>
#endif

#include "../core/dtype.h"
#include "exp2_fraction.h"

namespace {

struct Vec {
  static constexpr int kWidth = 16;
  __m512 v;

  static Vec set(float s) { return {_mm512_set1_ps(s)}; }
  friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  static Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }  // b when either is NaN
  static bool any_equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ) != 0; }
  void store(float* out) const { _mm512_storeu_ps(out, v); }

  // sum + exp2(d * scale): the instruction set scales by powers of two itself.
  static Vec add_exp2(Vec d, Vec scale, Vec sum) {
    const Vec n = {_mm512_roundscale_ps(_mm512_mul_ps(d.v, scale.v), 0)};
    const Vec f = {_mm512_fmsub_ps(d.v, scale.v, n.v)};
    return sum + Vec{_mm512_scalef_ps(exp2_fraction(f).v, n.v)};
  }

  static void load(const float* z, Vec out[4]) {
    for (int i = 0; i < 4; ++i) out[i].v = _mm512_loadu_ps(z + 16 * i);
  }
  static void load(const dlm::BFloat16* z, Vec out[4]) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    for (int i = 0; i < 2; ++i) {
      const __m512i w = _mm512_loadu_si512(z + 32 * i);
      out[2 * i].v = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
      out[2 * i + 1].v = _mm512_castsi512_ps(_mm512_and_si512(w, high));
    }
  }
  static void load(const dlm::Float16* z, Vec out[4]) {
    for (int i = 0; i < 4; ++i) {
      out[i].v = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(z + 16 * i)));
    }
  }
};

}  // namespace
