// CPU tensors.
#include "call.h"

namespace dlm::torch_ops {
namespace {

// torch's intra-op pool runs the workers: set_num_threads holds, and no second pool fights its spinning threads.
struct Pool : dlm_executor {
  Pool() {
    threads = static_cast<int32_t>(torch::stable::get_num_threads());
    self = nullptr;
    run = [](void*, int32_t workers, void (*work)(void*, int32_t), void* context) {
      torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) work(context, static_cast<int32_t>(i));
      });
    };
  }
};

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
