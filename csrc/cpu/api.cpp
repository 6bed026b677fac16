// The C ABI over the CPU backend: check, cut the workspace, run; errors leave as a status and a text.
#include "../api.h"

#include "backend.h"
#include "default_floats.h"

namespace {

template <class Args, class Op>
int32_t call(const Args* args, const dlm_executor* executor, void* workspace, dlm_error* error, Op op) {
  return dlm::guarded(error, [&] {
    const dlm::cpu::DefaultFloats floats;
    const dlm::Resolved resolved = dlm::validate(*args);
    op(*args, resolved, executor, workspace);
  });
}

using dlm::cpu::Scratch;
using dlm::cpu::thread_count;

Scratch cut(void* workspace, int64_t rows, int64_t batch, const dlm::SweepParams& s, const dlm_executor* executor) {
  const int64_t num_suppress = dlm::given(s.suppress) ? s.suppress.shape[0] : 0;
  const int64_t filtered_vocab = dlm::has_filters(s) ? s.logits.shape[s.logits.ndim - 1] : 0;
  return dlm::cpu::cut_scratch(workspace, rows, batch, num_suppress, filtered_vocab, thread_count(executor));
}

}  // namespace

DLM_API int64_t dlm_cpu_workspace_bytes(int64_t rows, int64_t batch, int64_t num_suppress, int64_t filtered_vocab,
                                        int32_t threads) {
  return dlm::cpu::cut_scratch(nullptr, rows, batch, num_suppress, filtered_vocab, dlm::max_of(threads, 1)).bytes;
}

DLM_API int32_t dlm_cpu_row_stats(const dlm::RowStatsArgs* args, const dlm_executor* executor, void* workspace,
                                  dlm_error* error) {
  return call(args, executor, workspace, error, [](auto& a, auto& r, auto* e, void* w) {
    dlm::cpu::row_stats(a, r, e, cut(w, r.geometry.num_rows, 0, a.sweep, e));
  });
}

DLM_API int32_t dlm_cpu_row_kl(const dlm::DivergenceArgs* args, const dlm_executor* executor, void* workspace,
                               dlm_error* error) {
  return call(args, executor, workspace, error, [](auto& a, auto& r, auto* e, void*) { dlm::cpu::row_kl(a, r, e); });
}

DLM_API int32_t dlm_cpu_draw_tokens(const dlm::DrawArgs* args, const dlm_executor* executor, void* workspace,
                                    dlm_error* error) {
  return call(args, executor, workspace, error, [](auto& a, auto& r, auto* e, void* w) {
    dlm::cpu::draw_tokens(a, r, e, cut(w, r.geometry.num_rows, 0, a.sweep, e));
  });
}

DLM_API int32_t dlm_cpu_denoise_step(const dlm::StepArgs* args, const dlm_executor* executor, void* workspace,
                                     dlm_error* error) {
  return call(args, executor, workspace, error, [](auto& a, auto& r, auto* e, void* w) {
    dlm::cpu::denoise_step(a, r, e, cut(w, r.geometry.num_rows, a.decide.x.shape[0], a.sweep, e));
  });
}

DLM_API int32_t dlm_cpu_topk_unmask(const dlm::UnmaskArgs* args, const dlm_executor* executor, void* workspace,
                                    dlm_error* error) {
  return call(args, executor, workspace, error, [](auto& a, auto& r, auto* e, void* w) {
    dlm::cpu::topk_unmask(a, r, e, cut(w, r.geometry.num_rows, a.decide.x.shape[0], dlm::SweepParams{}, e));
  });
}

DLM_API int32_t dlm_cpu_renoise_step(const dlm::RenoiseArgs* args, const dlm_executor* executor, void* workspace,
                                     dlm_error* error) {
  return call(args, executor, workspace, error, [](auto& a, auto& r, auto* e, void* w) {
    dlm::cpu::renoise_step(a, r, e, cut(w, r.geometry.num_rows, a.step.decide.x.shape[0], a.step.sweep, e));
  });
}

DLM_API int32_t dlm_cpu_transition_step(const dlm::TransitionArgs* args, const dlm_executor* executor, void* workspace,
                                        dlm_error* error) {
  return call(args, executor, workspace, error, [](auto& a, auto& r, auto* e, void* w) {
    dlm::cpu::transition_step(a, r, e, cut(w, r.geometry.num_rows, a.decide.x.shape[0], a.sweep, e));
  });
}

DLM_API int32_t dlm_cpu_q_sample(const dlm::NoisingArgs* args, const dlm_executor* executor, void* workspace,
                                 dlm_error* error) {
  return call(args, executor, workspace, error, [](auto& a, auto& r, auto* e, void*) { dlm::cpu::q_sample(a, r, e); });
}

DLM_API const char* dlm_cpu_isas(void) { return dlm::cpu::isa_names(); }
DLM_API const char* dlm_cpu_isa(void) { return dlm::cpu::active_kernels().isa; }
DLM_API int32_t dlm_cpu_set_isa(const char* name) { return dlm::cpu::set_isa(name) ? 1 : 0; }
DLM_API const char* dlm_build_info(void) { return DLM_BUILD_INFO; }
