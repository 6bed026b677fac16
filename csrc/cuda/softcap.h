// c tanh(z / c), which Gemma's models end with: one exponential and one reciprocal, to 2^-22 of c. The roundings are
// pinned: a logit that is read again must come out the same, or a row's maximum would not be found in it.
#pragma once

#include "intrinsics.h"

namespace dlm::cuda {

class SoftCap {
 public:
  __device__ explicit SoftCap(double cap)
      : cap_(static_cast<float>(cap)), rate_(cap > 0 ? static_cast<float>(-2 * kLog2e / cap) : 0) {}

  __device__ bool given() const { return cap_ > 0; }

  // tanh(y) = 1 - 2 q / (1 + q) with q = exp(-2 y), y >= 0. The infinities and NaN stay.
  __device__ float operator()(float z) const {
    const float size = fabsf(z), q = exp2_approx(__fmul_rn(size, rate_)), part = __fmul_rn(q, reciprocal_approx(1 + q));
    return size < kInfinity ? copysignf(__fmaf_rn(part, -2 * cap_, cap_), z) : z;
  }

 private:
  float cap_, rate_;
};

}  // namespace dlm::cuda
