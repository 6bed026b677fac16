// Sixteen floats of AVX-512F. Only elementary intrinsics, so that tests can run this very source over plain C++ on a
// CPU without AVX-512 (tests/emulation/avx512.h defines the handful used here).
#pragma once

#if defined(DLM_AVX512_HEADER)
#include DLM_AVX512_HEADER
#else
// g++ 12 warns of uninitialised values inside its own header.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#include "../core/dtype.h"

namespace {

// Bits of 0.2410994 * 2^(k / 32), minus the k << 18 that the shift in exp2() adds.
alignas(64) constexpr int32_t kPowers[32] = {
    0x3e76e2c4, 0x3e784aba, 0x3e78e87f, 0x3e77bb1d, 0x3e769d8d, 0x3e759029, 0x3e74934c, 0x3e73a751,
    0x3e72cc97, 0x3e72037f, 0x3e714c6c, 0x3e70a7c4, 0x3e7015ec, 0x3e6f974f, 0x3e6f2c59, 0x3e6ed577,
    0x3e6e931b, 0x3e6e65b6, 0x3e6e4dbf, 0x3e6e4baf, 0x3e6e5fff, 0x3e6e8b2c, 0x3e6ecdb9, 0x3e6f2826,
    0x3e6f9afb, 0x3e7026bf, 0x3e70cbff, 0x3e718b4a, 0x3e726531, 0x3e735a4a, 0x3e746b2d, 0x3e759876,
};

struct Vec {
  static constexpr int kWidth = 16;
  static constexpr int kStep = 4;  // Vecs per exp2()
  __m512 v;

  static Vec set(float s) { return {_mm512_set1_ps(s)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  static Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }  // b when either is NaN
  static bool any_equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ) != 0; }
  // then, but -inf where x is below the floor or NaN.
  static Vec where_at_least(Vec floor, Vec x, Vec then) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, floor.v, _CMP_GE_OQ), set(-dlm::kInfinity).v, then.v)};
  }
  // x = mantissa * 2^exponent, mantissa in [1, 2), of a positive normal number; of anything else, anything.
  static void split(Vec x, Vec* mantissa, Vec* exponent) {
    mantissa->v = _mm512_getmant_ps(x.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero);
    exponent->v = _mm512_getexp_ps(x.v);
  }
  // The lanes in [low, high], one after the other; returns how many. May write kWidth floats.
  static int64_t compress(Vec z, Vec low, Vec high, float* out) {
    const __mmask16 inside = static_cast<__mmask16>(_mm512_cmp_ps_mask(z.v, low.v, _CMP_GE_OQ) &
                                                    _mm512_cmp_ps_mask(z.v, high.v, _CMP_LE_OQ));
    _mm512_storeu_ps(out, _mm512_maskz_compress_ps(inside, z.v));
    return __builtin_popcount(inside);
  }
  void store(float* out) const { _mm512_storeu_ps(out, v); }

  // exp2(d * scale) of kStep Vecs as fraction * power, d * scale in [-123, 127] or NaN. With d * scale = n + k / 32 +
  // f, |f| <= 1/64: adding 1.5 * 2^18 rounds to 32nds and leaves 32 n + k in the low mantissa bits, so that one permute
  // looks up 2^(k / 32) and one shift makes 2^n. What is left, 2^f, is 0.2410994 ((f + 46/32)^2 + 2.08126) to 1.3e-7:
  // the offset comes with the subtraction that makes f, being a multiple of 1/32, and the factor with the table. That
  // leaves one operation for the polynomial (bench/notes/avx512.md). Step by step over the four Vecs: the scheduler's
  // window is too small to find the independent operations itself.
  static void exp2(const Vec d[kStep], Vec scale, Vec fraction[kStep], Vec power[kStep]) {
    constexpr float kMagic = 393216.0f, kOffset = 46.0f / 32;
    const __m512i low = _mm512_loadu_si512(kPowers), high = _mm512_loadu_si512(kPowers + 16);
    __m512i bits[kStep], looked_up[kStep];
    for (int i = 0; i < kStep; ++i) power[i] = fma(d[i], scale, set(kMagic));
    for (int i = 0; i < kStep; ++i) fraction[i] = power[i] - set(kMagic + kOffset);
    for (int i = 0; i < kStep; ++i) bits[i] = _mm512_castps_si512(power[i].v);
    for (int i = 0; i < kStep; ++i) looked_up[i] = _mm512_permutex2var_epi32(low, bits[i], high);
    for (int i = 0; i < kStep; ++i) fraction[i].v = _mm512_fmsub_ps(d[i].v, scale.v, fraction[i].v);
    for (int i = 0; i < kStep; ++i) bits[i] = _mm512_add_epi32(_mm512_slli_epi32(bits[i], 18), looked_up[i]);
    for (int i = 0; i < kStep; ++i) fraction[i] = fma(fraction[i], fraction[i], set(2.08126f));
    for (int i = 0; i < kStep; ++i) power[i].v = _mm512_castsi512_ps(bits[i]);
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
