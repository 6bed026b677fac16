// CPU tensors.
#include "ops.h"

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
      : scratch_(make_like(anchor,
                           {(dlm_cpu_workspace_bytes(need.rows, need.batch, need.num_suppress,
                                                     need.filtered ? need.vocab : 0, pool_.threads) +
                             7) /
                            8},
                           ScalarType::Long)) {}

  int32_t call(const RowStatsArgs& a, dlm_error* e) { return dlm_cpu_row_stats(&a, &pool_, workspace(), e); }
  int32_t call(const DivergenceArgs& a, dlm_error* e) { return dlm_cpu_row_kl(&a, &pool_, workspace(), e); }
  int32_t call(const DrawArgs& a, dlm_error* e) { return dlm_cpu_draw_tokens(&a, &pool_, workspace(), e); }
  int32_t call(const StepArgs& a, dlm_error* e) { return dlm_cpu_denoise_step(&a, &pool_, workspace(), e); }
  int32_t call(const UnmaskArgs& a, dlm_error* e) { return dlm_cpu_topk_unmask(&a, &pool_, workspace(), e); }
  int32_t call(const RenoiseArgs& a, dlm_error* e) { return dlm_cpu_renoise_step(&a, &pool_, workspace(), e); }
  int32_t call(const TransitionArgs& a, dlm_error* e) { return dlm_cpu_transition_step(&a, &pool_, workspace(), e); }
  int32_t call(const NoisingArgs& a, dlm_error* e) { return dlm_cpu_q_sample(&a, &pool_, workspace(), e); }

 private:
  void* workspace() { return scratch_.mutable_data_ptr(); }

  const Pool pool_;
  Tensor scratch_;
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dlm_kernels, CPU, m) { implement<Cpu>(m); }

}  // namespace dlm::torch_ops
