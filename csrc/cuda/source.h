// One row of effective logits, 16 bytes of it at a time. A thread always takes the same logits of a chunk, however the
// row is aligned: alignment changes how they are fetched, never who adds them up.
#pragma once

#include "../core/geometry.h"
#include "../core/row_stats.h"
#include "block.h"
#include "softcap.h"

namespace dlm::cuda {

// 16 bytes of a row as they lie in memory.
template <class T>
struct Packed {
  static constexpr int kLogits = 16 / sizeof(T);
  uint32_t word[4];

  __device__ static uint32_t lowest();               // -inf, as often as a word holds it
  __device__ float top() const;                      // the largest; NaN is passed over
  __device__ Packed max(const Packed& other) const;  // logit by logit, likewise
  template <class Body>
  __device__ void each(Body body) const;  // body(i, logit) in index order
  __device__ float at(int i) const;       // logit i
  __device__ void exclude(int i);         // logit i, if it has one, becomes -inf
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

// The same logits after guidance, which computes in float.
template <class T>
struct Mixed {
  static constexpr int kLogits = 16 / sizeof(T);
  float logit[kLogits];

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

// How a row's logits come about, before anything is done with them. Guided ones may be capped too: those kernels look.
enum class Mix : int { kPlain, kCapped, kGuided };

template <class T, Mix kMix>
class RowSource {
 public:
  static constexpr bool kGuided = kMix == Mix::kGuided;
  using Vector = std::conditional_t<kGuided, Mixed<T>, Packed<T>>;
  static constexpr int kLogits = 16 / sizeof(T);
  // What a thread holds at once, 16 registers: vectors of the block's next turn, and the next.
  static constexpr int kTileVectors = kGuided ? 16 / kLogits : 4;
  static constexpr int kTurn = kThreads * kLogits;
  static constexpr int kTile = kTurn * kTileVectors;
  // Low bits of ordered() in which no two logits differ alone: those that widening appends.
  static constexpr int kKeyBits = kMix != Mix::kPlain ? 0 : std::is_same_v<T, BFloat16> ? 16 : sizeof(T) == 2 ? 13 : 0;

  __device__ RowSource(const SweepParams& s, const Geometry& g, int64_t row) : RowSource(s, s.logits, g, row) {}
  // Of other logits than those of the sweep.
  __device__ RowSource(const SweepParams& s, const Array& logits, const Geometry& g, int64_t row)
      : cond_(static_cast<const T*>(logits.data) + logits_offset(g, logits, row)),
        cap_(kMix == Mix::kPlain ? 0 : s.softcap),
        suppress_(s.suppress),
        num_suppressed_(given(s.suppress) ? static_cast<int>(s.suppress.shape[0]) : 0) {
    if (kGuided) {
      uncond_ = static_cast<const T*>(s.uncond.data) + logits_offset(g, s.uncond, row);
      weight_ = static_cast<float>(s.cfg_scale + 1);
    }
    aligned_ = (reinterpret_cast<uintptr_t>(cond_) | reinterpret_cast<uintptr_t>(uncond_)) % 16 == 0;
  }

  // A logit of a vector, or the largest of some, as it counts: vectors are capped only where they are looked at, since
  // the cap keeps their order.
  __device__ float effective(float z) const { return kMix == Mix::kCapped ? cap_(z) : z; }

  // The vector at logit `at` (a multiple of kLogits) of a chunk that has `left` logits from there on.
  __device__ Vector load(int64_t at, int left) const {
    const Packed<T> c = Packed<T>::load(cond_ + at, left, aligned_);
    if constexpr (kGuided) {
      const Packed<T> u = Packed<T>::load(uncond_ + at, left, aligned_);
      Vector out;
      c.each([&](int i, float z) { out.logit[i] = z; });
      if (cap_.given()) {
#pragma unroll
        for (int i = 0; i < kLogits; ++i) out.logit[i] = cap_(out.logit[i]);
        u.each([&](int i, float z) { out.logit[i] = combine(out.logit[i], cap_(z), weight_); });
      } else {
        u.each([&](int i, float z) { out.logit[i] = combine(out.logit[i], z, weight_); });
      }
      return out;
    } else {
      return c;
    }
  }

  // The thread's vectors of the tile at `offset` of the `size` logits from `begin` on, without what is suppressed. All
  // lanes of the warp call.
  __device__ void load_tile(int64_t begin, int offset, int size, Vector (&tile)[kTileVectors]) const {
    const int mine = offset + static_cast<int>(threadIdx.x) * kLogits;
    load_vectors(begin + mine, size - mine, tile);
    if (num_suppressed_ > 0) exclude(tile, begin + offset, min_of(kTile, size - offset));
  }

  __device__ int num_suppressed() const { return num_suppressed_; }
  __device__ int64_t suppressed(int64_t i) const {
    return static_cast<const int64_t*>(suppress_.data)[i * suppress_.stride[0]];
  }

  __device__ float logit(int64_t i) const {
    for (int s = 0; s < num_suppressed_; ++s) {
      if (suppressed(s) == i) return -kInfinity;
    }
    const float c = softened(to_float(cond_[i]));
    return kGuided ? combine(c, softened(to_float(uncond_[i])), weight_) : c;
  }

 private:
  __device__ void load_vectors(int64_t at, int left, Vector (&tile)[kTileVectors]) const {
    if constexpr (!kGuided) {
      if (aligned_ && left >= kTile - kTurn + kLogits) {  // all of them whole: one load each, addresses folded
#pragma unroll
        for (int i = 0; i < kTileVectors; ++i) tile[i] = Vector::load(cond_ + at + i * kTurn, kLogits, true);
        return;
      }
    }
#pragma unroll
    for (int i = 0; i < kTileVectors; ++i) tile[i] = load(at + i * kTurn, left - i * kTurn);
  }

  // Suppressed ids of the tile [begin, begin + size).
  __device__ void exclude(Vector (&tile)[kTileVectors], int64_t begin, int size) const {
    each_suppressed(begin, begin + size, [&](int64_t id) {
      const int at = static_cast<int>(id - begin) - static_cast<int>(threadIdx.x) * kLogits;
#pragma unroll
      for (int i = 0; i < kTileVectors; ++i) tile[i].exclude(at - i * kTurn);
    });
  }

  // hit(id) in every lane for each suppressed id in [begin, end).
  template <class Hit>
  __device__ void each_suppressed(int64_t begin, int64_t end, Hit hit) const {
    for (int first = 0; first < num_suppressed_; first += kWarp) {
      const int i = first + static_cast<int>(threadIdx.x) % kWarp;
      const int64_t id = i < num_suppressed_ ? suppressed(i) : -1;
      for (unsigned found = __ballot_sync(kAllLanes, id >= begin && id < end); found != 0; found &= found - 1) {
        hit(suppressed(first + __ffs(static_cast<int>(found)) - 1));
      }
    }
  }

  __device__ float softened(float z) const { return kMix != Mix::kPlain && cap_.given() ? cap_(z) : z; }

  const T* cond_;
  const T* uncond_ = nullptr;
  float weight_ = 1;
  const SoftCap cap_;
  bool aligned_;
  const Array& suppress_;
  const int num_suppressed_;
};

}  // namespace dlm::cuda
