// The inner loops for AVX-512F; compiled with just those flags.
#include "vec_avx512.h"

#include "kernels_impl.h"

namespace dlm::cpu {

const KernelTable& avx512_kernels() {
  static const KernelTable table = kernel_table("avx512");
  return table;
}

}  // namespace dlm::cpu
