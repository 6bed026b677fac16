// The inner loops for any CPU, at the compiler's baseline.
#include "vec_portable.h"

#include "kernels_impl.h"

namespace dlm::cpu {

const KernelTable& portable_kernels() {
  static const KernelTable table = kernel_table("portable");
  return table;
}

}  // namespace dlm::cpu
