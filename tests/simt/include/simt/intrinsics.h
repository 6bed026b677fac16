// Arithmetic that CUDA has in the global namespace: bits, casts, rounding, minima.
#pragma once

#include <math.h>

#include <cstring>

#include "site.h"
#include "types.h"

// glibc declares functions of its own under the names of CUDA's fast math.
#pragma GCC poison __expf __exp10f __logf __log2f __log10f __powf __sinf __cosf __tanf __sincosf

namespace simt {

[[noreturn]] void unsupported(const char* what, Site site);

template <class To, class From>
To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  std::memcpy(&out, &value, sizeof out);
  return out;
}

}  // namespace simt

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }
inline int __clzll(long long v) { return v == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(v)); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline unsigned __brev(unsigned v) {
  unsigned out = 0;
  for (int bit = 0; bit < 32; ++bit) out |= (v >> bit & 1) << (31 - bit);
  return out;
}

// The high or low half of the 64-bit high:low, shifted by shift mod 32.
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((static_cast<uint64_t>(high) << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}

// Four bytes of y:x, one per nibble of the selector. CUDA's documentation leaves the nibble's top bit unused, while
// the instruction makes it copy the sign; so it must be clear.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector, simt::Site site = simt::Site::here()) {
  if ((selector & 0x8888) != 0) simt::unsupported("__byte_perm with a selector above 7", site);
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) out |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return out;
}

inline int __float_as_int(float v) { return simt::bit_cast<int>(v); }
inline unsigned __float_as_uint(float v) { return simt::bit_cast<unsigned>(v); }
inline float __int_as_float(int v) { return simt::bit_cast<float>(v); }
inline float __uint_as_float(unsigned v) { return simt::bit_cast<float>(v); }
inline long long __double_as_longlong(double v) { return simt::bit_cast<long long>(v); }
inline double __longlong_as_double(long long v) { return simt::bit_cast<double>(v); }

// One rounding each, whatever the compiler would contract.
inline float __fmaf_rn(float a, float b, float c) { return ::fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }

inline unsigned umin(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned umax(unsigned a, unsigned b) { return a > b ? a : b; }

#define SIMT_MIN_MAX(T, A, B)                                                                                      \
  inline T min(A a, B b) { return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b); } \
  inline T max(A a, B b) { return static_cast<T>(a) > static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b); }
#define SIMT_MIN_MAX_OF(S, U) SIMT_MIN_MAX(S, S, S) SIMT_MIN_MAX(U, U, U) SIMT_MIN_MAX(U, S, U) SIMT_MIN_MAX(U, U, S)
SIMT_MIN_MAX_OF(int, unsigned)
SIMT_MIN_MAX_OF(long, unsigned long)
SIMT_MIN_MAX_OF(long long, unsigned long long)
#undef SIMT_MIN_MAX_OF
#undef SIMT_MIN_MAX

// Of a number and a NaN, the number.
inline float min(float a, float b) { return ::fminf(a, b); }
inline float max(float a, float b) { return ::fmaxf(a, b); }
inline double min(double a, double b) { return ::fmin(a, b); }
inline double max(double a, double b) { return ::fmax(a, b); }
inline double min(float a, double b) { return ::fmin(a, b); }
inline double max(float a, double b) { return ::fmax(a, b); }
inline double min(double a, float b) { return ::fmin(a, b); }
inline double max(double a, float b) { return ::fmax(a, b); }
