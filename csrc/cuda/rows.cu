// Which instantiation of the rows kernel a job wants. They are compiled apart, a family and a dtype per file.
#include "rows.h"

namespace dlm::cuda {
namespace {

template <class T>
void launch_rows_of(const RowsJob& job, const SortSpace& space, void* stream) {
  job.op == RowsOp::kTransition ? launch_moves_of<T>(job, space, stream) : launch_draws_of<T>(job, space, stream);
}

}  // namespace

extern template void launch_draws_of<float>(const RowsJob&, const SortSpace&, void*);
extern template void launch_draws_of<BFloat16>(const RowsJob&, const SortSpace&, void*);
extern template void launch_draws_of<Float16>(const RowsJob&, const SortSpace&, void*);
extern template void launch_moves_of<float>(const RowsJob&, const SortSpace&, void*);
extern template void launch_moves_of<BFloat16>(const RowsJob&, const SortSpace&, void*);
extern template void launch_moves_of<Float16>(const RowsJob&, const SortSpace&, void*);

void launch_rows(const RowsJob& job, const SortSpace& space, void* stream) {
  const int32_t dtype = job.args.step.sweep.logits.dtype;
  switch (dtype) {
    case kFloat32: return launch_rows_of<float>(job, space, stream);
    case kBFloat16: return launch_rows_of<BFloat16>(job, space, stream);
    case kFloat16: return launch_rows_of<Float16>(job, space, stream);
    default: launch_failed("rows", "no kernel for logits of " + std::string(dtype_name(dtype)));
  }
}

}  // namespace dlm::cuda
