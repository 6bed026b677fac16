// What host and device code share: the qualifier, and the few libm calls the row-level math needs.
#pragma once

#include <cmath>
#include <cstdint>

// DLM_HD_CALL: what runs a few times per row, or per position. A GPU fetches instructions slowly, and code that runs
// once is as slow as it is long, so there it is called and not copied. Takes what is not the kernel's argument by
// value: a reference to a local variable would move that to memory.
#if defined(__CUDACC__)
#define DLM_HD __host__ __device__ inline
#define DLM_HD_CALL __host__ __device__ __noinline__ inline
#else
#define DLM_HD inline
#define DLM_HD_CALL inline
#endif

namespace dlm {

constexpr float kInfinity = __builtin_huge_valf();
constexpr float kFloatMax = 3.40282346638528859812e+38f;

// Row-level math is done in double: it runs a few dozen times per row of 10^5 logits, so it costs nothing, and it
// keeps 1 - p exact for confident rows.
DLM_HD_CALL double exp_d(double v) { return ::exp(v); }
DLM_HD_CALL double log1p_d(double v) { return ::log1p(v); }
DLM_HD_CALL double log_d(double v) { return ::log(v); }

// A product that no compiler fuses with a sum: logits are the same on every backend.
DLM_HD float rounded_product(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

template <class T>
DLM_HD T min_of(T a, T b) {
  return b < a ? b : a;
}
template <class T>
DLM_HD T max_of(T a, T b) {
  return a < b ? b : a;
}

}  // namespace dlm
