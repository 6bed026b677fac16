// The sweep of one row: chunks -> ChunkStats -> RowStats, and the draw from them. Composes the inner loops of
// kernels.h.
#pragma once

#include "../core/chunk.h"
#include "../core/draw.h"
#include "../core/row_stats.h"
#include "kernels.h"
#include "row_source.h"

namespace dlm::cpu {

LawScales scales_of(const RowLaw& law, float ref);

ChunkStats sweep_chunk(const KernelTable& k, const RowSource& source, int64_t begin, int64_t end, const RowLaw& law);

// False if the row is bad: NaN, +inf, or no finite logit.
bool finish_row(const KernelTable& k, const RowSource& source, int64_t vocab, const RowLaw& law,
                const ChunkStats* chunks, RowStats* out);

// Index order CDF inversion with one uniform: reads one chunk. -1 if there is no mass. Not for greedy laws.
int64_t draw_token(const KernelTable& k, const RowSource& source, int64_t vocab, const RowLaw& law,
                   const ChunkStats* chunks, double uniform);

// The same from the law without `token`, whose chunk is summed up again without it: its mass may be nearly all of it.
int64_t draw_another(const KernelTable& k, RowSource source, int64_t vocab, const RowLaw& law, const ChunkStats* chunks,
                     int64_t token, double uniform);

// The probabilities of a whole row, from its statistics.
void store_probabilities(const KernelTable& k, const RowSource& source, int64_t vocab, const RowLaw& law,
                         const RowStats& stats, BFloat16* out);

}  // namespace dlm::cpu
