// The AVX-512 loops over plain C++ (tests/emulation/avx512.h), so that they run on CPUs without AVX-512. Test builds
// only.
#define DLM_AVX512_HEADER "../../tests/emulation/avx512.h"
#include "vec_avx512.h"

#include "kernels_impl.h"

namespace dlm::cpu {

const KernelTable& avx512_emulated_kernels() {
  static const KernelTable table = kernel_table("avx512-emulated");
  return table;
}

}  // namespace dlm::cpu
