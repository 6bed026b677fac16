// The inner loops for AVX2 + FMA + F16C; compiled with just those flags.
#include "vec_avx2.h"

#include "kernels_impl.h"

namespace dlm::cpu {

const KernelTable& avx2_kernels() {
  static const KernelTable table = kernel_table("avx2");
  return table;
}

}  // namespace dlm::cpu
