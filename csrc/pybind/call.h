// A Call of ops.h on the arrays of NumPy and CuPy: results are NumPy's on the CPU, and CuPy's on a GPU, where the work
// goes to CuPy's current stream. The GIL is free while the backend works.
#pragma once

#include "threads.h"
#include "views.h"

namespace dlm::array {

#ifdef DLM_CUDA
constexpr bool kHasCuda = true;
#else
constexpr bool kHasCuda = false;
#endif

template <class T>
constexpr const char* type_string = "int64";
template <>
inline constexpr const char* type_string<int32_t> = "int32";
template <>
inline constexpr const char* type_string<float> = "float32";
template <>
inline constexpr const char* type_string<double> = "float64";
template <>
inline constexpr const char* type_string<bool> = "bool";
template <>
inline constexpr const char* type_string<uint8_t> = "uint8";

class Call {
 public:
  using Tensor = py::object;
  using Name = std::string;

  Call(const char* name, const py::object& anchor) {
    if (py::isinstance<py::array>(anchor)) return;
    device_ = views_.read(name, anchor).device;
    if (device_ < 0) return;
    if (!kHasCuda) {
      fail<py::value_error>(name, "must be on the CPU, for this build has no CUDA backend (built for: cpu)",
                            "cuda:" + std::to_string(device_));
    }
    current_ = cuda_library().attr("Current")(device_);
  }
  Call(const Call&) = delete;
  ~Call() {
    if (!current_) return;
    try {
      current_.attr("leave")();
    } catch (py::error_already_set& e) {
      e.discard_as_unraisable("dlm_kernels.array");
    }
  }

  Array read(const char* name, const py::object& value) { return views_.read(name, value); }
  Array write(const char* name, const py::object& value) { return views_.write(name, value); }

  // A number is as good as an array of one.
  Array numbers(const char* name, const py::object& value, DType dtype) {
    PyObject* const p = value.ptr();
    const bool plain = PyFloat_CheckExact(p) || PyLong_CheckExact(p);
    if (!plain && is_array(value)) return read(name, value);
    switch (dtype) {
      case kFloat32: return constant(name, static_cast<float>(real(name, value)));
      case kFloat64: return constant(name, real(name, value));
      default: return constant(name, integer(name, value));
    }
  }

  // One, or any number of them.
  Array ids(const char* name, const py::object& value) {
    if (is_array(value)) return read(name, value);
    std::vector<int64_t> found;
    if (py::hasattr(value, "__iter__")) {
      for (py::handle id : py::iter(value)) found.push_back(integer(name, id));
    } else {
      found.push_back(integer(name, value));
    }
    return list(name, std::move(found));
  }

  template <class T>
  py::object make(const Shape& shape) const {
    if (!current_) return numpy<T>(shape);
    return current_.attr("empty")(py::tuple(py::cast(shape)), type_string<T>);
  }
  void* data(py::object& made) const {
    if (!current_) return py::detail::array_proxy(made.ptr())->data;
    return reinterpret_cast<void*>(made.attr("data").attr("ptr").cast<uintptr_t>());
  }

  template <class Args>
  void run(const Need& need, const Args& args) {
    dlm_error error = {};
    const int32_t status = current_ ? on_cuda(need, args, &error) : on_cpu(need, args, &error);
    if (status == 1) throw py::value_error(error.text);
    if (status == 2) throw py::type_error(error.text);
    if (status != 0) throw std::runtime_error(error.text);
  }

 private:
  // As py::array_t, which also makes the strides that NumPy makes itself.
  template <class T>
  static py::object numpy(const Shape& shape) {
    static_assert(sizeof(Py_intptr_t) == sizeof(int64_t));
    const auto& api = py::detail::npy_api::get();
    PyObject* const made =
        api.PyArray_NewFromDescr_(api.PyArray_Type_, py::dtype::of<T>().release().ptr(), static_cast<int>(shape.size()),
                                  reinterpret_cast<const Py_intptr_t*>(shape.data()), nullptr, nullptr, 0, nullptr);
    if (made == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(made);
  }

  template <class Args>
  static int32_t on_cpu(const Need& need, const Args& args, dlm_error* error) {
    const Threads threads(need);
    const py::gil_scoped_release unlocked;
    const Workspace scratch(dlm_cpu_workspace_bytes(need.rows, need.batch, need.num_suppress,
                                                    need.filtered ? need.vocab : 0, threads.threads));
    if (scratch.data == nullptr) throw std::bad_alloc();
    return call_cpu(args, &threads, scratch.data, error);
  }

  template <class Args>
  int32_t on_cuda(const Need& need, const Args& args, dlm_error* error) {
    if constexpr (kHasCuda) {
      py::object scratch = make<uint8_t>({dlm_cuda_scratch_bytes(need.rows, need.vocab)});
      void* const memory = data(scratch);
      void* const stream = reinterpret_cast<void*>(current_.attr("stream").cast<uintptr_t>());
      const py::gil_scoped_release unlocked;
      return call_cuda(args, memory, stream, error);
    } else {
      return 0;  // the constructor has refused
    }
  }

  // What is no plain float or int is checked where the Python layers check theirs.
  static double real(const char* name, py::handle value) {
    if (PyFloat_CheckExact(value.ptr())) return PyFloat_AS_DOUBLE(value.ptr());
    return arguments().attr("number")(name, value).cast<double>();
  }
  static int64_t integer(const char* name, py::handle value) {
    if (PyLong_CheckExact(value.ptr())) {
      int overflow = 0;
      const long long found = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
      if (overflow == 0) return found;
    }
    return arguments().attr("integer")(name, value).cast<int64_t>();
  }
  static py::module_ arguments() { return py::module_::import("dlm_kernels.arguments"); }

  // On the device of the call: [1].
  template <class T>
  Array constant(const char* name, T value) {
    if (current_) return constant_on_gpu<T>(name, py::make_tuple(value));
    return numbers_.hold(value);
  }
  // [n].
  Array list(const char* name, std::vector<int64_t> values) {
    if (current_) return constant_on_gpu<int64_t>(name, py::tuple(py::cast(values)));
    lists_.push_back(std::move(values));
    return Numbers::on_host(lists_.back().data(), kInt64, static_cast<int64_t>(lists_.back().size()));
  }
  template <class T>
  Array constant_on_gpu(const char* name, const py::tuple& values) {
    kept_.push_back(current_.attr("constant")(values, type_string<T>));
    return read(name, kept_.back());
  }

  Views views_;
  int32_t device_ = -1;
  py::object current_;            // of a GPU: _cupy.Current
  std::vector<py::object> kept_;  // constants on it
  Numbers numbers_;               // and on the CPU
  std::vector<std::vector<int64_t>> lists_;
};

}  // namespace dlm::array
