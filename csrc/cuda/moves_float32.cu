#include "rows.h"

namespace dlm::cuda {

template void launch_moves_of<float>(const RowsJob&, const SortSpace&, void*);

}  // namespace dlm::cuda
