// Every collective, barrier form and atomic, with operands from the test: see tests/test_simt.py.
#include "run.h"

namespace {

bool is_in(unsigned lanes) { return lanes >> (threadIdx.x % 32) & 1; }

template <class T>
T shuffle(int kind, unsigned mask, T value, int argument, int width) {
  switch (kind) {
    case 0: return __shfl_sync(mask, value, argument, width);
    case 1: return __shfl_up_sync(mask, value, static_cast<unsigned>(argument), width);
    case 2: return __shfl_down_sync(mask, value, static_cast<unsigned>(argument), width);
    default: return __shfl_xor_sync(mask, value, argument, width);
  }
}

// Lanes outside `mask` end at once, or take part in a collective of their own.
template <class T>
const char* shuffles(int kind, unsigned mask, bool others_end, const void* values, const int* arguments, int width,
                     void* out) {
  return run("shuffles", 1, 32, 0, [=] {
    if (!is_in(mask)) {
      if (!others_end) __syncwarp(~mask);
      return;
    }
    const unsigned lane = threadIdx.x;
    static_cast<T*>(out)[lane] = shuffle(kind, mask, static_cast<const T*>(values)[lane], arguments[lane], width);
  });
}

unsigned vote(int kind, unsigned mask, int value) {
  const unsigned word = static_cast<unsigned>(value);
  switch (kind) {
    case 0: return __ballot_sync(mask, value);
    case 1: return static_cast<unsigned>(__any_sync(mask, value));
    case 2: return static_cast<unsigned>(__all_sync(mask, value));
    case 3: return __match_any_sync(mask, value);
    case 4: return __match_any_sync(mask, static_cast<unsigned long long>(word) << 32);
    case 5: return static_cast<unsigned>(__reduce_add_sync(mask, value));
    case 6: return static_cast<unsigned>(__reduce_min_sync(mask, value));
    case 7: return static_cast<unsigned>(__reduce_max_sync(mask, value));
    case 8: return __reduce_add_sync(mask, word);
    case 9: return __reduce_min_sync(mask, word);
    case 10: return __reduce_max_sync(mask, word);
    case 11: return __reduce_and_sync(mask, word);
    case 12: return __reduce_or_sync(mask, word);
    default: return __reduce_xor_sync(mask, word);
  }
}

}  // namespace

EXPORT shuffle_lanes(int type, int kind, unsigned mask, bool others_end, const void* values, const int* arguments,
                     int width, void* out) {
  switch (type) {
    case 0: return shuffles<int>(kind, mask, others_end, values, arguments, width, out);
    case 1: return shuffles<unsigned>(kind, mask, others_end, values, arguments, width, out);
    case 2: return shuffles<long long>(kind, mask, others_end, values, arguments, width, out);
    case 3: return shuffles<unsigned long long>(kind, mask, others_end, values, arguments, width, out);
    case 4: return shuffles<float>(kind, mask, others_end, values, arguments, width, out);
    default: return shuffles<double>(kind, mask, others_end, values, arguments, width, out);
  }
}

// Two halves of a warp, each in its own sequence of collectives and at its own pace.
EXPORT vote_in_halves(int kind, unsigned mask, const int* values, unsigned* out) {
  return run("vote_in_halves", 1, 32, 0, [=] {
    const unsigned lane = threadIdx.x, mine = is_in(mask) ? mask : ~mask;
    if (is_in(mask)) __syncwarp(mask);
    out[lane] = vote(kind, mine, values[lane]);
  });
}

// A collective of all lanes, of which some end while the others wait in it.
EXPORT ballot_of_the_rest(unsigned mask, unsigned* out) {
  return run("ballot_of_the_rest", 1, 32, 0, [=] {
    if (is_in(mask)) {
      out[threadIdx.x] = __ballot_sync(0xffffffff, 1);
    } else {
      __syncwarp(~mask);
    }
  });
}

// out: [threads] each of count, and, or.
EXPORT barrier_votes(int threads, const int* predicates, int* out) {
  return run("barrier_votes", 1, threads, 0, [=] {
    const unsigned t = threadIdx.x, n = blockDim.x;
    out[t] = __syncthreads_count(predicates[t]);
    out[n + t] = __syncthreads_and(predicates[t]);
    out[2 * n + t] = __syncthreads_or(predicates[t]);
  });
}

// One thread applies the operation to *memory, once for every operand; old: what each call returned.
template <class T, class Operation>
const char* one_by_one(T* memory, const T* operands, int n, T* old, Operation operation) {
  return run("one_by_one", 1, 1, 0, [=] {
    for (int i = 0; i < n; ++i) old[i] = operation(memory, operands[i]);
  });
}

#define ATOMIC(name, T)                                                                                \
  EXPORT name##_##T(value_##T* memory, const value_##T* operands, int n, value_##T* old) {             \
    return one_by_one(memory, operands, n, old, [](value_##T* m, value_##T v) { return name(m, v); }); \
  }
using value_int = int;
using value_uint = unsigned;
using value_long = long long;
using value_ulong = unsigned long long;
using value_float = float;
using value_double = double;
ATOMIC(atomicAdd, int)
ATOMIC(atomicAdd, uint)
ATOMIC(atomicAdd, ulong)
ATOMIC(atomicAdd, float)
ATOMIC(atomicAdd, double)
ATOMIC(atomicInc, uint)
ATOMIC(atomicDec, uint)
ATOMIC(atomicMin, int)
ATOMIC(atomicMin, uint)
ATOMIC(atomicMin, long)
ATOMIC(atomicMin, ulong)
ATOMIC(atomicMax, int)
ATOMIC(atomicMax, uint)
ATOMIC(atomicMax, long)
ATOMIC(atomicMax, ulong)
ATOMIC(atomicExch, int)
ATOMIC(atomicExch, uint)
ATOMIC(atomicExch, ulong)
ATOMIC(atomicExch, float)
ATOMIC(atomicAnd, int)
ATOMIC(atomicAnd, uint)
ATOMIC(atomicAnd, ulong)
ATOMIC(atomicOr, int)
ATOMIC(atomicOr, uint)
ATOMIC(atomicOr, ulong)

// Operands in pairs: compare, value.
EXPORT atomicCAS_uint(unsigned* memory, const unsigned* operands, int n, unsigned* old) {
  return run("atomicCAS", 1, 1, 0, [=] {
    for (int i = 0; i < n / 2; ++i) old[i] = atomicCAS(memory, operands[2 * i], operands[2 * i + 1]);
  });
}
EXPORT atomicCAS_ulong(unsigned long long* memory, const unsigned long long* operands, int n, unsigned long long* old) {
  return run("atomicCAS", 1, 1, 0, [=] {
    for (int i = 0; i < n / 2; ++i) old[i] = atomicCAS(memory, operands[2 * i], operands[2 * i + 1]);
  });
}
