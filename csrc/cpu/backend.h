// The ops on host memory. Arguments have been validated; `r` is what they resolve to.
#pragma once

#include "../core/validate.h"
#include "for_each_row.h"

namespace dlm::cpu {

void row_stats(const RowStatsArgs& a, const Resolved& r, const dlm_executor* executor, const Scratch& scratch);
void row_kl(const DivergenceArgs& a, const Resolved& r, const dlm_executor* executor);
void draw_tokens(const DrawArgs& a, const Resolved& r, const dlm_executor* executor, const Scratch& scratch);
void denoise_step(const StepArgs& a, const Resolved& r, const dlm_executor* executor, const Scratch& scratch);
void topk_unmask(const UnmaskArgs& a, const Resolved& r, const dlm_executor* executor, const Scratch& scratch);
void renoise_step(const RenoiseArgs& a, const Resolved& r, const dlm_executor* executor, const Scratch& scratch);
void transition_step(const TransitionArgs& a, const Resolved& r, const dlm_executor* executor, const Scratch& scratch);
void q_sample(const NoisingArgs& a, const Resolved& r, const dlm_executor* executor);

}  // namespace dlm::cpu
