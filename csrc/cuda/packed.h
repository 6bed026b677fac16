// Logits in registers, a vector of 16 bytes if nothing else is said: as they lie in memory, or after guidance.
#pragma once

#include "../core/dtype.h"
#include "block.h"
#include "intrinsics.h"

namespace dlm::cuda {

// -inf, as often as a word holds it.
template <class T>
__device__ constexpr uint32_t lowest_word() {
  return std::is_same_v<T, float> ? 0xff800000u : std::is_same_v<T, BFloat16> ? 0xff80ff80u : 0xfc00fc00u;
}

// -inf, as one logit.
template <class T>
__device__ inline void store_shared_lowest(SharedAddress at) {
  if constexpr (sizeof(T) == 4) store_shared_word(at, lowest_word<T>());
  if constexpr (sizeof(T) == 2) store_shared_half(at, lowest_word<T>() & 0xffffu);
}

// The larger logits of two words; NaN is passed over.
template <class T>
__device__ inline uint32_t max_word(uint32_t a, uint32_t b) {
  if constexpr (sizeof(T) == 4) {
    return __float_as_uint(fmaxf(__uint_as_float(a), __uint_as_float(b)));
  } else {
    return max_pair<T>(a, b);
  }
}

// Words of a row as they lie in memory.
template <class T, int kWords = 4>
struct Packed {
  static constexpr int kPerWord = sizeof(uint32_t) / sizeof(T), kLogits = kWords * kPerWord;
  uint32_t word[kWords];

  __device__ static Packed none();  // of -inf
  __device__ float top() const;     // the largest; NaN is passed over
  template <class Body>
  __device__ void each(Body body) const;  // body(i, logit) in index order
  __device__ float at(int i) const;       // logit i
  __device__ void put(int i, T logit);
  __device__ void exclude(int i);  // logit i, if it has one, becomes -inf
  template <class Keep>
  __device__ void filter(Keep keep);                               // all but those with keep(i, logit) do
  __device__ static Packed load(const T* z, int n, bool aligned);  // the first n of them; -inf beyond
  // Of these, too; or of a vector that begins in the second half of a word. A call.
  __device__ static Packed load_some(const T* z, int n);
};

template <class T, int kWords>
__device__ inline float Packed<T, kWords>::top() const {
  uint32_t high = word[0];
#pragma unroll
  for (int w = 1; w < kWords; ++w) high = max_word<T>(high, word[w]);
  if constexpr (sizeof(T) == 4) return __uint_as_float(high);
  if constexpr (sizeof(T) == 2) {
    const float2 pair = widen_pair<T>(high);
    return fmaxf(pair.x, pair.y);
  }
}

template <class T, int kWords>
__device__ inline Packed<T, kWords> Packed<T, kWords>::none() {
  Packed out;
#pragma unroll
  for (uint32_t& w : out.word) w = lowest_word<T>();
  return out;
}

template <class T, int kWords>
template <class Body>
__device__ inline void Packed<T, kWords>::each(Body body) const {
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    if constexpr (sizeof(T) == 4) {
      body(i, __uint_as_float(word[i]));
    } else {
      const float2 pair = widen_pair<T>(word[i]);
      body(2 * i, pair.x);
      body(2 * i + 1, pair.y);
    }
  }
}

template <class T, int kWords>
__device__ inline float Packed<T, kWords>::at(int i) const {
  uint32_t bits = word[0];
#pragma unroll
  for (int w = 1; w < kWords; ++w) bits = i >= w * kPerWord ? word[w] : bits;  // no index: the words are registers
  if constexpr (kPerWord == 1) {
    return __uint_as_float(bits);
  } else {
    const float2 pair = widen_pair<T>(bits);
    return i % 2 == 0 ? pair.x : pair.y;
  }
}

template <class T, int kWords>
__device__ inline void Packed<T, kWords>::put(int i, T logit) {
  uint32_t bits = 0;
  memcpy(&bits, &logit, sizeof logit);
  const int side = i % kPerWord * 16;
  word[i / kPerWord] = kPerWord == 1 ? bits : (word[i / kPerWord] & ~(0xffffu << side)) | bits << side;
}

template <class T, int kWords>
__device__ inline void Packed<T, kWords>::exclude(int i) {
#pragma unroll
  for (int w = 0; w < kWords; ++w) {  // masks instead of indices: the words are registers
    uint32_t mask = 0;
#pragma unroll
    for (int side = 0; side < kPerWord; ++side) {
      const uint32_t one = kPerWord == 1 ? 0xffffffffu : 0xffffu << (16 * side);
      mask |= w * kPerWord + side == i ? one : 0;
    }
    word[w] = (word[w] & ~mask) | (lowest_word<T>() & mask);
  }
}

template <class T, int kWords>
template <class Keep>
__device__ inline void Packed<T, kWords>::filter(Keep keep) {
#pragma unroll
  for (int w = 0; w < kWords; ++w) {
    if constexpr (sizeof(T) == 4) {
      if (!keep(w, __uint_as_float(word[w]))) word[w] = lowest_word<T>();
    } else {
      const float2 pair = widen_pair<T>(word[w]);
      const uint32_t mask = (keep(2 * w, pair.x) ? 0xffffu : 0) | (keep(2 * w + 1, pair.y) ? 0xffff0000u : 0);
      word[w] = (word[w] & mask) | (lowest_word<T>() & ~mask);
    }
  }
}

template <class T, int kWords>
__device__ inline Packed<T, kWords> Packed<T, kWords>::load(const T* z, int n, bool aligned) {
  static_assert(kWords == 4, "a vector");
  Packed out;
  if (aligned && n >= kLogits) {
    const uint4 v = load_once(z);
    out.word[0] = v.x, out.word[1] = v.y, out.word[2] = v.z, out.word[3] = v.w;
    return out;
  }
  if (n < kLogits || reinterpret_cast<uintptr_t>(z) % sizeof(uint32_t) != 0) return load_some(z, n);
#pragma unroll
  for (int w = 0; w < kWords; ++w) out.word[w] = reinterpret_cast<const uint32_t*>(z)[w];
  return out;
}

template <class T, int kWords>
__device__ DLM_NOINLINE Packed<T, kWords> Packed<T, kWords>::load_some(const T* z, int n) {
  Packed out = none();
#pragma unroll
  for (int w = 0; w < kWords; ++w) {
    if constexpr (sizeof(T) == 4) {
      if (w < n) memcpy(&out.word[w], z + w, sizeof(uint32_t));
    } else {
      if (2 * w < n) out.word[w] = (out.word[w] & 0xffff0000u) | z[2 * w].bits;
      if (2 * w + 1 < n) out.word[w] = (out.word[w] & 0xffffu) | static_cast<uint32_t>(z[2 * w + 1].bits) << 16;
    }
  }
  return out;
}

// The next of some vectors to the front: a loop over them is one copy of its body, and they stay in registers.
template <class Vector, int kVectors>
__device__ void shift_down(Vector (&vector)[kVectors]) {
#pragma unroll
  for (int i = 1; i < kVectors; ++i) vector[i - 1] = vector[i];
}

// The same logits after guidance, which computes in float.
template <class T, int kWords = 4>
struct Mixed {
  static constexpr int kLogits = Packed<T, kWords>::kLogits;
  float logit[kLogits];

  __device__ static Mixed none() {
    Mixed out;
#pragma unroll
    for (float& z : out.logit) z = -kInfinity;
    return out;
  }
  __device__ float top() const {
    float top = logit[0];
    for (int i = 1; i < kLogits; ++i) top = fmaxf(top, logit[i]);
    return top;
  }
  template <class Body>
  __device__ void each(Body body) const {
#pragma unroll
    for (int i = 0; i < kLogits; ++i) body(i, logit[i]);
  }
  __device__ float at(int i) const {
    float z = logit[0];
#pragma unroll
    for (int j = 1; j < kLogits; ++j) z = j == i ? logit[j] : z;
    return z;
  }
  __device__ void exclude(int i) {
#pragma unroll
    for (int j = 0; j < kLogits; ++j) logit[j] = j == i ? -kInfinity : logit[j];
  }
  template <class Keep>
  __device__ void filter(Keep keep) {
#pragma unroll
    for (int j = 0; j < kLogits; ++j) logit[j] = keep(j, logit[j]) ? logit[j] : -kInfinity;
  }
};

}  // namespace dlm::cuda
