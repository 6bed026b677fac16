// The first m of some rows in THE order, without sorting the others: digit by digit from the highest one in which any
// differ, the numbers of rows in bins tell which bin the m-th is in, and only that one is looked at again.
#pragma once

#include "block.h"

namespace dlm::cuda {

constexpr int kDigitBits = 7, kDigits = 1 << kDigitBits;

// What rows are told apart by, smaller first: their keys, and of equal keys their positions.
enum class RankWord { kKey, kPosition };

__device__ inline uint64_t rank_word(const Ranked& r, RankWord word) {
  if (word == RankWord::kPosition) return static_cast<uint64_t>(r.position);
  const int64_t bits = __double_as_longlong(r.key + 0.0);  // both zeros are one number
  return static_cast<uint64_t>(bits >= 0 ? INT64_MAX - bits : bits);
}

// Whose digits from `shift` on are at most those of `bound`.
struct Bound {
  uint64_t bound = UINT64_MAX;
  int shift = 0;

  __device__ bool below(uint64_t w) const { return w >> shift < bound >> shift; }
  __device__ bool at(uint64_t w) const { return w >> shift == bound >> shift; }
};

// Of the rows with wanted(row), the first *left are sought: those below the bound, and as many at it as *left says
// then. Returns whether those are all that are at it.
template <class Wanted>
__device__ bool find_bound(const Ranked* ranked, uint32_t n, RankWord word, uint32_t* left, Bound* found,
                           Wanted wanted) {
  DLM_SHARED(uint32_t, count, [kDigits]);
  uint64_t low = UINT64_MAX, high = 0;
  for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
    if (!wanted(ranked[i])) continue;
    const uint64_t w = rank_word(ranked[i], word);
    low = min_of(low, w), high = max_of(high, w);
  }
  low = block_reduce(low, [](uint64_t a, uint64_t b) { return min_of(a, b); });
  high = block_reduce(high, [](uint64_t a, uint64_t b) { return max_of(a, b); });
  *found = {low, 0};
  if (low == high) return false;
  found->shift = (63 - __clzll(static_cast<long long>(low ^ high))) / kDigitBits * kDigitBits + kDigitBits;
#pragma unroll 1
  while (found->shift > 0) {
    const int above = found->shift, shift = above - kDigitBits;
    for (uint32_t i = threadIdx.x; i < kDigits; i += blockDim.x) count[i] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
      const uint64_t w = rank_word(ranked[i], word);
      const bool here = above >= 64 || w >> above == found->bound >> above;
      if (here && wanted(ranked[i])) atomicAdd(&count[w >> shift & (kDigits - 1)], 1);
    }
    __syncthreads();
    // Every warp looks for the bin, and all find the same.
    constexpr uint32_t kEach = kDigits / kWarp;
    const uint32_t lane = threadIdx.x % kWarp;
    uint32_t mine = 0;
    for (uint32_t i = 0; i < kEach; ++i) mine += count[lane * kEach + i];
    const uint32_t through = warp_scan(mine);
    const int owner = __ffs(static_cast<int>(__ballot_sync(kAllLanes, through >= *left))) - 1;
    uint32_t before = __shfl_sync(kAllLanes, through - mine, owner), bin = owner * kEach;
    while (before + count[bin] < *left) before += count[bin++];
    const uint32_t inside = count[bin];
    __syncthreads();  // `count` is free for the next digit
    *left -= before;
    const uint64_t digit = static_cast<uint64_t>(bin) << shift,
                   prefix = above >= 64 ? 0 : found->bound >> above << above;
    *found = {prefix | digit, shift};
    if (inside == *left) return true;
  }
  return false;
}

// Moves the first m of n rows to the front, in no particular order; what is behind them is lost.
__device__ DLM_NOINLINE inline void block_select(Ranked* ranked, uint32_t n, uint32_t m) {
  if (m == 0 || m >= n) return;
  uint32_t left = m;
  Bound key, position;
  bool all = find_bound(ranked, n, RankWord::kKey, &left, &key, [](const Ranked&) { return true; });
  if (!all) {  // the last of them have the same key
    find_bound(ranked, n, RankWord::kPosition, &left, &position,
               [&](const Ranked& r) { return key.at(rank_word(r, RankWord::kKey)); });
  }
  DLM_SHARED(uint32_t, taken, );
  if (threadIdx.x == 0) taken = 0;
#pragma unroll 1
  for (uint32_t first = 0; first < n; first += blockDim.x) {
    const uint32_t i = first + threadIdx.x;
    Ranked r;
    if (i < n) r = ranked[i];
    __syncthreads();  // whatever is written now has been read
    if (i >= n) continue;
    const uint64_t k = rank_word(r, RankWord::kKey), p = rank_word(r, RankWord::kPosition);
    const bool ties = !all && (position.below(p) || position.at(p));
    if (key.below(k) || (key.at(k) && (all || ties))) ranked[atomicAdd(&taken, 1)] = r;
  }
  __syncthreads();
}

}  // namespace dlm::cuda
