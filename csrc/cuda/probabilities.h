// The law of a finished row, written out for a model that is fed with it: in bfloat16, as a second read of the row.
#pragma once

#include "finish.h"

namespace dlm::cuda {

// A vector's worth of them at once: 16 bytes, or 8 where logits are fp32. `aligned`: to that.
template <int kCount>
__device__ void store_bfloat16(const float (&p)[kCount], BFloat16* out, int left, bool aligned) {
  uint32_t word[kCount / 2];
#pragma unroll
  for (int w = 0; w < kCount / 2; ++w) word[w] = bfloat16_pair(p[2 * w], p[2 * w + 1]);
  if (!aligned || left < kCount) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i < left) out[i].bits = static_cast<uint16_t>(word[i / 2] >> 16 * (i % 2));
    }
  } else if constexpr (kCount == 8) {
    *reinterpret_cast<uint4*>(out) = make_uint4(word[0], word[1], word[2], word[3]);
  } else {
    *reinterpret_cast<uint2*>(out) = make_uint2(word[0], word[1]);
  }
}

// All threads of the block call.
template <class Source>
__device__ void store_probabilities(const Source& source, int64_t vocab, const RowLaw& law, const RowStats& stats,
                                    bool cut, BFloat16* out) {
  constexpr int kLogits = Source::kLogits, kTile = kThreads * Source::kLaneTile;
  const float scale = static_cast<float>(law.beta * kLog2e), share = static_cast<float>(1 / (1 + stats.rest));
  const bool aligned = reinterpret_cast<uintptr_t>(out) % (kLogits * sizeof(BFloat16)) == 0;
  const Cutoff cutoff = cutoff_of(cut);
#pragma unroll 1
  for (int64_t tile = 0; tile < vocab; tile += kTile) {
    typename Source::Vector vector[Source::kTileVectors];
    source.template load_tile<kThreads>(tile, 0, static_cast<int>(min_of<int64_t>(kTile, vocab - tile)), vector);
#pragma unroll 1
    for (int i = 0; i < Source::kTileVectors; ++i, shift_down(vector)) {
      const int64_t at = tile + i * Source::kTurn + static_cast<int>(threadIdx.x) * kLogits;
      if (cut) vector[0].filter([&](int k, float z) { return keeps(cutoff, source.effective(z), at + k); });
      float p[kLogits];
      vector[0].each([&](int k, float z) { p[k] = exp2_approx((source.effective(z) - stats.max) * scale) * share; });
      if (at < vocab) {
        store_bfloat16(p, out + at, static_cast<int>(min_of<int64_t>(kLogits, vocab - at)), aligned);
      }
    }
  }
}

}  // namespace dlm::cuda
