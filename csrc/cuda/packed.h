// 16 bytes of logits in registers: as they lie in memory, or after guidance.
#pragma once

#include "../core/dtype.h"
#include "block.h"
#include "intrinsics.h"

namespace dlm::cuda {

// 16 bytes of a row as they lie in memory.
template <class T>
struct Packed {
  static constexpr int kLogits = 16 / sizeof(T);
  uint32_t word[4];

  __device__ static uint32_t lowest();               // -inf, as often as a word holds it
  __device__ static Packed none();                   // of -inf
  __device__ float top() const;                      // the largest; NaN is passed over
  __device__ Packed max(const Packed& other) const;  // logit by logit, likewise
  template <class Body>
  __device__ void each(Body body) const;  // body(i, logit) in index order
  __device__ float at(int i) const;       // logit i
  __device__ void put(int i, T logit);
  __device__ void exclude(int i);     // logit i, if it has one, becomes -inf
  __device__ void keep_first(int n);  // all but the first n do
  template <class Keep>
  __device__ void filter(Keep keep);                               // all but those with keep(i, logit) do
  __device__ static Packed load(const T* z, int n, bool aligned);  // the first n of them; -inf beyond
};

template <>
__device__ inline uint32_t Packed<float>::lowest() {
  return 0xff800000u;
}
template <>
__device__ inline uint32_t Packed<BFloat16>::lowest() {
  return 0xff80ff80u;
}
template <>
__device__ inline uint32_t Packed<Float16>::lowest() {
  return 0xfc00fc00u;
}

template <class T>
__device__ inline float Packed<T>::top() const {
  if constexpr (sizeof(T) == 4) {
    return fmaxf(fmaxf(__uint_as_float(word[0]), __uint_as_float(word[1])),
                 fmaxf(__uint_as_float(word[2]), __uint_as_float(word[3])));
  } else {
    const float2 pair = widen_pair<T>(max_pair<T>(max_pair<T>(word[0], word[1]), max_pair<T>(word[2], word[3])));
    return fmaxf(pair.x, pair.y);
  }
}

template <class T>
__device__ inline Packed<T> Packed<T>::max(const Packed& other) const {
  Packed out;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    if constexpr (sizeof(T) == 4) {
      out.word[w] = __float_as_uint(fmaxf(__uint_as_float(word[w]), __uint_as_float(other.word[w])));
    } else {
      out.word[w] = max_pair<T>(word[w], other.word[w]);
    }
  }
  return out;
}

template <class T>
__device__ inline Packed<T> Packed<T>::none() {
  Packed out;
#pragma unroll
  for (uint32_t& w : out.word) w = lowest();
  return out;
}

template <class T>
template <class Body>
__device__ inline void Packed<T>::each(Body body) const {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      body(i, __uint_as_float(word[i]));
    } else {
      const float2 pair = widen_pair<T>(word[i]);
      body(2 * i, pair.x);
      body(2 * i + 1, pair.y);
    }
  }
}

template <class T>
__device__ inline float Packed<T>::at(int i) const {
  constexpr int kPerWord = kLogits / 4;
  uint32_t bits = word[0];
#pragma unroll
  for (int w = 1; w < 4; ++w) bits = i >= w * kPerWord ? word[w] : bits;  // no index: the words are registers
  if constexpr (kPerWord == 1) {
    return __uint_as_float(bits);
  } else {
    const float2 pair = widen_pair<T>(bits);
    return i % 2 == 0 ? pair.x : pair.y;
  }
}

template <class T>
__device__ inline void Packed<T>::put(int i, T logit) {
  constexpr int kPerWord = kLogits / 4;
  uint32_t bits = 0;
  memcpy(&bits, &logit, sizeof logit);
  const int side = i % kPerWord * 16;
  word[i / kPerWord] = kPerWord == 1 ? bits : (word[i / kPerWord] & ~(0xffffu << side)) | bits << side;
}

template <class T>
__device__ inline void Packed<T>::exclude(int i) {
  constexpr int kPerWord = kLogits / 4;
#pragma unroll
  for (int w = 0; w < 4; ++w) {  // masks instead of indices: the words are registers
    uint32_t mask = 0;
#pragma unroll
    for (int side = 0; side < kPerWord; ++side) {
      const uint32_t one = kPerWord == 1 ? 0xffffffffu : 0xffffu << (16 * side);
      mask |= w * kPerWord + side == i ? one : 0;
    }
    word[w] = (word[w] & ~mask) | (lowest() & mask);
  }
}

template <class T>
__device__ inline void Packed<T>::keep_first(int n) {
  constexpr int kPerWord = kLogits / 4;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const int kept = n - w * kPerWord;  // of the word
    const uint32_t mask = kept >= kPerWord ? 0xffffffffu : kept > 0 ? 0xffffu : 0;
    word[w] = (word[w] & mask) | (lowest() & ~mask);
  }
}

template <class T>
template <class Keep>
__device__ inline void Packed<T>::filter(Keep keep) {
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    if constexpr (sizeof(T) == 4) {
      if (!keep(w, __uint_as_float(word[w]))) word[w] = lowest();
    } else {
      const float2 pair = widen_pair<T>(word[w]);
      const uint32_t mask = (keep(2 * w, pair.x) ? 0xffffu : 0) | (keep(2 * w + 1, pair.y) ? 0xffff0000u : 0);
      word[w] = (word[w] & mask) | (lowest() & ~mask);
    }
  }
}

template <class T>
__device__ inline Packed<T> Packed<T>::load(const T* z, int n, bool aligned) {
  Packed out;
  if (aligned && n >= kLogits) {
    const uint4 v = load_once(z);
    out.word[0] = v.x, out.word[1] = v.y, out.word[2] = v.z, out.word[3] = v.w;
    return out;
  }
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    uint32_t bits = lowest();
    if constexpr (sizeof(T) == 4) {
      if (w < n) memcpy(&bits, z + w, sizeof bits);
    } else if (2 * w + 2 <= n && reinterpret_cast<uintptr_t>(z) % sizeof bits == 0) {
      bits = reinterpret_cast<const uint32_t*>(z)[w];
    } else {
      if (2 * w < n) bits = (bits & 0xffff0000u) | z[2 * w].bits;
      if (2 * w + 1 < n) bits = (bits & 0xffffu) | static_cast<uint32_t>(z[2 * w + 1].bits) << 16;
    }
    out.word[w] = bits;
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
template <class T>
struct Mixed {
  static constexpr int kLogits = 16 / sizeof(T);
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
  __device__ Mixed max(const Mixed& other) const {
    Mixed out;
#pragma unroll
    for (int i = 0; i < kLogits; ++i) out.logit[i] = fmaxf(logit[i], other.logit[i]);
    return out;
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
