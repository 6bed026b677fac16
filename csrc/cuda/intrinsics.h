// The few instructions that C++ cannot name. Each has a twin in plain C++, which the SIMT runtime runs.
#pragma once

#include "../core/dtype.h"
#include "device.h"

namespace dlm::cuda {

constexpr double kLog2e = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

#if defined(DLM_SIMT)

// 2^v, results below 2^-126 flushed to 0. Relative error up to 2^-22 on GPUs.
inline float exp2_approx(float v) {
  const float e = ::exp2f(v);
  return e < 0x1p-126f ? 0 : e;
}

// 1 / v for a normal v. Relative error up to 2^-23 on GPUs.
inline float reciprocal_approx(float v) { return 1 / v; }

// 16 bytes that nobody reads twice.
inline uint4 load_once(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(uint4) != 0) __builtin_trap();  // as the hardware does
  uint4 v;
  v = *static_cast<const uint4*>(p);
  return v;
}

// The line of this byte, into the L2.
inline void prefetch(const void* p) { static_cast<void>(*static_cast<const volatile unsigned char*>(p)); }

template <class T>
inline void keep_address(T**) {}

// Addresses of shared memory are numbers of 32 bits on GPUs, which saves the arithmetic of pointers.
using SharedAddress = unsigned char*;
inline SharedAddress shared_address(void* p) { return static_cast<SharedAddress>(p); }
inline uint32_t load_shared_word(SharedAddress p) { return *reinterpret_cast<const uint32_t*>(p); }
inline uint32_t load_shared_half(SharedAddress p) { return *reinterpret_cast<const uint16_t*>(p); }
inline void store_shared(SharedAddress p, const uint4& v) { *reinterpret_cast<uint4*>(p) = v; }
inline void store_shared_word(SharedAddress p, uint32_t v) { *reinterpret_cast<uint32_t*>(p) = v; }
inline void store_shared_half(SharedAddress p, uint32_t v) {
  *reinterpret_cast<uint16_t*>(p) = static_cast<uint16_t>(v);
}

// Copies of 16 bytes that arrive some time before they are waited for: those of all groups but the last kPrior.
inline void copy_async(SharedAddress to, const void* from) { __pipeline_memcpy_async(to, from, sizeof(uint4)); }
inline void commit_copies() { __pipeline_commit(); }
template <int kPrior>
inline void wait_for_copies() {
  __pipeline_wait_prior(kPrior);
}

template <class T>
inline T half_of(uint32_t word, int side) {
  return {static_cast<uint16_t>(side == 0 ? word & 0xffffu : word >> 16)};
}

// The larger of each pair of 16-bit floats; the number if one of them is NaN.
template <class T>
inline uint32_t max_pair(uint32_t a, uint32_t b) {
  uint32_t out = 0;
  for (int side = 0; side < 2; ++side) {
    const T x = half_of<T>(a, side), y = half_of<T>(b, side);
    const float p = to_float(x), q = to_float(y);
    const T m = p != p || p < q ? y : x;
    out |= static_cast<uint32_t>(m.bits) << (16 * side);
  }
  return out;
}

template <class T>
inline float2 widen_pair(uint32_t word) {
  return make_float2(to_float(half_of<T>(word, 0)), to_float(half_of<T>(word, 1)));
}

// Two floats as bfloat16, rounded to nearest even, in one word.
inline uint32_t bfloat16_pair(float low, float high) {
  return float_bits(round_to_bfloat16(low)) >> 16 | (float_bits(round_to_bfloat16(high)) & 0xffff0000u);
}

#else

__device__ inline float exp2_approx(float v) {
  float e;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(v));
  return e;
}

__device__ inline float reciprocal_approx(float v) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
}

__device__ inline void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// From here on the address is what it is: it is not worked out again wherever it is used.
template <class T>
__device__ inline void keep_address(T** address) {
  asm volatile("" : "+l"(*address));
}

__device__ inline uint4 load_once(const void* p) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p));
  return v;
}

using SharedAddress = uint32_t;
__device__ inline SharedAddress shared_address(void* p) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(p));
}
__device__ inline uint32_t load_shared_word(SharedAddress p) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(p) : "memory");
  return v;
}
__device__ inline uint32_t load_shared_half(SharedAddress p) {
  uint16_t v;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(p) : "memory");
  return v;
}
__device__ inline void store_shared(SharedAddress p, const uint4& v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ inline void store_shared_word(SharedAddress p, uint32_t v) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(p), "r"(v) : "memory");
}
__device__ inline void store_shared_half(SharedAddress p, uint32_t v) {
  asm volatile("st.shared.u16 [%0], %1;" ::"r"(p), "h"(static_cast<uint16_t>(v)) : "memory");
}

// Of memory that is read once: what others keep in the L2, like the code of a row's end, is not to make way for it.
__device__ inline void copy_async(SharedAddress to, const void* from) {
  // What createpolicy.fractional.L2::evict_first gives for 1.0, which as a constant takes no registers.
  constexpr uint64_t kEvictFirst = 0x12f0000000000000;
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "l"(kEvictFirst)
               : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPrior>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPrior) : "memory");
}

template <class T>
__device__ uint32_t max_pair(uint32_t a, uint32_t b);

template <>
__device__ inline uint32_t max_pair<BFloat16>(uint32_t a, uint32_t b) {
  uint32_t m;
  asm("max.bf16x2 %0, %1, %2;" : "=r"(m) : "r"(a), "r"(b));
  return m;
}

template <>
__device__ inline uint32_t max_pair<Float16>(uint32_t a, uint32_t b) {
  uint32_t m;
  asm("max.f16x2 %0, %1, %2;" : "=r"(m) : "r"(a), "r"(b));
  return m;
}

template <class T>
__device__ float2 widen_pair(uint32_t word);

template <>
__device__ inline float2 widen_pair<BFloat16>(uint32_t word) {
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}

template <>
__device__ inline float2 widen_pair<Float16>(uint32_t word) {
  float2 pair;
  asm("{.reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
      : "=f"(pair.x), "=f"(pair.y)
      : "r"(word));
  return pair;
}

__device__ inline uint32_t bfloat16_pair(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

#endif

}  // namespace dlm::cuda
