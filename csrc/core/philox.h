// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), keyed by meaning:
// (seed of the request, canvas position, step, stream). Never by row index, thread, chunk or batch layout, so the
// same request draws the same tokens wherever and however it is computed.
#pragma once

#include "hd.h"

namespace dlm {

// Draws that must be independent live on different streams: route and noise are of the reverse steps, the forward ones
// of q_sample, whose canvas the first step may take up under the same seed and step.
enum Stream : uint32_t {
  kStreamDraw = 0,
  kStreamRank = 1,
  kStreamRoute = 2,
  kStreamNoise = 3,
  kStreamForwardRoute = 4,
  kStreamForwardNoise = 5
};

struct Philox4 {
  uint32_t word[4];
};

DLM_HD Philox4 philox4x32_10(Philox4 counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = static_cast<uint64_t>(0xD2511F53u) * counter.word[0];
    const uint64_t b = static_cast<uint64_t>(0xCD9E8D57u) * counter.word[2];
    counter = {{static_cast<uint32_t>(b >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(b),
                static_cast<uint32_t>(a >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(a)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

DLM_HD Philox4 noise(int64_t seed, int64_t position, int64_t step, Stream stream) {
  const uint64_t s = static_cast<uint64_t>(seed), t = static_cast<uint64_t>(step);
  const Philox4 counter = {{static_cast<uint32_t>(position), static_cast<uint32_t>(t), static_cast<uint32_t>(t >> 32),
                            static_cast<uint32_t>(stream)}};
  return philox4x32_10(counter, static_cast<uint32_t>(s), static_cast<uint32_t>(s >> 32));
}

// 52 bits at the centres of 2^52 cells: with 53 the last cell's centre would round to 1.0 and draw past the end.
DLM_HD double uniform_52(Philox4 n) {
  const uint64_t w = ((static_cast<uint64_t>(n.word[0]) << 32) | n.word[1]) >> 12;
  return (static_cast<double>(w) + 0.5) * 0x1p-52;
}

// Gumbel noise from u in (0, 1): log1p keeps the digits of small ones, which make the large values.
DLM_HD double gumbel(double u) { return -log_d(-log1p_d(-u)); }

// 23 bits in a float, strictly inside (0, 1) for the same reason.
DLM_HD float uniform_23(Philox4 n) { return (static_cast<float>(n.word[0] >> 9) + 0.5f) * 0x1p-23f; }

}  // namespace dlm
