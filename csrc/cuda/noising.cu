// Forward noising: a thread per position.
#include "block.h"
#include "launch.h"

namespace dlm::cuda {

constexpr int kNoisingThreads = 256;

__global__ void __launch_bounds__(kNoisingThreads)
    noising_kernel(const __grid_constant__ NoisingArgs a, const __grid_constant__ Resolved r) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kNoisingThreads + threadIdx.x, length = a.x.shape[1];
  if (i >= a.x.shape[0] * length) return;
  const int64_t b = quotient(i, length);
  noise_position(a, r, Place{b, i - b * length});
}

void launch_noising(const NoisingArgs& args, const Resolved& resolved, void* stream) {
  const int64_t blocks = (numel(args.x) + kNoisingThreads - 1) / kNoisingThreads;
  launch("noising", noising_kernel, blocks, kNoisingThreads, 0, stream, args, resolved);
}

}  // namespace dlm::cuda
