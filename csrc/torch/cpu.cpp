// CPU tensors.
#include "call.h"
#include "pool.h"

namespace dlm::torch_ops {
namespace {

class Cpu {
 public:
  static int32_t ordinal(const Tensor& t) { return t.is_cpu() ? -1 : t.get_device_index(); }

  Cpu(const Tensor& anchor, const Need& need)
      // int64 elements: aligned for everything that is cut from it.
      : scratch_(make_like<int64_t>(anchor, {(dlm_cpu_workspace_bytes(need.rows, need.batch, need.num_suppress,
                                                                      need.filtered ? need.vocab : 0, pool_.threads) +
                                              7) /
                                             8})) {}

  template <class Args>
  int32_t call(const Args& a, dlm_error* error) {
    return call_cpu(a, &pool_, scratch_.mutable_data_ptr(), error);
  }

 private:
  const Pool pool_;
  Tensor scratch_;
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dlm_kernels, CPU, m) { implement<Cpu>(m); }

}  // namespace dlm::torch_ops
