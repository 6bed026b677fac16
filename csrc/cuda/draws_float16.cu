#include "rows.h"

namespace dlm::cuda {

template void launch_draws_of<Float16>(const RowsJob&, const SortSpace&, void*);

}  // namespace dlm::cuda
