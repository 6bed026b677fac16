// Logits on their way: a warp's share of a tile, copied to shared memory behind its back. Memory is fetched in whole
// aligned vectors however the row lies in it, and logits are put into their places when they are read.
#pragma once

#include "packed.h"

namespace dlm::cuda {

template <class T>
struct RowView {
  const T* first;
  int vocab;

  // Logits that the row's first vector has before the row begins.
  __device__ int lead() const { return static_cast<int>(reinterpret_cast<uintptr_t>(first) % 16 / sizeof(T)); }
};

// `some` and `next` as one, from byte `skip` on.
template <class T>
__device__ inline Packed<T> joined(const uint4& some, const uint4& next, int skip) {
  uint32_t word[8] = {some.x, some.y, some.z, some.w, next.x, next.y, next.z, next.w};
#pragma unroll
  for (int step = 2; step > 0; step /= 2) {
#pragma unroll
    for (int w = 0; w + step < 8; ++w) word[w] = (skip / 4 & step) != 0 ? word[w + step] : word[w];
  }
  Packed<T> out;
#pragma unroll
  for (int w = 0; w < 4; ++w) out.word[w] = __funnelshift_r(word[w], word[w + 1], skip % 4 * 8);
  return out;
}

template <class T, int kVectors>
struct Stage {
  static constexpr int kLogits = 16 / sizeof(T), kShare = kWarp * kLogits, kTurn = kThreads * kLogits;

  uint4 vector[kVectors][kWarp + 1];  // one more than there are lanes, of rows that begin inside a vector

  // Starts copying the warp's logits of each turn, those of the first from `at` on; `left`: of its chunk, from there
  // on.
  __device__ void fetch(const RowView<T>& row, int at, int left) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, lead = row.lead();
    const int from = at - lead;
    if (from < 0 || row.vocab - from < (kVectors - 1) * kTurn + kShare + kLogits) {
      fetch_edges(row, from, left + lead);
      return;
    }
    fetch_lane(row.first + (from + lane * kLogits), left + lead - lane * kLogits, &vector[0][lane]);
    if (lead > 0 && lane == 0) fetch_lane(row.first + (from + kShare), left + lead - kShare, &vector[0][kWarp]);
  }

  // The lane's logits of turn i, whose share is all the chunk's; the warp has waited for its copies.
  __device__ Packed<T> read(int i, int lead) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const uint4 some = vector[i][lane];
    if (lead > 0) return joined<T>(some, vector[i][lane + 1], lead * static_cast<int>(sizeof(T)));
    return {{some.x, some.y, some.z, some.w}};
  }
  // The same where the chunk has only `left` of the share.
  __device__ Packed<T> read(int i, int lead, int left) const {
    if (left >= kShare) return read(i, lead);
    const int lane = static_cast<int>(threadIdx.x) % kWarp, mine = left - lane * kLogits;
    uint4 some = {}, next = {};
    if (mine > 0) some = vector[i][lane];
    if (lead > 0 && mine > kLogits - lead) next = vector[i][lane + 1];
    Packed<T> out = joined<T>(some, next, lead * static_cast<int>(sizeof(T)));
    out.keep_first(mine);
    return out;
  }

 private:
  // A vector of each turn, of which it is the same, as far as any of it is wanted.
  __device__ static void fetch_lane(const T* from, int wanted, uint4* to) {
    keep_address(&from);
    keep_address(&to);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      if (wanted > i * kTurn) __pipeline_memcpy_async(to + i * (kWarp + 1), from + i * kTurn, sizeof(uint4));
    }
  }

  // The same for all lanes where the row may begin or end: no logit is read that is not the row's.
  __device__ DLM_NOINLINE void fetch_edges(RowView<T> row, int from, int wanted) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll 1
    for (int i = 0; i < kVectors; ++i) {
#pragma unroll 1
      for (int slot = lane; slot <= kWarp; slot += kWarp) {
        const int mine = i * kTurn + slot * kLogits;
        if (wanted > mine) fetch_edge(row, from + mine, &vector[i][slot]);
      }
    }
  }
  __device__ static void fetch_edge(const RowView<T>& row, int from, uint4* to) {
    if (from >= 0 && from + kLogits <= row.vocab) {
      __pipeline_memcpy_async(to, row.first + from, sizeof(uint4));
      return;
    }
    const Packed<T> none = Packed<T>::none();
    *to = make_uint4(none.word[0], none.word[1], none.word[2], none.word[3]);
#pragma unroll 1
    for (int k = 0; k < kLogits; ++k) {
      if (from + k >= 0 && from + k < row.vocab) reinterpret_cast<T*>(to)[k] = row.first[from + k];
    }
  }
};

}  // namespace dlm::cuda
