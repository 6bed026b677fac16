// The C ABI over the CPU backend: check, cut the workspace, run; errors leave as a status and a text.
#include "../api.h"

#include "backend.h"

namespace {

const dlm::SweepParams& law_of(const dlm::DrawArgs& a) { return a.sweep; }
const dlm::SweepParams& law_of(const dlm::StepArgs& a) { return a.sweep; }
const dlm::SweepParams& law_of(const dlm::RenoiseArgs& a) { return a.step.sweep; }
const dlm::SweepParams& law_of(const dlm::TransitionArgs& a) { return a.sweep; }
template <class Args>
dlm::SweepParams law_of(const Args&) {
  return {};
}

template <class Args, class Op>
int32_t call(const Args* args, const dlm_executor* executor, void* workspace, dlm_error* error, Op op) {
  return dlm::guarded(error, [&] {
    const dlm::Resolved resolved = dlm::validate(*args);
    dlm::check::unfiltered(law_of(*args), "the CPU backend");
    op(*args, resolved, executor, workspace);
  });
}

using dlm::cpu::thread_count;

int64_t count(const dlm::Array& ids) { return dlm::given(ids) ? ids.shape[0] : 0; }

}  // namespace

DLM_API int64_t dlm_cpu_workspace_bytes(int64_t rows, int64_t batch, int64_t num_suppress, int32_t threads) {
  return dlm::cpu::cut_scratch(nullptr, rows, batch, num_suppress, dlm::max_of(threads, 1)).bytes;
}

DLM_API int32_t dlm_cpu_row_stats(const dlm::RowStatsArgs* args, const dlm_executor* executor, void* workspace,
                                  dlm_error* error) {
  return call(args, executor, workspace, error, [](auto& a, auto& r, auto* e, void* w) {
    const auto scratch = dlm::cpu::cut_scratch(w, r.geometry.num_rows, 0, count(a.sweep.suppress), thread_count(e));
    dlm::cpu::row_stats(a, r, e, scratch);
  });
}

DLM_API int32_t dlm_cpu_draw_tokens(const dlm::DrawArgs* args, const dlm_executor* executor, void* workspace,
                                    dlm_error* error) {
  return call(args, executor, workspace, error, [](auto& a, auto& r, auto* e, void* w) {
    const auto scratch = dlm::cpu::cut_scratch(w, r.geometry.num_rows, 0, count(a.sweep.suppress), thread_count(e));
    dlm::cpu::draw_tokens(a, r, e, scratch);
  });
}

DLM_API int32_t dlm_cpu_denoise_step(const dlm::StepArgs* args, const dlm_executor* executor, void* workspace,
                                     dlm_error* error) {
  return call(args, executor, workspace, error, [](auto& a, auto& r, auto* e, void* w) {
    const auto scratch =
        dlm::cpu::cut_scratch(w, r.geometry.num_rows, a.decide.x.shape[0], count(a.sweep.suppress), thread_count(e));
    dlm::cpu::denoise_step(a, r, e, scratch);
  });
}

DLM_API int32_t dlm_cpu_topk_unmask(const dlm::UnmaskArgs* args, const dlm_executor* executor, void* workspace,
                                    dlm_error* error) {
  return call(args, executor, workspace, error, [](auto& a, auto& r, auto* e, void* w) {
    const auto scratch = dlm::cpu::cut_scratch(w, r.geometry.num_rows, a.decide.x.shape[0], 0, thread_count(e));
    dlm::cpu::topk_unmask(a, r, e, scratch);
  });
}

DLM_API int32_t dlm_cpu_renoise_step(const dlm::RenoiseArgs* args, const dlm_executor* executor, void* workspace,
                                     dlm_error* error) {
  return call(args, executor, workspace, error, [](auto& a, auto& r, auto* e, void* w) {
    const int64_t batch = a.step.decide.x.shape[0], num_suppress = count(a.step.sweep.suppress);
    dlm::cpu::renoise_step(a, r, e,
                           dlm::cpu::cut_scratch(w, r.geometry.num_rows, batch, num_suppress, thread_count(e)));
  });
}

DLM_API int32_t dlm_cpu_transition_step(const dlm::TransitionArgs* args, const dlm_executor* executor, void* workspace,
                                        dlm_error* error) {
  return call(args, executor, workspace, error, [](auto& a, auto& r, auto* e, void* w) {
    const int64_t batch = a.decide.x.shape[0], num_suppress = count(a.sweep.suppress);
    dlm::cpu::transition_step(a, r, e,
                              dlm::cpu::cut_scratch(w, r.geometry.num_rows, batch, num_suppress, thread_count(e)));
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
