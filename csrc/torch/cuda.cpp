// CUDA tensors: the caller's stream, a device guard, and scratch from torch's allocator.
#include <torch/csrc/stable/accelerator.h>

#include <cstdlib>
#include <cstring>

#include "call.h"

// In libtorch_cuda. Weak, so that the same binary loads beside a torch without CUDA.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream) __attribute__((weak));

namespace dlm::torch_ops {
namespace {

class Cuda {
 public:
  static int32_t ordinal(const Tensor& t) { return t.is_cuda() ? t.get_device_index() : -1; }

  Cuda(const Tensor& anchor, const Need& need)
      : guard_(guarded_index(anchor)),
        // A plain temporary: torch's allocator gives its memory away no earlier than this stream has used it.
        scratch_(make_like<uint8_t>(anchor, {dlm_cuda_scratch_bytes(need.rows, need.vocab)})) {
    if (!anchor.is_cuda()) return;  // another argument is: validation says which
    if (aoti_torch_get_current_cuda_stream == nullptr) {
      fail("RuntimeError", "this torch has CUDA tensors but no CUDA streams");
    }
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(anchor.get_device_index(), &stream_));
  }

  template <class Args>
  int32_t call(const Args& a, dlm_error* error) {
    return call_cuda(a, scratch_.mutable_data_ptr(), stream_, error);
  }

 private:
  static int32_t guarded_index(const Tensor& anchor) {
    return anchor.is_cuda() ? anchor.get_device_index() : torch::stable::accelerator::getCurrentDeviceIndex();
  }

  const torch::stable::accelerator::DeviceGuard guard_;
  Tensor scratch_;
  void* stream_ = nullptr;
};

// Left to the reference where the driver is too old: torch itself may be of a CUDA that it does run.
bool wanted() {
  const char* const backend = std::getenv("DLM_KERNELS_BACKEND");
  return (backend == nullptr || strcmp(backend, "cpu") != 0) && dlm_cuda_driver_suffices() != 0;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dlm_kernels, CUDA, m) {
  if (wanted()) implement<Cuda>(m);
}

}  // namespace dlm::torch_ops
