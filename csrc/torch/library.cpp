// The torch entry of the kernel library, on LibTorch's stable ABI: one host-only binary for torch >= 2.10 and every
// Python >= 3.10. Importing it registers the kernels; schemas and fake kernels are in dlm_kernels/_ops.py. Its own
// functions are the ops without a dispatcher: eager.h.
#include "eager.h"

PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, dlm::eager::functions(), nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
