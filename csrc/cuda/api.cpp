// The C ABI over the CUDA backend: check, enqueue; errors leave as a status and a text.
#include "../api.h"

#include "../core/validate.h"
#include "backend.h"
#include "counters.h"

namespace {

template <class Args, class Op>
int32_t call(const Args* args, void* scratch, void* stream, dlm_error* error, Op op) {
  return dlm::guarded(error, [&] {
    const dlm::Resolved resolved = dlm::validate(*args);
    op(*args, resolved, scratch, stream);
  });
}

}  // namespace

DLM_API int64_t dlm_cuda_scratch_bytes(int64_t rows, int64_t vocab) { return dlm::cuda::scratch_bytes(rows, vocab); }

DLM_API int32_t dlm_cuda_driver_version(void) { return dlm::cuda::driver_version(); }

DLM_API int32_t dlm_cuda_driver_suffices(void) {
  return dlm::cuda::driver_suffices(dlm::cuda::driver_version()) ? 1 : 0;
}

DLM_API int32_t dlm_cuda_counters_at_rest(void) { return dlm::cuda::counters_at_rest() ? 1 : 0; }

DLM_API int32_t dlm_cuda_row_stats(const dlm::RowStatsArgs* args, void* scratch, void* stream, dlm_error* error) {
  return call(args, scratch, stream, error, dlm::cuda::row_stats);
}

DLM_API int32_t dlm_cuda_row_kl(const dlm::DivergenceArgs* args, void* scratch, void* stream, dlm_error* error) {
  return call(args, scratch, stream, error, [](auto& a, auto& r, void*, void* on) { dlm::cuda::row_kl(a, r, on); });
}

DLM_API int32_t dlm_cuda_draw_tokens(const dlm::DrawArgs* args, void* scratch, void* stream, dlm_error* error) {
  return call(args, scratch, stream, error, dlm::cuda::draw_tokens);
}

DLM_API int32_t dlm_cuda_denoise_step(const dlm::StepArgs* args, void* scratch, void* stream, dlm_error* error) {
  return call(args, scratch, stream, error, dlm::cuda::denoise_step);
}

DLM_API int32_t dlm_cuda_topk_unmask(const dlm::UnmaskArgs* args, void* scratch, void* stream, dlm_error* error) {
  return call(args, scratch, stream, error, dlm::cuda::topk_unmask);
}

DLM_API int32_t dlm_cuda_renoise_step(const dlm::RenoiseArgs* args, void* scratch, void* stream, dlm_error* error) {
  return call(args, scratch, stream, error, dlm::cuda::renoise_step);
}

DLM_API int32_t dlm_cuda_transition_step(const dlm::TransitionArgs* args, void* scratch, void* stream,
                                         dlm_error* error) {
  return call(args, scratch, stream, error, dlm::cuda::transition_step);
}

DLM_API int32_t dlm_cuda_q_sample(const dlm::NoisingArgs* args, void* scratch, void* stream, dlm_error* error) {
  return call(args, scratch, stream, error, [](auto& a, auto& r, void*, void* on) { dlm::cuda::q_sample(a, r, on); });
}
