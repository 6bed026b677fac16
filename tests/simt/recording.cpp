// A dlm_cuda_denoise_step that notes what it is called with before the real one runs, which it is linked to.
#include <dlfcn.h>

#include "../../csrc/api.h"

namespace {
dlm::StepArgs last;
void *last_scratch, *last_stream;
}  // namespace

DLM_API int32_t dlm_cuda_denoise_step(const dlm::StepArgs* args, void* scratch, void* stream, dlm_error* error) {
  last = *args;
  last_scratch = scratch;
  last_stream = stream;
  const auto real = reinterpret_cast<decltype(&dlm_cuda_denoise_step)>(dlsym(RTLD_NEXT, "dlm_cuda_denoise_step"));
  return real(args, scratch, stream, error);
}

DLM_API void* dlm_recorded_stream() { return last_stream; }
DLM_API void* dlm_recorded_scratch() { return last_scratch; }
DLM_API const dlm::Array* dlm_recorded_logits() { return &last.sweep.logits; }
DLM_API const dlm::Array* dlm_recorded_x() { return &last.decide.x; }
