#include "rows.h"

namespace dlm::cuda {

template void launch_draws_of<BFloat16>(const RowsJob&, const SortSpace&, void*);

}  // namespace dlm::cuda
