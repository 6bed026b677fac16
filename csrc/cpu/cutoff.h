// Where a row's filter cuts, and the row without what it cuts off.
#pragma once

#include "scratch.h"
#include "sweep.h"

namespace dlm::cpu {

// Cuts the source of a good row down to what `filter` keeps under the law drawn from, and its chunks with it.
// `room`: cutoff_room(vocab) floats.
void cut_row(const KernelTable& k, RowSource* source, int64_t vocab, const RowLaw& law, const Filter& filter,
             ChunkStats* chunks, float* room);

// finish_row of a row that has been swept, then the same of what the filter keeps of it.
bool filter_row(const KernelTable& k, RowSource* source, int64_t vocab, const RowLaw& law, const Filter& filter,
                ChunkStats* chunks, float* room, RowStats* out);

}  // namespace dlm::cpu
