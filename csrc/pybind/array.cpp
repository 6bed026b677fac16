// The array entry of the kernel library, without torch: the ops of ops.h, all arguments by position, in the order of
// the schemas in dlm_kernels/_ops.py. dlm_kernels/array.py gives them names and defaults.
#include <pybind11/stl.h>

#include "call.h"

namespace dlm::array {

// An op as a function of Python. pybind11's own dispatch of forty arguments takes as long as half a small step.
template <auto op>
struct Function;
template <class... Results, class... Parameters, std::tuple<Results...> (*op)(Parameters...)>
struct Function<op> {
  static PyObject* call(PyObject*, PyObject* const* values, Py_ssize_t count) {
    try {
      if (count != sizeof...(Parameters)) throw py::type_error("an op takes all its arguments");
      return py::cast(run(values, std::index_sequence_for<Parameters...>{})).release().ptr();
    } catch (py::error_already_set& e) {
      e.restore();
    } catch (const py::cast_error& e) {
      PyErr_SetString(PyExc_TypeError, e.what());
    } catch (const py::builtin_exception& e) {
      e.set_error();
    } catch (const std::bad_alloc&) {
      PyErr_NoMemory();
    } catch (const std::exception& e) {
      PyErr_SetString(PyExc_RuntimeError, e.what());
    }
    return nullptr;
  }

 private:
  template <size_t... i>
  static std::tuple<Results...> run(PyObject* const* values, std::index_sequence<i...>) {
    return op(py::cast<std::decay_t<Parameters>>(py::handle(values[i]))...);
  }
};

template <auto op>
PyMethodDef method(const char* name) {
  const auto call = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&Function<op>::call));
  return {name, call, METH_FASTCALL, nullptr};
}

}  // namespace dlm::array

PYBIND11_MODULE(_array, m) {
  using dlm::array::method;
  using O = dlm::Ops<dlm::array::Call>;
  static PyMethodDef ops[] = {
      method<&O::row_stats>("row_stats"),        method<&O::row_kl>("row_kl"),
      method<&O::draw_tokens>("draw_tokens"),    method<&O::denoise_step>("denoise_step_"),
      method<&O::topk_unmask>("topk_unmask_"),   method<&O::remask>("remask_"),
      method<&O::renoise_step>("renoise_step_"), method<&O::transition_step>("transition_step_"),
      method<&O::q_sample>("q_sample"),          {nullptr, nullptr, 0, nullptr},
  };
  pybind11::options options;
  options.disable_function_signatures();
  if (PyModule_AddFunctions(m.ptr(), ops) != 0) throw pybind11::error_already_set();
  m.def("set_num_threads", [](int32_t threads) { dlm::array::most_threads = threads; });
  m.def("get_num_threads", [] { return dlm::array::most_threads.load(); });
}
