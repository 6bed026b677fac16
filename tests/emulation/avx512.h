// The AVX-512F intrinsics that csrc/cpu/vec_avx512.h uses, lane by lane in plain C++, after Intel's published
// pseudo-code: lets a CPU without AVX-512 run the AVX-512 source. An intrinsic missing here fails to compile.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../../csrc/core/dtype.h"

namespace {

struct __m512 {
  float lane[16];
};
struct __m512i {
  uint32_t lane[16];
};
struct __m256i {
  uint16_t lane[16];
};
typedef uint16_t __mmask16;
enum { _CMP_EQ_OQ = 0x00, _CMP_GE_OQ = 0x1d, _CMP_LE_OQ = 0x12 };
enum { _MM_MANT_NORM_1_2 = 0 };
enum { _MM_MANT_SIGN_zero = 1 };

template <class F>
inline __m512 lanes512(F f) {
  __m512 out;
  for (int i = 0; i < 16; ++i) out.lane[i] = f(i);
  return out;
}
inline __m512 _mm512_set1_ps(float s) {
  return lanes512([&](int) { return s; });
}
inline __m512 _mm512_sub_ps(__m512 a, __m512 b) {
  return lanes512([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline __m512 _mm512_mul_ps(__m512 a, __m512 b) {
  return lanes512([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return lanes512([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}
inline __m512 _mm512_fmsub_ps(__m512 a, __m512 b, __m512 c) {
  return lanes512([&](int i) { return std::fma(a.lane[i], b.lane[i], -c.lane[i]); });
}
inline __m512 _mm512_max_ps(__m512 a, __m512 b) {  // b when either is NaN
  return lanes512([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline __m512 _mm512_getexp_ps(__m512 a) {  // of normal numbers
  return lanes512([&](int i) { return static_cast<float>(std::ilogb(a.lane[i])); });
}
inline __m512 _mm512_getmant_ps(__m512 a, int, int) {  // in [1, 2), without the sign: of normal numbers
  return lanes512([&](int i) { return std::fabs(std::scalbn(a.lane[i], -std::ilogb(a.lane[i]))); });
}
inline __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int op) {
  unsigned mask = 0;
  for (int i = 0; i < 16; ++i) {
    const float x = a.lane[i], y = b.lane[i];
    mask |= ((op == _CMP_GE_OQ ? x >= y : op == _CMP_LE_OQ ? x <= y : x == y) ? 1u : 0u) << i;
  }
  return static_cast<__mmask16>(mask);
}
inline __m512 _mm512_mask_blend_ps(__mmask16 mask, __m512 a, __m512 b) {
  return lanes512([&](int i) { return (mask >> i & 1) != 0 ? b.lane[i] : a.lane[i]; });
}
inline __m512 _mm512_maskz_compress_ps(__mmask16 mask, __m512 a) {
  __m512 out = {};
  int n = 0;
  for (int i = 0; i < 16; ++i) {
    if ((mask >> i & 1) != 0) out.lane[n++] = a.lane[i];
  }
  return out;
}
inline __m512 _mm512_loadu_ps(const void* p) {
  __m512 out;
  memcpy(&out, p, sizeof out);
  return out;
}
inline void _mm512_storeu_ps(void* p, __m512 a) { memcpy(p, &a, sizeof a); }
inline __m512i _mm512_loadu_si512(const void* p) {
  __m512i out;
  memcpy(&out, p, sizeof out);
  return out;
}
inline __m256i _mm256_loadu_si256(const __m256i* p) {
  __m256i out;
  memcpy(&out, p, sizeof out);
  return out;
}
inline __m512i _mm512_set1_epi32(int s) {
  __m512i out;
  for (uint32_t& lane : out.lane) lane = static_cast<uint32_t>(s);
  return out;
}
inline __m512i _mm512_slli_epi32(__m512i a, unsigned n) {
  for (uint32_t& lane : a.lane) lane <<= n;
  return a;
}
inline __m512i _mm512_add_epi32(__m512i a, __m512i b) {
  for (int i = 0; i < 16; ++i) a.lane[i] += b.lane[i];
  return a;
}
inline __m512i _mm512_permutex2var_epi32(__m512i a, __m512i index, __m512i b) {
  for (uint32_t& lane : index.lane) lane = ((lane & 16) == 0 ? a : b).lane[lane & 15];
  return index;
}
inline __m512i _mm512_and_si512(__m512i a, __m512i b) {
  for (int i = 0; i < 16; ++i) a.lane[i] &= b.lane[i];
  return a;
}
inline __m512 _mm512_castsi512_ps(__m512i a) {
  __m512 out;
  memcpy(&out, &a, sizeof out);
  return out;
}
inline __m512i _mm512_castps_si512(__m512 a) {
  __m512i out;
  memcpy(&out, &a, sizeof out);
  return out;
}
inline __m512 _mm512_cvtph_ps(__m256i a) {
  return lanes512([&](int i) { return dlm::to_float(dlm::Float16{a.lane[i]}); });
}

}  // namespace
