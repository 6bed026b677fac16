// torch.ops.dlm_simt: the CUDA backend as the SIMT runtime executes it, on CPU tensors that are passed off as tensors
// of device 0. Which build of it runs is chosen at run time.
#include <dlfcn.h>

#include "../../csrc/torch/call.h"

namespace dlm::torch_ops {
namespace {

struct Library {
  template <class Function>
  void find(void* handle, const char* name, Function*& function) {
    function = reinterpret_cast<Function*>(dlsym(handle, name));
    if (function == nullptr) missing = name;
  }
  const char* missing = "no library";
  decltype(&dlm_cuda_counters_at_rest) counters_at_rest = nullptr;
  decltype(&dlm_cuda_scratch_bytes) scratch_bytes = nullptr;
  decltype(&dlm_cuda_row_stats) row_stats = nullptr;
  decltype(&dlm_cuda_row_kl) row_kl = nullptr;
  decltype(&dlm_cuda_draw_tokens) draw_tokens = nullptr;
  decltype(&dlm_cuda_denoise_step) denoise_step = nullptr;
  decltype(&dlm_cuda_topk_unmask) topk_unmask = nullptr;
  decltype(&dlm_cuda_renoise_step) renoise_step = nullptr;
  decltype(&dlm_cuda_transition_step) transition_step = nullptr;
  decltype(&dlm_cuda_q_sample) q_sample = nullptr;
};
Library library;

class Simt {
 public:
  static int32_t ordinal(const Tensor&) { return 0; }

  // Of the exact size, so that a step outside is a step into a redzone.
  Simt(const Tensor& anchor, const Need& need)
      : scratch_(
            torch::stable::fill_(make_like<uint8_t>(anchor, {library.scratch_bytes(need.rows, need.vocab)}), 0xFF)) {}

  int32_t call(const RowStatsArgs& a, dlm_error* e) { return checked(library.row_stats(&a, scratch(), nullptr, e)); }
  int32_t call(const DivergenceArgs& a, dlm_error* e) { return checked(library.row_kl(&a, scratch(), nullptr, e)); }
  int32_t call(const DrawArgs& a, dlm_error* e) { return checked(library.draw_tokens(&a, scratch(), nullptr, e)); }
  int32_t call(const StepArgs& a, dlm_error* e) { return checked(library.denoise_step(&a, scratch(), nullptr, e)); }
  int32_t call(const UnmaskArgs& a, dlm_error* e) { return checked(library.topk_unmask(&a, scratch(), nullptr, e)); }
  int32_t call(const RenoiseArgs& a, dlm_error* e) { return checked(library.renoise_step(&a, scratch(), nullptr, e)); }
  int32_t call(const TransitionArgs& a, dlm_error* e) {
    return checked(library.transition_step(&a, scratch(), nullptr, e));
  }
  int32_t call(const NoisingArgs& a, dlm_error* e) { return checked(library.q_sample(&a, scratch(), nullptr, e)); }

 private:
  void* scratch() { return scratch_.mutable_data_ptr(); }
  static int32_t checked(int32_t status) {
    STD_TORCH_CHECK(status != 0 || library.counters_at_rest() == 1, "an arrival counter is not 0 after the call");
    return status;
  }

  Tensor scratch_;
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dlm_simt, CPU, m) { implement<Simt>(m); }

}  // namespace dlm::torch_ops

// From now on ops run in this build of the SIMT library. Returns what it lacks, or null.
extern "C" __attribute__((visibility("default"))) const char* dlm_simt_use(const char* path) {
  auto& library = dlm::torch_ops::library;
  void* const handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return dlerror();
  library.missing = nullptr;
  library.find(handle, "dlm_cuda_counters_at_rest", library.counters_at_rest);
  library.find(handle, "dlm_cuda_scratch_bytes", library.scratch_bytes);
  library.find(handle, "dlm_cuda_row_stats", library.row_stats);
  library.find(handle, "dlm_cuda_row_kl", library.row_kl);
  library.find(handle, "dlm_cuda_draw_tokens", library.draw_tokens);
  library.find(handle, "dlm_cuda_denoise_step", library.denoise_step);
  library.find(handle, "dlm_cuda_topk_unmask", library.topk_unmask);
  library.find(handle, "dlm_cuda_renoise_step", library.renoise_step);
  library.find(handle, "dlm_cuda_transition_step", library.transition_step);
  library.find(handle, "dlm_cuda_q_sample", library.q_sample);
  return library.missing;
}
