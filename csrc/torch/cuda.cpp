// CUDA tensors: the caller's stream, a device guard, and a workspace that calls on the same stream share.
#include <torch/csrc/stable/accelerator.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "ops.h"

// In libtorch_cuda. Weak, so that the same binary loads beside a torch without CUDA.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream) __attribute__((weak));

namespace dlm::torch_ops {
namespace {

// Calls on one stream follow each other, so they share counters and scratch. A captured graph may be replayed on any
// stream, so what is captured has counters of its own: zeroed ones kept ready, since a clear would become a node of the
// graph. Nothing here is ever freed: graphs have no owner to ask, and at exit the CUDA context goes first.
class Workspaces {
 public:
  dlm_cuda_workspace get(const Tensor& anchor, void* stream, const Need& need) {
    const int64_t counters = dlm_cuda_num_counters(need.rows, need.batch), bytes = dlm_cuda_scratch_bytes(need.rows);
    const int32_t device = anchor.get_device_index();
    const uint64_t capture = dlm_cuda_capture_id(stream);
    const std::lock_guard<std::mutex> lock(mutex_);
    std::optional<Tensor>& spare = spare_[device];
    if (capture == 0 && !spare.has_value()) spare = zeros(anchor, counters);

    Workspace& mine = workspaces_[{device, stream, capture != 0}];
    const bool another_graph = mine.capture != capture;
    mine.capture = capture;
    if (another_graph || !mine.counters.has_value() || mine.counters->numel() < counters) {
      if (capture != 0 && spare.has_value() && spare->numel() >= counters) {
        mine.counters = *spare;
        spare.reset();
      } else {
        mine.counters = zeros(anchor, 2 * counters);
      }
      if (capture != 0) captured_.push_back(*mine.counters);
    }
    // Scratch may be dropped: its memory is not given to anything that could run at the same time.
    if (another_graph || !mine.scratch.has_value() || mine.scratch->numel() < bytes) {
      mine.scratch = make_like(anchor, {bytes}, ScalarType::Byte);
    }
    return {static_cast<uint32_t*>(mine.counters->mutable_data_ptr()), mine.scratch->mutable_data_ptr()};
  }

 private:
  struct Workspace {
    std::optional<Tensor> counters, scratch;
    uint64_t capture = 0;
  };

  static Tensor zeros(const Tensor& anchor, int64_t n) {
    return torch::stable::new_zeros(anchor, {max_of<int64_t>(n, 4096)}, ScalarType::Int);
  }

  std::mutex mutex_;
  std::map<std::tuple<int32_t, void*, bool>, Workspace> workspaces_;  // by device, stream, whether it is captured
  std::map<int32_t, std::optional<Tensor>> spare_;                    // by device
  std::vector<Tensor> captured_;
};

class Cuda {
 public:
  static int32_t ordinal(const Tensor& t) { return t.is_cuda() ? t.get_device_index() : -1; }

  Cuda(const Tensor& anchor, const Need& need) : guard_(guarded_index(anchor)) {
    if (!anchor.is_cuda()) return;  // another argument is: validation says which
    const int32_t device = anchor.get_device_index();
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr,
                    "[dlm_kernels:RuntimeError] this torch has CUDA tensors but no CUDA streams[end]");
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream_));
    static auto* const workspaces = new Workspaces;
    workspace_ = workspaces->get(anchor, stream_, need);
  }

  int32_t call(const RowStatsArgs& a, dlm_error* e) { return dlm_cuda_row_stats(&a, &workspace_, stream_, e); }
  int32_t call(const DrawArgs& a, dlm_error* e) { return dlm_cuda_draw_tokens(&a, &workspace_, stream_, e); }
  int32_t call(const StepArgs& a, dlm_error* e) { return dlm_cuda_denoise_step(&a, &workspace_, stream_, e); }
  int32_t call(const UnmaskArgs& a, dlm_error* e) { return dlm_cuda_topk_unmask(&a, &workspace_, stream_, e); }

 private:
  static int32_t guarded_index(const Tensor& anchor) {
    return anchor.is_cuda() ? anchor.get_device_index() : torch::stable::accelerator::getCurrentDeviceIndex();
  }

  const torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
  dlm_cuda_workspace workspace_ = {nullptr, nullptr};
};

bool wanted() {
  const char* const backend = std::getenv("DLM_KERNELS_BACKEND");
  return backend == nullptr || strcmp(backend, "cpu") != 0;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dlm_kernels, CUDA, m) {
  if (wanted()) implement<Cuda>(m);
}

}  // namespace dlm::torch_ops
