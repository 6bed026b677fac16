// Eight floats of AVX2 + FMA + F16C.
#pragma once

#include <immintrin.h>

#include "../core/dtype.h"

namespace {

// For every set of lanes, which come first when the others are left out.
struct Compressed {
  alignas(32) int32_t lanes[256][8] = {};
  constexpr Compressed() {
    for (int set = 0; set < 256; ++set) {
      int n = 0;
      for (int lane = 0; lane < 8; ++lane) {
        if ((set >> lane & 1) != 0) lanes[set][n++] = lane;
      }
    }
  }
};
constexpr Compressed kCompressed;

struct Vec {
  static constexpr int kWidth = 8;
  static constexpr int kStep = 1;  // Vecs per exp2(): more than one would spill
  __m256 v;

  static Vec set(float s) { return {_mm256_set1_ps(s)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  // b when either is NaN: the instruction's own rule, kept by the other Vecs.
  static Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
  static bool any_equal(Vec a, Vec b) { return _mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)) != 0; }
  // then, but -inf where x is below the floor or NaN.
  static Vec where_at_least(Vec floor, Vec x, Vec then) {
    return {_mm256_blendv_ps(set(-dlm::kInfinity).v, then.v, _mm256_cmp_ps(x.v, floor.v, _CMP_GE_OQ))};
  }
  // x = mantissa * 2^exponent, mantissa in [1, 2), of a positive normal number; of anything else, anything.
  static void split(Vec x, Vec* mantissa, Vec* exponent) {
    const __m256i bits = _mm256_castps_si256(x.v), below_exponent = _mm256_set1_epi32(0x7fffff);
    mantissa->v = _mm256_or_ps(_mm256_castsi256_ps(_mm256_and_si256(bits, below_exponent)), set(1).v);
    exponent->v = _mm256_sub_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(bits, 23)), set(127).v);
  }
  // The lanes in [low, high], one after the other; returns how many. May write kWidth floats.
  static int64_t compress(Vec z, Vec low, Vec high, float* out) {
    const __m256 inside = _mm256_and_ps(_mm256_cmp_ps(z.v, low.v, _CMP_GE_OQ), _mm256_cmp_ps(z.v, high.v, _CMP_LE_OQ));
    const unsigned set = static_cast<unsigned>(_mm256_movemask_ps(inside));
    const __m256i* const lanes = reinterpret_cast<const __m256i*>(kCompressed.lanes[set]);
    _mm256_storeu_ps(out, _mm256_permutevar8x32_ps(z.v, _mm256_load_si256(lanes)));
    return __builtin_popcount(set);
  }
  void store(float* out) const { _mm256_storeu_ps(out, v); }

  // exp2(d * scale) of kStep Vecs as fraction * power, d * scale in [-126, 127] or NaN. With d * scale = n + k / 8 + f,
  // |f| <= 1/16: adding 1.5 * 2^20 rounds to eighths and leaves 8 n + k in the low mantissa bits (127 more biases n),
  // so that one permute looks up 2^(k / 8), one shift makes 2^n, and a cubic is left for f: 8.5e-8 relative. The loop
  // is bound by issue slots; degree 5 without the table takes two more of them on the ports FMA needs
  // (bench/notes/avx2-exp2.md).
  static void exp2(const Vec d[kStep], Vec scale, Vec fraction[kStep], Vec power[kStep]) {
    // Mantissa of 2^(k / 8), minus the k that the shift leaves at bit 20.
    const __m256i eighths = _mm256_setr_epi32(0, -0x46a3e, -0x7c810, -0xa0129, -0xafb0d, -0xa98d6, -0x8bb03, -0x53f39);
    const Vec magic = set(1572864.0f + 127.0f);
    for (int i = 0; i < kStep; ++i) {
      const Vec t = fma(d[i], scale, magic);
      const __m256i bits = _mm256_castps_si256(t.v);
      const Vec f = {_mm256_fmsub_ps(d[i].v, scale.v, (t - magic).v)};
      Vec p = fma(set(5.549622327e-2f), f, set(2.402576357e-1f));
      p = fma(p, f, set(6.931472421e-1f));
      fraction[i] = fma(p, f, set(1.0f));
      power[i].v = _mm256_castsi256_ps(
          _mm256_add_epi32(_mm256_slli_epi32(bits, 20), _mm256_permutevar8x32_epi32(eighths, bits)));
    }
  }

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

}  // namespace
