// Reductions and scans over a block, always in the same order, so that a result depends on nothing but its inputs.
// T is any plain struct of whole 32-bit words. Every thread of the block calls, every thread gets the result.
#pragma once

#include "device.h"
#include "job.h"

namespace dlm::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMostWarps = kDecideThreads / kWarp;  // of any block that calls what is below

// Room in shared memory, where nothing is constructed, for what is assigned before anybody reads it.
template <class T>
struct Room {
  alignas(T) unsigned char bytes[sizeof(T)];

  __device__ T& value() { return reinterpret_cast<T&>(bytes); }
};

template <class T>
__device__ T shuffle_xor(const T& v, int lanes) {
  static_assert(sizeof(T) % sizeof(uint32_t) == 0, "whole words only");
  uint32_t word[sizeof(T) / sizeof(uint32_t)];
  memcpy(word, &v, sizeof(T));
  for (uint32_t& w : word) w = __shfl_xor_sync(kAllLanes, w, lanes);
  T out;
  memcpy(&out, word, sizeof(T));
  return out;
}

// `join` must be commutative: then all lanes hold the same bits.
template <class T, class Join>
__device__ T warp_reduce(T v, Join join) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) v = join(v, shuffle_xor(v, lanes));
  return v;
}

template <class T, class JoinLanes, class Join>
__device__ T block_join(T v, JoinLanes join_lanes, Join join) {
  DLM_SHARED(T, part, [kMostWarps]);
  v = join_lanes(v);
  if (threadIdx.x % kWarp == 0) part[threadIdx.x / kWarp] = v;
  __syncthreads();
  v = part[0];
#pragma unroll 1
  for (unsigned w = 1; w < blockDim.x / kWarp; ++w) v = join(v, part[w]);
  __syncthreads();  // `part` is free for the next call
  return v;
}

template <class T, class Join>
__device__ T block_reduce(T v, Join join) {
  return block_join(v, [&](const T& mine) { return warp_reduce(mine, join); }, join);
}

__device__ DLM_NOINLINE inline int block_min(int v) {
  return block_reduce(v, [](int a, int b) { return min_of(a, b); });
}
__device__ DLM_NOINLINE inline int block_max(int v) {
  return block_reduce(v, [](int a, int b) { return max_of(a, b); });
}
__device__ DLM_NOINLINE inline float block_max(float v) {
  return block_reduce(v, [](float a, float b) { return fmaxf(a, b); });
}
__device__ DLM_NOINLINE inline int block_sum(int v) {
  return block_reduce(v, [](int a, int b) { return a + b; });
}
__device__ DLM_NOINLINE inline float block_sum(float v) {
  return block_reduce(v, [](float a, float b) { return a + b; });
}

struct Plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return max_of(a, b);
  }
};

// Running sums (or maxima) of numbers >= 0 in thread order: of the threads before this one, through this one, and of
// all.
template <class T>
struct Scan {
  T before, through, total;
};

template <class T, class Join = Plus>
__device__ T warp_scan(T v, Join join = {}) {
  const unsigned lane = threadIdx.x % kWarp;
#pragma unroll
  for (unsigned lanes = 1; lanes < kWarp; lanes *= 2) {
    const T below = __shfl_up_sync(kAllLanes, v, lanes);
    if (lane >= lanes) v = join(v, below);
  }
  return v;
}

template <class T, class Join = Plus>
__device__ DLM_NOINLINE Scan<T> block_scan(T v, Join join = {}) {
  DLM_SHARED(T, total, [kMostWarps]);
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const T in_warp = warp_scan(v, join);
  const T below = __shfl_up_sync(kAllLanes, in_warp, 1);
  if (lane == kWarp - 1) total[warp] = in_warp;
  __syncthreads();
  Scan<T> out;
  T start = 0;
  out.total = 0;
#pragma unroll 1
  for (unsigned w = 0; w < blockDim.x / kWarp; ++w) {
    if (w == warp) start = out.total;
    out.total = join(out.total, total[w]);
  }
  out.before = lane == 0 ? start : join(start, below);
  out.through = join(start, in_warp);
  __syncthreads();  // `total` is free for the next call
  return out;
}

// Floats as integers of the same order. NaN sorts beyond the infinities.
__device__ inline int ordered(float v) {
  const int bits = __float_as_int(v);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}
__device__ inline float from_ordered(int v) { return __int_as_float(v ^ ((v >> 31) & 0x7fffffff)); }

// What every thread of the block wrote to global memory is visible to every thread of the block for which this returns
// true: the last of `count` blocks to call it. The counter starts at 0 and is 0 again then, so nobody has to clear it.
__device__ DLM_NOINLINE inline bool last_to_arrive(unsigned* counter, unsigned count) {
  DLM_SHARED(int, last);
  __syncthreads();
  if (count > 1) {
    if (threadIdx.x == 0) {
      __threadfence();  // release: the barrier above put the whole block's writes before it
      last = atomicInc(counter, count - 1) == count - 1;
      __threadfence();  // acquire: the barrier below puts the whole block's reads after it
    }
    __syncthreads();
    return last != 0;
  }
  return true;
}

}  // namespace dlm::cuda
