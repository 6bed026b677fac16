// The C ABI over the CUDA backend: check, enqueue; errors leave as a status and a text.
#include "../api.h"

#include "../core/validate.h"
#include "backend.h"

namespace {

template <class Args, class Op>
int32_t call(const Args* args, const dlm_cuda_workspace* workspace, void* stream, dlm_error* error, Op op) {
  return dlm::guarded(error, [&] {
    const dlm::Resolved resolved = dlm::validate(*args);
    dlm::cuda::Workspace w;
    w.counters = workspace->counters;
    w.scratch = workspace->scratch;
    op(*args, resolved, w, stream);
  });
}

}  // namespace

DLM_API int64_t dlm_cuda_num_counters(int64_t rows, int64_t batch) { return dlm::cuda::num_counters(rows, batch); }
DLM_API int64_t dlm_cuda_scratch_bytes(int64_t rows) { return dlm::cuda::scratch_bytes(rows); }

DLM_API uint64_t dlm_cuda_capture_id(void* stream) { return dlm::cuda::capture_id(stream); }

DLM_API int32_t dlm_cuda_row_stats(const dlm::RowStatsArgs* args, const dlm_cuda_workspace* workspace, void* stream,
                                   dlm_error* error) {
  return call(args, workspace, stream, error, dlm::cuda::row_stats);
}

DLM_API int32_t dlm_cuda_draw_tokens(const dlm::DrawArgs* args, const dlm_cuda_workspace* workspace, void* stream,
                                     dlm_error* error) {
  return call(args, workspace, stream, error, dlm::cuda::draw_tokens);
}

DLM_API int32_t dlm_cuda_denoise_step(const dlm::StepArgs* args, const dlm_cuda_workspace* workspace, void* stream,
                                      dlm_error* error) {
  return call(args, workspace, stream, error, dlm::cuda::denoise_step);
}

DLM_API int32_t dlm_cuda_topk_unmask(const dlm::UnmaskArgs* args, const dlm_cuda_workspace* workspace, void* stream,
                                     dlm_error* error) {
  return call(args, workspace, stream, error, dlm::cuda::topk_unmask);
}
