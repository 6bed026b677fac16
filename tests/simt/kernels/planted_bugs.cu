// Small kernels in the manner of csrc/cuda, each with bugs that a run-time number plants: what the builds of the SIMT
// runtime must catch, and without a bug must pass. test_simt_planted_bugs.py reads the list below.
#include <simt/simt.h>

#include <type_traits>

namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr unsigned kAllLanes = 0xffffffffu;

#define PLANTED_BUGS(BUG)                    \
  BUG(row_sums, missing_release_fence)       \
  BUG(row_sums, missing_acquire_fence)       \
  BUG(row_sums, fence_before_store)          \
  BUG(row_sums, fence_of_block_only)         \
  BUG(row_sums, partials_without_counter)    \
  BUG(row_sums, counter_not_reset)           \
  BUG(row_sums, missing_barrier_raw)         \
  BUG(row_sums, missing_barrier_flag)        \
  BUG(row_sums, missing_barrier_war)         \
  BUG(row_sums, flag_reset_early)            \
  BUG(row_sums, misaligned_vector_load)      \
  BUG(row_sums, global_read_past_end)        \
  BUG(row_sums, global_write_past_end)       \
  BUG(row_sums, bad_mask)                    \
  BUG(row_sums, differing_masks)             \
  BUG(row_sums, exit_before_shuffle)         \
  BUG(row_sums, exit_before_barrier)         \
  BUG(row_sums, divergent_barrier)           \
  BUG(block_scan, missing_barrier_raw)       \
  BUG(block_scan, missing_barrier_war)       \
  BUG(block_scan, missing_barrier_last_pass) \
  BUG(block_scan, dynamic_shared_past_end)   \
  BUG(warp_reverse, missing_syncwarp_raw)    \
  BUG(warp_reverse, missing_syncwarp_war)    \
  BUG(warp_reverse, shuffle_as_fence)        \
  BUG(warp_reverse, shared_race_of_warps)    \
  BUG(warp_relay, missing_block_fence)       \
  BUG(warp_relay, missing_syncwarp)          \
  BUG(warp_relay, half_warp_reads_other)     \
  BUG(swap_pairs, missing_wait)              \
  BUG(swap_pairs, waits_for_too_few)         \
  BUG(swap_pairs, missing_syncwarp_filled)   \
  BUG(swap_pairs, missing_syncwarp_emptied)  \
  BUG(swap_pairs, misaligned_copy)           \
  BUG(swap_pairs, ends_before_its_copies)    \
  BUG(histogram, uninitialised_bins)         \
  BUG(histogram, missing_barrier_zeroed)     \
  BUG(histogram, missing_barrier_counted)    \
  BUG(histogram, non_atomic_shared)          \
  BUG(histogram, non_atomic_global)          \
  BUG(histogram, shared_past_end_near)       \
  BUG(histogram, shared_past_end_far)        \
  BUG(bitonic_sort, missing_barrier_narrow)  \
  BUG(bitonic_sort, missing_syncwarp)        \
  BUG(bitonic_sort, missing_barrier_last)    \
  BUG(compact, shift_by_32)                  \
  BUG(compact, uninitialised_count)          \
  BUG(compact, shuffle_from_outside_mask)    \
  BUG(chained_scan, missing_release_fence)   \
  BUG(chained_scan, missing_acquire_fence)   \
  BUG(chained_scan, missing_barrier)         \
  BUG(chained_scan, flag_without_atomic)     \
  BUG(chained_scan, waits_for_successor)     \
  BUG(moves, missing_barrier_choice)         \
  BUG(moves, choice_by_every_thread)         \
  BUG(moves, missing_barrier_parts)          \
  BUG(moves, non_atomic_total)               \
  BUG(moves, part_cleared_early)             \
  BUG(wide_sums, missing_carry)              \
  BUG(wide_sums, carry_from_a_load)          \
  BUG(wide_sums, missing_barrier_summed)     \
  BUG(wide_sums, missing_barrier_reused)

enum Bug {
  kCorrect,
#define BUG(kernel, name) kernel##_##name,
  PLANTED_BUGS(BUG)
#undef BUG
};

__device__ long long warp_sum(int bug, long long sum) {
  unsigned mask = bug == row_sums_bad_mask ? 0x0000ffffu : kAllLanes;
  if (bug == row_sums_differing_masks && threadIdx.x % 32 >= 16) mask = ~1u;
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(mask, sum, lanes);
  return sum;
}

// For thread 0. The caller puts a barrier between two calls, which share `part`.
__device__ long long block_sum(int bug, long long sum, long long* part) {
  const int thread = threadIdx.x;
  sum = warp_sum(bug, sum);
  if (thread % 32 == 0) part[thread / 32] = sum;
  if (bug == row_sums_divergent_barrier && thread >= 64) {
    __syncthreads();
  } else if (bug != row_sums_missing_barrier_raw) {
    __syncthreads();
  }
  if (thread > 0) return 0;
  long long total = 0;
  for (int warp = 0; warp < kWarps; ++warp) total += part[warp];
  return total;
}

// Sums of rows, each split over gridDim.x blocks, of which the last to arrive joins the partials.
__global__ void row_sums(int bug, const int* values, int width, long long* partials, unsigned* arrived,
                         long long* sums) {
  DLM_SHARED(long long, part, [kWarps]);
  DLM_SHARED(int, last);
  const int thread = threadIdx.x, split = blockIdx.x, splits = gridDim.x, row = blockIdx.y;
  const int size = (width + splits - 1) / splits;
  const int begin = min(split * size, width), end = min(begin + size, width);
  const int* const v = values + static_cast<int64_t>(row) * width;
  if (bug == row_sums_exit_before_shuffle && begin + thread >= end) return;
  if (bug == row_sums_exit_before_barrier && begin + thread / 32 * 32 >= end) return;

  const int unaligned = static_cast<int>(-(reinterpret_cast<uintptr_t>(v + begin) / 4) & 3);
  const int head = bug == row_sums_misaligned_vector_load ? begin : min(begin + unaligned, end);
  const int vectors = (end - head) / 4;
  const int stop = bug == row_sums_global_read_past_end ? end + 1 : end;
  long long sum = 0;
  for (int i = begin + thread; i < head; i += kThreads) sum += v[i];
  for (int i = thread; i < vectors; i += kThreads) {
    const int4 four = reinterpret_cast<const int4*>(v + head)[i];
    sum += static_cast<long long>(four.x) + four.y + four.z + four.w;
  }
  for (int i = head + 4 * vectors + thread; i < stop; i += kThreads) sum += v[i];

  sum = block_sum(bug, sum, part);
  if (thread == 0) {
    if (bug == row_sums_fence_before_store) __threadfence();
    partials[row * splits + split] = sum;
    if (bug == row_sums_fence_of_block_only) {
      __threadfence_block();
    } else if (bug != row_sums_missing_release_fence && bug != row_sums_fence_before_store) {
      __threadfence();
    }
    const unsigned before = bug == row_sums_counter_not_reset ? atomicAdd(&arrived[row], 1u)
                            : bug == row_sums_partials_without_counter
                                ? static_cast<unsigned>(split)
                                : atomicInc(&arrived[row], static_cast<unsigned>(splits - 1));
    if (bug != row_sums_missing_acquire_fence) __threadfence();
    last = before == static_cast<unsigned>(splits - 1);
  }
  if (bug != row_sums_missing_barrier_flag) __syncthreads();
  if (!last) return;
  if (bug == row_sums_flag_reset_early && thread == kThreads - 1) last = 0;  // for a next row
  sum = 0;
  for (int i = thread; i < splits; i += kThreads) sum += partials[row * splits + i];
  sum = block_sum(bug, sum, part);
  if (bug == row_sums_missing_barrier_war && thread % 32 == 0) part[thread / 32] = 0;  // for a next row
  if (thread == 0) sums[row] = sum;
  if (bug == row_sums_global_write_past_end && thread == 0 && row == 0) sums[gridDim.y] = sum;
}

// Exclusive prefix sums of as many values as there are threads.
__global__ void block_scan(int bug, const int* values, int* sums) {
  DLM_DYNAMIC_SHARED(int, prefix);  // [blockDim.x]
  const int thread = threadIdx.x, count = blockDim.x;
  prefix[thread] = values[thread];
  if (bug != block_scan_missing_barrier_raw) __syncthreads();
  for (int step = 1; step < count; step *= 2) {
    const int add = thread >= step ? prefix[thread - step] : 0;
    if (bug != block_scan_missing_barrier_war) __syncthreads();
    prefix[thread] += add;
    if (bug != block_scan_missing_barrier_last_pass || 2 * step < count) __syncthreads();
  }
  if (bug == block_scan_dynamic_shared_past_end && thread == 0) prefix[count] = 0;
  sums[thread] = thread > 0 ? prefix[thread - 1] : 0;
}

// Reverses every 32 values.
__global__ void warp_reverse(int bug, const int* values, int count, int* reversed) {
  DLM_SHARED(int, tile, [kWarps][32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int* const mine = tile[bug == warp_reverse_shared_race_of_warps ? 0 : warp];
  for (int begin = (blockIdx.x * kWarps + warp) * 32; begin < count; begin += gridDim.x * kThreads) {
    const int lanes = min(32, count - begin);
    if (lane < lanes) mine[lane] = values[begin + lane];
    if (bug == warp_reverse_shuffle_as_fence) {
      __shfl_sync(kAllLanes, lane, 0);
    } else if (bug != warp_reverse_missing_syncwarp_raw) {
      __syncwarp();
    }
    if (lane < lanes) reversed[begin + lane] = mine[lanes - 1 - lane];
    if (bug != warp_reverse_missing_syncwarp_war) __syncwarp();
  }
}

struct Item {
  char tag;  // and padding
  double weight;
  short id;
};

// The first warp hands 32 items to the second one, without a barrier of the block; each half of that exchanges its own.
__global__ void warp_relay(int bug, const int* values, double* relayed) {
  DLM_SHARED(Item, items, [32]);
  DLM_SHARED(unsigned, ready);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) ready = 0;
  __syncthreads();
  if (warp == 0) {
    items[lane].tag = static_cast<char>(lane);
    items[lane].weight = values[blockIdx.x * 32 + lane];
    items[lane].id = static_cast<short>(lane + 1);
    if (bug != warp_relay_missing_syncwarp) __syncwarp();
    if (lane == 0) {
      if (bug != warp_relay_missing_block_fence) __threadfence_block();
      atomicExch(&ready, 1u);
    }
  } else if (warp == 1) {
    if (lane == 0) {
      while (atomicOr(&ready, 0u) == 0) {
      }
      __threadfence_block();
    }
    __syncwarp();
    Item item = items[lane];
    const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    __syncwarp(half);
    items[lane ^ 15].weight = item.weight + item.id;
    __syncwarp(half);
    relayed[blockIdx.x * 32 + lane] = items[bug == warp_relay_half_warp_reads_other ? lane ^ 31 : lane].weight;
  }
}

// Vectors 2 i and 2 i + 1 change places. A warp's next two turns are on their way while it works on one.
__global__ void swap_pairs(int bug, const int* values, int vectors, int* swapped) {
  DLM_SHARED(int4, stages, [kWarps][2][32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, stride = gridDim.x * kThreads;
  const auto fetch = [&](int stage, int at) {
    if (bug == swap_pairs_ends_before_its_copies) at %= vectors;
    const int* const from = values + at * 4 + (bug == swap_pairs_misaligned_copy ? 1 : 0);
    if (at < vectors) __pipeline_memcpy_async(&stages[warp][stage][lane], from, sizeof(int4));
    __pipeline_commit();
  };
  int at = blockIdx.x * kThreads + threadIdx.x, stage = 0;
  fetch(0, at);
  fetch(1, at + stride);
  for (; at - lane < vectors; at += stride, stage ^= 1) {
    if (bug != swap_pairs_missing_wait) __pipeline_wait_prior(bug == swap_pairs_waits_for_too_few ? 2 : 1);
    if (bug != swap_pairs_missing_syncwarp_filled) __syncwarp();
    if (at < vectors) reinterpret_cast<int4*>(swapped)[at] = stages[warp][stage][lane ^ 1];
    if (bug != swap_pairs_missing_syncwarp_emptied) __syncwarp();
    fetch(stage, at + 2 * stride);
  }
}

constexpr int kBins = 200;

// Adds to `counts`. Values are in [0, kBins).
__global__ void histogram(int bug, const unsigned char* values, int count, unsigned* counts) {
  DLM_SHARED(unsigned, bins, [kBins]);
  const int thread = threadIdx.x;
  const int stop = bug == histogram_shared_past_end_near ? kBins + 1 : kBins;
  if (bug != histogram_uninitialised_bins) {
    for (int bin = thread; bin < stop; bin += kThreads) bins[bin] = 0;
  }
  if (bug == histogram_shared_past_end_far && thread == 0) bins[kBins + 100 * blockDim.x] = 0;
  if (bug != histogram_missing_barrier_zeroed) __syncthreads();
  for (int i = blockIdx.x * kThreads + thread; i < count; i += gridDim.x * kThreads) {
    if (bug == histogram_non_atomic_shared) {
      ++bins[values[i]];
    } else {
      atomicAdd(&bins[values[i]], 1u);
    }
  }
  if (bug != histogram_missing_barrier_counted) __syncthreads();
  for (int bin = thread; bin < kBins; bin += kThreads) {
    if (bug == histogram_non_atomic_global) {
      counts[bin] += bins[bin];
    } else {
      atomicAdd(&counts[bin], bins[bin]);
    }
  }
}

constexpr int kWideBins = 64;

// Sums of 64 bits over bins of 2 words each, as the search for a cutoff has them; then the same memory for something
// else: who had how many values. One block.
__global__ void wide_sums(int bug, const unsigned long long* values, int count, unsigned long long* sums, int* shares) {
  DLM_SHARED(unsigned, words, [2 * kThreads]);
  const int thread = threadIdx.x;
  for (int i = thread; i < 2 * kWideBins; i += kThreads) words[i] = 0;
  __syncthreads();
  int mine = 0;
  for (int i = thread; i < count; i += kThreads, ++mine) {
    unsigned* const bin = words + 2 * (values[i] % kWideBins);
    const unsigned low = static_cast<unsigned>(values[i]);
    const unsigned loaded = bug == wide_sums_carry_from_a_load ? bin[0] : 0;
    unsigned before = atomicAdd(&bin[0], low);
    if (bug == wide_sums_carry_from_a_load) before = loaded;
    const unsigned carry = bug == wide_sums_missing_carry ? 0 : before + low < before;
    atomicAdd(&bin[1], static_cast<unsigned>(values[i] >> 32) + carry);
  }
  if (bug != wide_sums_missing_barrier_summed) __syncthreads();
  for (int i = thread; i < kWideBins; i += kThreads) {
    sums[i] = static_cast<unsigned long long>(words[2 * i + 1]) << 32 | words[2 * i];
  }
  if (bug != wide_sums_missing_barrier_reused) __syncthreads();
  words[kThreads - 1 - thread] = mine;
  __syncthreads();
  shares[thread] = words[kThreads - 1 - thread];
}

constexpr int kKeys = 2 * kThreads;

// Sorts every kKeys keys. Passes within 64 keys stay within a warp, and need no barrier of the block.
__global__ void bitonic_sort(int bug, int* keys) {
  DLM_SHARED(int, tile, [kKeys]);
  const int thread = threadIdx.x;
  int* const mine = keys + blockIdx.x * kKeys;
  for (int i = thread; i < kKeys; i += kThreads) tile[i] = mine[i];
  __syncthreads();
  bool wide_before = false;
  for (int run = 2; run <= kKeys; run *= 2) {
    for (int apart = run / 2; apart > 0; apart /= 2) {
      const bool wide = apart > 32;
      if (wide || (wide_before && bug != bitonic_sort_missing_barrier_narrow)) {
        __syncthreads();
      } else if (bug != bitonic_sort_missing_syncwarp) {
        __syncwarp();
      }
      wide_before = wide;
      const int low = 2 * thread - (thread & (apart - 1)), high = low + apart;
      const int a = tile[low], b = tile[high];
      if ((a > b) == ((low & run) == 0)) {
        tile[low] = b;
        tile[high] = a;
      }
    }
  }
  if (bug != bitonic_sort_missing_barrier_last) __syncthreads();
  for (int i = thread; i < kKeys; i += kThreads) mine[i] = tile[i];
}

// The indices of the nonzero flags, in order; one block.
__global__ void compact(int bug, const unsigned char* flags, int count, int* indices, int* found) {
  DLM_SHARED(int, chosen, [kWarps]);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  int before = 0;
  for (int begin = 0; begin < count; begin += kThreads) {
    const int i = begin + thread;
    const int lanes = max(0, min(32, count - (begin + 32 * warp)));
    const unsigned valid = lanes == 32 && bug != compact_shift_by_32 ? kAllLanes : (1u << lanes) - 1;
    const bool mine = i < count && flags[i] != 0;
    const unsigned ballot = __ballot_sync(kAllLanes, mine) & valid;
    if (lane == 0 && (bug != compact_uninitialised_count || ballot != 0)) chosen[warp] = __popc(ballot);
    __syncthreads();
    int at = before + __popc(ballot & ((1u << lane) - 1));
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) at += chosen[w];
      before += chosen[w];
    }
    if (mine) indices[at] = i;
    __syncthreads();
  }
  if (bug == compact_shuffle_from_outside_mask && thread == 0) return;
  const int first = __shfl_sync(bug == compact_shuffle_from_outside_mask ? kAllLanes - 1 : kAllLanes, before, 0);
  if (thread == 1) *found = first;
}

// Inclusive prefix sums over all blocks: each block waits for its predecessor's last one. Blocks number themselves as
// they start, so that a predecessor has always started. `state` is zero: [0] numbers blocks, [1 + block] says it is
// done.
__global__ void chained_scan(int bug, const int* values, unsigned* state, int* sums) {
  DLM_SHARED(int, number);
  DLM_SHARED(int, before);
  DLM_SHARED(int, part, [kThreads]);
  const int thread = threadIdx.x;
  if (thread == 0) number = static_cast<int>(atomicAdd(&state[0], 1u));
  __syncthreads();
  const int block = number;
  part[thread] = values[block * kThreads + thread];
  __syncthreads();
  int sum = 0;
  for (int i = 0; i <= thread; ++i) sum += part[i];
  if (thread == 0) {
    before = 0;
    const int awaited = bug == chained_scan_waits_for_successor ? block + 1 : block - 1;
    if (awaited >= 0 && awaited < static_cast<int>(gridDim.x)) {
      const volatile unsigned* const done = &state[1 + awaited];
      while (*done == 0) atomicOr(&state[1 + awaited], 0u);  // which lets others run
      if (bug != chained_scan_missing_acquire_fence) __threadfence();
      before = sums[(awaited + 1) * kThreads - 1];
    }
  }
  __syncthreads();
  sums[block * kThreads + thread] = before + sum;
  if (bug != chained_scan_missing_barrier) __syncthreads();
  if (thread > 0) return;
  if (bug != chained_scan_missing_release_fence) __threadfence();
  if (bug == chained_scan_flag_without_atomic) {
    state[1 + block] = 1;
  } else if (block % 2 == 0) {
    *static_cast<volatile unsigned*>(&state[1 + block]) = 1;
  } else {
    atomicExch(&state[1 + block], 1u);
  }
}

// A position per block: one thread looks at the canvas and says whether the position moves; then the whole block adds
// up the row without what the position holds, and the one thread writes the sum there. All positions count into
// `total`.
__global__ void moves(int bug, const int* values, int width, int* canvas, unsigned* total) {
  DLM_SHARED(int, from);
  DLM_SHARED(int, part, [kWarps]);
  const int thread = threadIdx.x, row = blockIdx.x;
  if (thread == 0) from = canvas[row];
  if (bug != moves_missing_barrier_choice) __syncthreads();
  const int held = bug == moves_choice_by_every_thread ? canvas[row] : from;
  if (held % 2 == 0) {
    if (thread == 0) canvas[row] = held + 1;
    return;
  }
  int sum = 0;
  for (int i = thread; i < width; i += kThreads) sum += i == held ? 0 : values[row * width + i];
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
  if (thread % 32 == 0) part[thread / 32] = sum;
  if (bug != moves_missing_barrier_parts) __syncthreads();
  if (bug == moves_part_cleared_early && thread == kThreads - 1) part[0] = 0;
  if (thread > 0) return;
  canvas[row] = part[0] + part[1] + part[2] + part[3];
  if (bug == moves_non_atomic_total) {
    *total += 1;
  } else {
    atomicAdd(total, 1u);
  }
}

template <class... Params>
const char* run(const char* name, void (*kernel)(Params...), dim3 grid, int threads, size_t dynamic_shared,
                std::common_type_t<Params>... args) {
  const auto body = [&] { kernel(args...); };
  return simt::launch(
      name, grid, dim3(threads), dynamic_shared,
      [](void* context) { (*static_cast<const decltype(body)*>(context))(); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default"))) const char*

EXPORT planted_row_sums(int bug, const int* values, int rows, int width, int splits, long long* partials,
                        unsigned* arrived, long long* sums) {
  return run("row_sums", row_sums, dim3(splits, rows), kThreads, 0, bug, values, width, partials, arrived, sums);
}

EXPORT planted_block_scan(int bug, const int* values, int count, int* sums) {
  return run("block_scan", block_scan, dim3(1), count, count * sizeof(int), bug, values, sums);
}

EXPORT planted_warp_reverse(int bug, const int* values, int count, int blocks, int* reversed) {
  return run("warp_reverse", warp_reverse, dim3(blocks), kThreads, 0, bug, values, count, reversed);
}

EXPORT planted_swap_pairs(int bug, const int* values, int vectors, int blocks, int* swapped) {
  return run("swap_pairs", swap_pairs, dim3(blocks), kThreads, 0, bug, values, vectors, swapped);
}

EXPORT planted_warp_relay(int bug, const int* values, int blocks, double* relayed) {
  return run("warp_relay", warp_relay, dim3(blocks), 64, 0, bug, values, relayed);
}

EXPORT planted_histogram(int bug, const unsigned char* values, int count, int blocks, unsigned* counts) {
  return run("histogram", histogram, dim3(blocks), kThreads, 0, bug, values, count, counts);
}

EXPORT planted_wide_sums(int bug, const unsigned long long* values, int count, unsigned long long* sums, int* shares) {
  return run("wide_sums", wide_sums, dim3(1), kThreads, 0, bug, values, count, sums, shares);
}

EXPORT planted_bitonic_sort(int bug, int* keys, int blocks) {
  return run("bitonic_sort", bitonic_sort, dim3(blocks), kThreads, 0, bug, keys);
}

EXPORT planted_compact(int bug, const unsigned char* flags, int count, int* indices, int* found) {
  return run("compact", compact, dim3(1), kThreads, 0, bug, flags, count, indices, found);
}

EXPORT planted_chained_scan(int bug, const int* values, int blocks, unsigned* state, int* sums) {
  return run("chained_scan", chained_scan, dim3(blocks), kThreads, 0, bug, values, state, sums);
}

EXPORT planted_moves(int bug, const int* values, int rows, int width, int* canvas, unsigned* total) {
  return run("moves", moves, dim3(rows), kThreads, 0, bug, values, width, canvas, total);
}
