// The sweep of one row: chunks -> ChunkStats -> RowStats, and the draw from them. Composes the inner loops of
// kernels.h.
#pragma once

#include "../core/chunk.h"
#include "../core/draw.h"
#include "../core/row_stats.h"
#include "kernels.h"
#include "row_source.h"

namespace dlm::cpu {

ChunkStats sweep_chunk(const KernelTable& k, const RowSource& source, int64_t begin, int64_t end, const RowLaw& law);

// False if the row is bad: NaN, +inf, or no finite logit.
bool finish_row(const KernelTable& k, const RowSource& source, int64_t vocab, const RowLaw& law,
                const ChunkStats* chunks, RowStats* out);

// Index order CDF inversion with one uniform; for greedy laws the argmax.
int64_t draw_token(const KernelTable& k, const RowSource& source, int64_t vocab, const RowLaw& law,
                   const ChunkStats* chunks, const RowStats& stats, double uniform);

}  // namespace dlm::cpu
