// One sequence per block: sort its eligible rows by THE order, find how long a prefix the rule accepts, commit that.
#pragma once

#include "select.h"

namespace dlm::cuda {

// A row's part in the decision.
struct Verdict {
  RowState state;
  double key;
  bool open = true;  // of a candidate: whether its position is
};

// Up to so many each count the ones before them, which takes no barriers: a few hundred cycles.
constexpr uint32_t kCounted = 128;

// n rows, in space for the next power of two: shared memory where they fit, global where they do not.
template <bool (*kBefore)(const Ranked&, const Ranked&)>
__device__ DLM_NOINLINE void block_sort(Ranked* ranked, uint32_t n) {
  if (n == 0) return;
  if (n <= min_of(kCounted, blockDim.x)) {
    uint32_t before = 0;
    if (threadIdx.x < n) {
      const Ranked mine = ranked[threadIdx.x];
#pragma unroll 1
      for (uint32_t i = 0; i < n; ++i) {
        const Ranked other = ranked[i];
        before += kBefore(other, mine) || (i < threadIdx.x && !kBefore(mine, other));
      }
    }
    __syncthreads();
    const Ranked mine = ranked[min_of(threadIdx.x, n - 1)];  // again: all of it would be in registers meanwhile
    __syncthreads();
    if (threadIdx.x < n) ranked[before] = mine;
    __syncthreads();
    return;
  }
  uint32_t size = 1;  // bitonic
  while (size < n) size *= 2;
  for (uint32_t i = n + threadIdx.x; i < size; i += blockDim.x) ranked[i] = {-kInfinity, INT64_MAX, -1};
  __syncthreads();
#pragma unroll 1
  for (uint32_t run = 2; run <= size; run *= 2) {
#pragma unroll 1
    for (uint32_t gap = run / 2; gap > 0; gap /= 2) {
#pragma unroll 1
      for (uint32_t i = threadIdx.x; i < size / 2; i += blockDim.x) {
        const uint32_t low = (i & ~(gap - 1)) * 2 | (i & (gap - 1)), high = low | gap;
        const Ranked a = ranked[low], b = ranked[high];
        if (kBefore(b, a) == ((low & run) == 0)) ranked[low] = b, ranked[high] = a;
      }
      __syncthreads();
    }
  }
}

// The rows that may belong to sequence b: its own if dense, any if packed.
struct RowRange {
  int64_t begin, end;
};
__device__ inline RowRange rows_of(const Geometry& g, int64_t b) {
  if (g.packed) return {0, g.num_rows};
  return {b * g.width, (b + 1) * g.width};
}

// How many rows belong to sequences in [first, last). Packed rows may come in any order.
__device__ DLM_NOINLINE inline int64_t count_rows(const Geometry& g, int64_t first, int64_t last) {
  if (!g.packed) return (last - first) * g.width;
  int count = 0;
#pragma unroll 1
  for (int64_t row = threadIdx.x; row < g.num_rows; row += blockDim.x) {
    const int64_t flat = int_at(g.rows, row);  // no division: flat / L is in [first, last)
    count += flat >= first * g.length && flat < last * g.length;
  }
  return block_sum(count);
}

// What became of the rows of a sequence.
struct Standing {
  int64_t open, filled;  // candidates, by what they held
  int64_t eligible, bad;
  int64_t accepted;  // so many of `ranked`
};

// How many of the n ranked rows the rule accepts, position by position.
template <class Value, class Entropy>
__device__ int64_t accept_ranked(const RuleParams& rule, const Ranked* ranked, int64_t n, Value value,
                                 Entropy entropy) {
  if (rule.rule == kTopK) return first_of(rule, n);
  const double best = n > 0 ? value(ranked[0].row) : 0;
  int64_t joined = 0;
  double spent = 0, largest = 0;
  for (int64_t first = 0; first < n; first += blockDim.x) {
    const int64_t r = first + threadIdx.x;
    const bool real = r < n;
    const int64_t row = real ? ranked[r].row : -1;
    Turn turn = {r, real ? value(row) : 0, real && needs_entropy(rule.rule) ? entropy(row) : 0, best, spent, largest};
    const Scan sum = block_scan(turn.entropy), top = block_scan(turn.entropy, Larger{});
    turn.spent += sum.before;
    turn.largest = max_of(largest, top.before);
    const bool joins_here = real && joins(rule, turn);
    const int here = block_min(joins_here ? static_cast<int>(blockDim.x) : static_cast<int>(threadIdx.x));
    joined = first + here;
    if (here < static_cast<int>(blockDim.x)) break;
    spent += sum.total;
    largest = max_of(largest, top.total);
  }
  return settle(rule, n, min_of(joined, n));
}

// The same for a rule that looks at neighbours, which sorts again: a thread decides a run.
template <class Value>
__device__ int64_t accept_among_neighbours(const RuleParams& rule, Ranked* ranked, int64_t n, Value value) {
  const int64_t best = n > 0 ? ranked[0].row : -1;
  __syncthreads();
  block_sort<stands_before>(ranked, static_cast<uint32_t>(n));
  int chosen = 0;
  for (int64_t r = threadIdx.x; r < n; r += blockDim.x) {
    if (begins_run(ranked, r)) chosen += static_cast<int>(choose_in_run(rule, ranked, r, n, best, value));
  }
  chosen = block_sum(chosen);
  block_sort<ranks_before>(ranked, static_cast<uint32_t>(n));
  return chosen;
}

// Sorts the eligible rows of sequence b into `ranked`, which has room for the next power of two of its rows, and asks
// the rule. judge(row, place) -> Verdict; value(row) and entropy(row) of eligible rows. Where only the accepted ones
// are wanted, and the rule is but a number, they alone are there, in any order.
template <class Judge, class Value, class Entropy>
__device__ Standing rank_sequence(const Geometry& g, const RuleParams& rule, int64_t b, bool only_accepted,
                                  Ranked* ranked, Judge judge, Value value, Entropy entropy) {
  enum { kNumOpen, kNumFilled, kNumEligible, kNumBad, kNumCounts };
  DLM_SHARED(int, count, [kNumCounts]);
  if (threadIdx.x < kNumCounts) count[threadIdx.x] = 0;
  __syncthreads();
  const RowRange range = rows_of(g, b);
#pragma unroll 1
  for (int64_t row = range.begin + threadIdx.x; row < range.end; row += blockDim.x) {
    const Place at = place_of(g, row);
    if (at.b != b) continue;
    const Verdict v = judge(row, at);
    if (v.state != kClosed) atomicAdd(&count[v.open ? kNumOpen : kNumFilled], 1);
    if (v.state == kBad) atomicAdd(&count[kNumBad], 1);
    if (v.state == kEligible) ranked[atomicAdd(&count[kNumEligible], 1)] = {v.key, at.p, row};
  }
  __syncthreads();
  const int64_t n = count[kNumEligible];
  if (only_accepted && rule.rule == kTopK) {
    block_select(ranked, static_cast<uint32_t>(n), static_cast<uint32_t>(first_of(rule, n)));
    return {count[kNumOpen], count[kNumFilled], n, count[kNumBad], first_of(rule, n)};
  }
  block_sort<ranks_before>(ranked, static_cast<uint32_t>(n));
  const int64_t accepted = sees_neighbours(rule.rule) ? accept_among_neighbours(rule, ranked, n, value)
                                                      : accept_ranked(rule, ranked, n, value, entropy);
  return {count[kNumOpen], count[kNumFilled], n, count[kNumBad], accepted};
}

// Writes the accepted ones. write(row, place): whether the position is open then.
template <class Write>
__device__ void commit_ranked(const DecideParams& d, int64_t b, const Ranked* ranked, const Standing& rows,
                              const UnmaskOutputs& out, Write write) {
  int opened = 0;
  for (int64_t r = threadIdx.x; r < rows.accepted; r += blockDim.x) {
    const Place at = {b, ranked[r].position};
    const int64_t row = ranked[r].row;
    out.committed[row] = true;
    opened -= is_open(d, at);
    opened += write(row, at);
  }
  opened = block_sum(opened);
  if (threadIdx.x == 0) {
    out.num_committed[b] = rows.accepted;
    out.num_open[b] = d.has_mask ? rows.open + opened : 0;
    out.num_bad[b] = rows.bad;
  }
}

}  // namespace dlm::cuda
