// The array entry of the kernel library, without torch: the ops of ops.h, all arguments by position, in the order of
// the schemas in dlm_kernels/_ops.py. dlm_kernels/array.py gives them names and defaults.
#include <pybind11/stl.h>

#include "call.h"

PYBIND11_MODULE(_array, m) {
  using O = dlm::Ops<dlm::array::Call>;
  pybind11::options options;
  options.disable_function_signatures();
  m.def("row_stats", &O::row_stats);
  m.def("row_kl", &O::row_kl);
  m.def("draw_tokens", &O::draw_tokens);
  m.def("denoise_step_", &O::denoise_step);
  m.def("topk_unmask_", &O::topk_unmask);
  m.def("remask_", &O::remask);
  m.def("renoise_step_", &O::renoise_step);
  m.def("transition_step_", &O::transition_step);
  m.def("q_sample", &O::q_sample);
  m.def("set_num_threads", [](int32_t threads) { dlm::array::most_threads = threads; });
  m.def("get_num_threads", [] { return dlm::array::most_threads.load(); });
}
