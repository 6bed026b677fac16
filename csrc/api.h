// The plain C ABI of the kernel library: PODs of pointers and strides in, a status out. All that the layers above
// (torch, pybind11, C++ users) may include. No Python, no torch, no exceptions across it, no allocation behind it.
#pragma once

#include "core/dtype.h"
#include "core/params.h"

#if defined(__GNUC__)
#define DLM_API extern "C" __attribute__((visibility("default")))
#else
#define DLM_API extern "C"
#endif

// Filled when a call returns non-zero: 1 ValueError, 2 TypeError, 3 RuntimeError.
struct dlm_error {
  int32_t kind;
  char text[1020];
};

// Whose threads do the work: run() must call work(context, i) for every i in [0, workers) and return when all are done;
// how many of them run at once does not change any result. A null executor is one thread.
struct dlm_executor {
  int32_t threads;
  void* self;
  void (*run)(void* self, int32_t workers, void (*work)(void* context, int32_t worker), void* context);
};

// Bytes of workspace a CPU call needs: rows = leading elements of the logits (or tokens), batch = B, filtered_vocab = V
// if there is a top_k, top_p or min_p, else 0.
DLM_API int64_t dlm_cpu_workspace_bytes(int64_t rows, int64_t batch, int64_t num_suppress, int64_t filtered_vocab,
                                        int32_t threads);

DLM_API int32_t dlm_cpu_row_stats(const dlm::RowStatsArgs* args, const dlm_executor* executor, void* workspace,
                                  dlm_error* error);
DLM_API int32_t dlm_cpu_row_kl(const dlm::DivergenceArgs* args, const dlm_executor* executor, void* workspace,
                               dlm_error* error);
DLM_API int32_t dlm_cpu_draw_tokens(const dlm::DrawArgs* args, const dlm_executor* executor, void* workspace,
                                    dlm_error* error);
DLM_API int32_t dlm_cpu_denoise_step(const dlm::StepArgs* args, const dlm_executor* executor, void* workspace,
                                     dlm_error* error);
DLM_API int32_t dlm_cpu_topk_unmask(const dlm::UnmaskArgs* args, const dlm_executor* executor, void* workspace,
                                    dlm_error* error);
DLM_API int32_t dlm_cpu_renoise_step(const dlm::RenoiseArgs* args, const dlm_executor* executor, void* workspace,
                                     dlm_error* error);
DLM_API int32_t dlm_cpu_transition_step(const dlm::TransitionArgs* args, const dlm_executor* executor, void* workspace,
                                        dlm_error* error);
DLM_API int32_t dlm_cpu_q_sample(const dlm::NoisingArgs* args, const dlm_executor* executor, void* workspace,
                                 dlm_error* error);

// topk_unmask is remask, too: UnmaskArgs say which.

// CUDA: the same arguments with pointers of one device, which is current. Work is enqueued on `stream` (a cudaStream_t)
// and nothing waits for it. `scratch` is dlm_cuda_scratch_bytes of anything, 256-byte aligned, until that work is done;
// calls on one stream may share it. Values of arrays are not checked, since that would take a host sync; any value is
// survived, but they, x included, must not change while the work runs. Only in a library built with CUDA.
DLM_API int64_t dlm_cuda_scratch_bytes(int64_t rows, int64_t vocab);  // vocab 0: topk_unmask
DLM_API int32_t dlm_cuda_row_stats(const dlm::RowStatsArgs* args, void* scratch, void* stream, dlm_error* error);
DLM_API int32_t dlm_cuda_row_kl(const dlm::DivergenceArgs* args, void* scratch, void* stream, dlm_error* error);
DLM_API int32_t dlm_cuda_draw_tokens(const dlm::DrawArgs* args, void* scratch, void* stream, dlm_error* error);
DLM_API int32_t dlm_cuda_denoise_step(const dlm::StepArgs* args, void* scratch, void* stream, dlm_error* error);
DLM_API int32_t dlm_cuda_topk_unmask(const dlm::UnmaskArgs* args, void* scratch, void* stream, dlm_error* error);
DLM_API int32_t dlm_cuda_renoise_step(const dlm::RenoiseArgs* args, void* scratch, void* stream, dlm_error* error);
DLM_API int32_t dlm_cuda_transition_step(const dlm::TransitionArgs* args, void* scratch, void* stream,
                                         dlm_error* error);
DLM_API int32_t dlm_cuda_q_sample(const dlm::NoisingArgs* args, void* scratch, void* stream, dlm_error* error);
// Whether all arrival counters are back at 0 once the current device is idle, as they always must be. For tests: waits.
DLM_API int32_t dlm_cuda_counters_at_rest(void);
// The CUDA version of the driver here, 1000 major + 10 minor, or 0 without one; and whether kernels of this build run
// on it (1 without one). Neither initialises CUDA.
DLM_API int32_t dlm_cuda_driver_version(void);
DLM_API int32_t dlm_cuda_driver_suffices(void);
// Reads `bytes` once (16-byte aligned, a multiple of 16) and nearly never writes to `sink`: a bench's read bandwidth.
DLM_API int32_t dlm_cuda_read_stream(const void* data, int64_t bytes, uint32_t* sink, void* stream, dlm_error* error);

// Instruction sets this CPU can run, best first, comma-separated; the one in use; and a switch (0 if it cannot run
// here).
DLM_API const char* dlm_cpu_isas(void);
DLM_API const char* dlm_cpu_isa(void);
DLM_API int32_t dlm_cpu_set_isa(const char* name);

// What this library was built as: JSON.
DLM_API const char* dlm_build_info(void);

// The two terms of a CPU's roofline, for benches: a pure read of memory, and the sweep's inner loop on data in L1.
DLM_API double dlm_cpu_read_stream(const void* data, int64_t bytes);
DLM_API double dlm_cpu_exp_peak(int32_t dtype, int64_t n, int64_t repeats);
