// The ops on one CUDA device, after validation: everything is enqueued on `stream`, nothing waits, nothing is
// allocated.
#pragma once

#include "job.h"

namespace dlm::cuda {

// What a call borrows. It serves one stream at a time.
struct Workspace {
  uint32_t* counters = nullptr;  // num_counters(): all 0, and 0 again when the call's kernels are done
  void* scratch = nullptr;       // scratch_bytes(): anything
};
int64_t num_counters(int64_t rows, int64_t batch);
int64_t scratch_bytes(int64_t rows);

void row_stats(const RowStatsArgs& a, const Resolved& r, const Workspace& w, void* stream);
void draw_tokens(const DrawArgs& a, const Resolved& r, const Workspace& w, void* stream);
void denoise_step(const StepArgs& a, const Resolved& r, const Workspace& w, void* stream);
void topk_unmask(const UnmaskArgs& a, const Resolved& r, const Workspace& w, void* stream);

}  // namespace dlm::cuda
