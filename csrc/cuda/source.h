// One row of effective logits, 16 bytes of it at a time. A thread always takes the same logits of a chunk, however the
// row is aligned: alignment changes how they are fetched, never who adds them up.
#pragma once

#include "../core/geometry.h"
#include "../core/row_stats.h"
#include "packed.h"
#include "row_job.h"
#include "softcap.h"

namespace dlm::cuda {

// How a row's logits come about, before anything is done with them. Guided ones may be capped too: those kernels look.
enum class Mix : int { kPlain, kCapped, kGuided };

template <class T, Mix kMix>
class RowSource {
 public:
  using Logit = T;
  static constexpr bool kGuided = kMix == Mix::kGuided;
  template <int kWords>
  using Words = std::conditional_t<kGuided, Mixed<T, kWords>, Packed<T, kWords>>;
  using Vector = Words<4>;
  static constexpr int kLogits = 16 / sizeof(T);
  // What a thread holds at once, at most 16 registers: vectors of the block's next turn, and the next.
  static constexpr int kTileVectors = kGuided ? 2 : 4;
  static constexpr int kTurn = kThreads * kLogits, kWarpTurn = kWarp * kLogits;
  static constexpr int kLaneTile = kLogits * kTileVectors;
  // Low bits of ordered() in which no two logits differ alone: those that widening appends.
  static constexpr int kKeyBits = kMix != Mix::kPlain ? 0 : std::is_same_v<T, BFloat16> ? 16 : sizeof(T) == 2 ? 13 : 0;

  // Logits as they come from memory.
  static constexpr int kRows = kGuided ? 2 : 1;
  template <int kWords>
  struct Raw {
    Packed<T, kWords> of[kRows];
  };

  // Where the logits of a row begin, which is sequence b's.
  __device__ static const T* row_of(const Array& logits, const Geometry& g, int64_t row, int64_t b) {
    return given(logits) ? static_cast<const T*>(logits.data) + find_logits(g, logits, row, b) : nullptr;
  }

  // Of the row at hand; of its other logits.
  __device__ explicit RowSource(const RowJob& job, bool other = false)
      : RowSource(job.args.step.sweep, static_cast<const T*>(other ? job.other_logits : job.logits),
                  static_cast<const T*>(job.uncond)) {}
  __device__ RowSource(const SweepParams& s, const T* cond, const T* uncond)
      : cond_(cond),
        vocab_(static_cast<int>(s.logits.shape[s.logits.ndim - 1])),
        cap_(kMix == Mix::kPlain ? 0 : s.softcap),
        suppress_(s.suppress),
        num_suppressed_(given(s.suppress) ? static_cast<int>(s.suppress.shape[0]) : 0) {
    if (kGuided) {
      uncond_ = uncond;
      weight_ = static_cast<float>(s.cfg_scale + 1);
    }
    aligned_ = (reinterpret_cast<uintptr_t>(cond_) | reinterpret_cast<uintptr_t>(uncond_)) % 16 == 0;
  }

  // A logit of a vector, or the largest of some, as it counts: vectors are capped only where they are looked at, since
  // the cap keeps their order.
  __device__ float effective(float z) const { return kMix == Mix::kCapped ? cap_(z) : z; }

  template <int kWords>
  __device__ Words<kWords> mixed(const Raw<kWords>& raw) const {
    if constexpr (!kGuided) return raw.of[0];
    if constexpr (kGuided) {
      Words<kWords> out;
      raw.of[0].each([&](int i, float z) { out.logit[i] = z; });
      if (cap_.given()) {
#pragma unroll
        for (float& z : out.logit) z = cap_(z);
        raw.of[1].each([&](int i, float z) { out.logit[i] = combine(out.logit[i], cap_(z), weight_); });
      } else {
        raw.of[1].each([&](int i, float z) { out.logit[i] = combine(out.logit[i], z, weight_); });
      }
      return out;
    }
  }

  // The vector at logit `at` (a multiple of kLogits) of a chunk that has `left` logits from there on.
  __device__ Vector load(int64_t at, int left) const {
    Raw<4> raw;
    raw.of[0] = Packed<T>::load(cond_ + at, left, aligned_);
    if (kGuided) raw.of[kRows - 1] = Packed<T>::load(uncond_ + at, left, aligned_);
    return mixed(raw);
  }

  // The thread's vectors of the tile at `offset` of the `size` logits from `begin` on, without what is suppressed:
  // kLanes threads share it, and take turns at its vectors. All lanes of the warp call.
  template <int kLanes>
  __device__ void load_tile(int64_t begin, int offset, int size, Vector (&tile)[kTileVectors]) const {
    constexpr int kStride = kLanes * kLogits;
    const int mine = offset + static_cast<int>(threadIdx.x) % kLanes * kLogits, left = size - mine;
    const int64_t at = begin + mine;
    if (!kGuided && aligned_ && left >= (kTileVectors - 1) * kStride + kLogits) {  // all of them whole
#pragma unroll
      for (int i = 0; i < kTileVectors; ++i) tile[i] = load(at + i * kStride, kLogits);
    } else {
#pragma unroll
      for (int i = 0; i < kTileVectors; ++i) tile[i] = load(at + i * kStride, left - i * kStride);
    }
    const int64_t end = begin + min_of(offset + kStride * kTileVectors, size);
    each_suppressed(begin + offset, end, [&](int64_t id) {
      const int first = static_cast<int>(id - at);
#pragma unroll
      for (int i = 0; i < kTileVectors; ++i) tile[i].exclude(first - i * kStride);
    });
  }
  // The vector at token `at` without this one; without what is suppressed.
  __device__ static void leave_out(int64_t token, int64_t at, Vector* vector) {
    const int64_t i = token - at;
    vector->exclude(i >= 0 && i < kLogits ? static_cast<int>(i) : -1);
  }
  __device__ void suppress(int64_t at, Vector* vector) const {
#pragma unroll 1
    for (int s = 0; s < num_suppressed_; ++s) leave_out(suppressed(s), at, vector);
  }

  // The chunks of this size that have suppressed tokens, a bit each. All lanes of the warp call.
  __device__ unsigned chunks_suppressed(int size) const {
    unsigned chunks = 0;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x) % kWarp; i < num_suppressed_; i += kWarp) {
      const int64_t id = suppressed(i);
      if (id >= 0 && id < vocab_) chunks |= 1u << static_cast<int>(id) / size;
    }
    return num_suppressed_ > 0 ? __reduce_or_sync(kAllLanes, chunks) : 0;
  }

  // hit(id) in every lane for each suppressed id in [begin, end). All lanes of the warp call.
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

  // Where the row of one logits array begins, or of the other.
  __device__ const T* row(int of) const { return of == 0 ? cond_ : uncond_; }

  __device__ float logit(int64_t i) const {
#pragma unroll 1
    for (int s = 0; s < num_suppressed_; ++s) {
      if (suppressed(s) == i) return -kInfinity;
    }
    const float c = softened(to_float(cond_[i]));
    return kGuided ? combine(c, softened(to_float(uncond_[i])), weight_) : c;
  }

 private:
  __device__ int64_t suppressed(int64_t i) const {
    return static_cast<const int64_t*>(suppress_.data)[i * suppress_.stride[0]];
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
