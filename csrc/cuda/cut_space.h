// Where a block that cuts a row keeps what it knows: cut_row.h writes, those that read the row afterwards ask.
#pragma once

#include "../core/cutoff.h"
#include "block.h"
#include "intrinsics.h"

namespace dlm::cuda {

constexpr int kBinBits = 9;
constexpr int kBins = 1 << kBinBits;

// What a token adds to the sum: 1, or its mass relative to the row's maximum in units of 2^-kMassBits. A token of less
// crosses nothing.
constexpr int kMassBits = 40;
constexpr double kMassUnits = static_cast<double>(uint64_t{1} << kMassBits);

struct Weights {
  float max, scale;
  bool by_mass;

  __device__ uint64_t of(float z) const {
    return by_mass ? static_cast<uint64_t>(exp2_approx((z - max) * scale) * static_cast<float>(kMassUnits)) : 1;
  }
};

// The launch's dynamic shared memory. What is kept from call to call is here and not in registers: those that read rows
// need them all.
struct CutSpace {
  struct Bin {
    uint32_t low, high;  // of a sum of 64 bits: shared memory adds words
  };
  union {  // one after the other
    Bin bin[kBins];
    struct {
      uint64_t weight[kThreads];
      float max[kThreads];
    } parts;
    struct {
      uint64_t weight[kThreads];
      int64_t index[kThreads];
      float z[kThreads];
      int count;
    } few;
  };
  double target;            // of the search, >= 0
  uint64_t before, inside;  // of the stretch that crosses it, and in it
  Weights weights;
  float z;  // the cutoff, as far as it is known
  int64_t index;
  bool stale;  // the partials are not of it
  bool other;  // it is the row's other logits that are cut

  __device__ Cutoff cutoff() const { return {z, index}; }
  __device__ void cut(const Cutoff& by) {
    const Cutoff both = shorter(cutoff(), by);
    stale = stale || both.z != z || both.index != index;
    z = both.z;
    index = both.index;
  }
};

// An index of the row as one of the chunk at `begin`; -1 is before it, `size` behind it.
__device__ inline int offset_in(int64_t begin, int64_t size, int64_t index) {
  return static_cast<int>(min_of(max_of<int64_t>(index - begin, -1), size));
}

// Of the row at hand, where the launch has filters.
__device__ inline Cutoff cutoff_of(bool filtered) {
  DLM_DYNAMIC_SHARED(CutSpace, space);
  return filtered ? space->cutoff() : Cutoff{};
}

// `cutoff` from here on; returns what it was.
__device__ inline Cutoff swap_cutoff(const Cutoff& cutoff) {
  DLM_DYNAMIC_SHARED(CutSpace, space);
  const Cutoff before = space->cutoff();
  __syncthreads();
  if (threadIdx.x == 0) space->z = cutoff.z, space->index = cutoff.index;
  __syncthreads();
  return before;
}

}  // namespace dlm::cuda
