// The ops on one CUDA device, after validation: everything is enqueued on `stream`, nothing waits, nothing is
// allocated.
#pragma once

#include "job.h"

namespace dlm::cuda {

// What `scratch` must point at, 256-byte aligned; vocab 0 for topk_unmask; q_sample and row_kl need none.
int64_t scratch_bytes(int64_t rows, int64_t vocab);

void row_stats(const RowStatsArgs& a, const Resolved& r, void* scratch, void* stream);
void row_kl(const DivergenceArgs& a, const Resolved& r, void* stream);
void draw_tokens(const DrawArgs& a, const Resolved& r, void* scratch, void* stream);
void denoise_step(const StepArgs& a, const Resolved& r, void* scratch, void* stream);
void renoise_step(const RenoiseArgs& a, const Resolved& r, void* scratch, void* stream);
void transition_step(const TransitionArgs& a, const Resolved& r, void* scratch, void* stream);
void q_sample(const NoisingArgs& a, const Resolved& r, void* stream);
void topk_unmask(const UnmaskArgs& a, const Resolved& r, void* scratch, void* stream);

}  // namespace dlm::cuda
