// One row of effective logits, 16 bytes of it at a time. A thread always takes the same logits of a chunk, however the
// row is aligned: alignment changes how they are fetched, never who adds them up.
#pragma once

#include "../core/geometry.h"
#include "../core/row_stats.h"
#include "softcap.h"
#include "stage.h"

namespace dlm::cuda {

// How a row's logits come about, before anything is done with them. Guided ones may be capped too: those kernels look.
enum class Mix : int { kPlain, kCapped, kGuided };

template <class T, Mix kMix>
class RowSource {
 public:
  static constexpr bool kGuided = kMix == Mix::kGuided;
  using Vector = std::conditional_t<kGuided, Mixed<T>, Packed<T>>;
  static constexpr int kLogits = 16 / sizeof(T);
  // What a thread holds at once, at most 16 registers: vectors of the block's next turn, and the next.
  static constexpr int kTileVectors = kGuided ? 2 : 4;
  static constexpr int kTurn = kThreads * kLogits, kShare = kWarp * kLogits;
  static constexpr int kTile = kTurn * kTileVectors;
  // Low bits of ordered() in which no two logits differ alone: those that widening appends.
  static constexpr int kKeyBits = kMix != Mix::kPlain ? 0 : std::is_same_v<T, BFloat16> ? 16 : sizeof(T) == 2 ? 13 : 0;

  // A warp's share of a tile in shared memory, on its way.
  struct Stage {
    cuda::Stage<T, kTileVectors> of[kGuided ? 2 : 1];
  };

  __device__ RowSource(const SweepParams& s, const Geometry& g, int64_t row) : RowSource(s, s.logits, g, row) {}
  // Of other logits than those of the sweep.
  __device__ RowSource(const SweepParams& s, const Array& logits, const Geometry& g, int64_t row)
      : cond_(static_cast<const T*>(logits.data) + logits_offset(g, logits, row)),
        vocab_(static_cast<int>(logits.shape[logits.ndim - 1])),
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
    if constexpr (!kGuided) return c;
    if constexpr (kGuided) return mixed(c, Packed<T>::load(uncond_ + at, left, aligned_));
  }

  // The thread's vectors of the tile at `offset` of the `size` logits from `begin` on, without what is suppressed. All
  // lanes of the warp call.
  __device__ void load_tile(int64_t begin, int offset, int size, Vector (&tile)[kTileVectors]) const {
    const int mine = offset + static_cast<int>(threadIdx.x) * kLogits;
    load_vectors(begin + mine, size - mine, tile);
    if (num_suppressed_ > 0) exclude(tile, begin + offset, min_of(kTile, size - offset));
  }

  // The same in two steps, by warp: the copies are started, and some time after the warp has waited for them, taken.
  // Returns how many of the vectors have any of the chunk's logits.
  __device__ void fetch(Stage* stage, int begin, int offset, int size) const {
    const int mine = offset + static_cast<int>(threadIdx.x) / kWarp * kShare;
    if (mine >= size) return;
    stage->of[0].fetch({cond_, vocab_}, begin + mine, size - mine);
    if (kGuided) stage->of[kGuided].fetch({uncond_, vocab_}, begin + mine, size - mine);
  }
  __device__ int take(const Stage& stage, int begin, int offset, int size, Vector (&tile)[kTileVectors]) const {
    const int left = size - offset - static_cast<int>(threadIdx.x) / kWarp * kShare;
    int live = kTileVectors;
    if (left >= (kTileVectors - 1) * kTurn + kShare) {
      if (aligned_) {
        take_vectors(tile, [&](int of, int i, int) { return stage.of[of].read(i, 0); });
      } else {
        take_vectors(tile, [&](int of, int i, int lead) { return stage.of[of].read(i, lead); });
      }
    } else {
      live = min_of(max_of(0, (left + kTurn - 1) / kTurn), kTileVectors);
      take_vectors(tile, [&](int of, int i, int lead) { return stage.of[of].read(i, lead, left - i * kTurn); });
    }
    if (num_suppressed_ > 0) exclude(tile, begin + offset, min_of(kTile, size - offset));
    return live;
  }

  __device__ int num_suppressed() const { return num_suppressed_; }
  __device__ int64_t suppressed(int64_t i) const {
    return static_cast<const int64_t*>(suppress_.data)[i * suppress_.stride[0]];
  }

  __device__ float logit(int64_t i) const {
#pragma unroll 1
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

  template <class Read>
  __device__ void take_vectors(Vector (&tile)[kTileVectors], Read read) const {
    const int lead = RowView<T>{cond_, vocab_}.lead(), uncond_lead = RowView<T>{uncond_, vocab_}.lead();
#pragma unroll
    for (int i = 0; i < kTileVectors; ++i) {
      if constexpr (!kGuided) tile[i] = read(0, i, lead);
      if constexpr (kGuided) tile[i] = mixed(read(0, i, lead), read(1, i, uncond_lead));
    }
  }

  __device__ Vector mixed(const Packed<T>& c, const Packed<T>& u) const {
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
  const int vocab_;
  float weight_ = 1;
  const SoftCap cap_;
  bool aligned_;
  const Array& suppress_;
  const int num_suppressed_;
};

}  // namespace dlm::cuda
