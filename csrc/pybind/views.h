// Arrays of other libraries as PODs, in place: NumPy's, and whatever has __cuda_array_interface__ or __dlpack__. Errors
// name the argument, as those of core/validate.h do.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "../dlpack.h"
#include "../ops.h"

namespace dlm::array {

namespace py = pybind11;

template <class Error>
[[noreturn]] void fail(const char* name, const std::string& rule, const std::string& got) {
  throw Error(std::string(name) + ": " + rule + ", got " + got);
}

inline std::string type_name(py::handle value) { return py::str(py::type::handle_of(value).attr("__name__")); }

// What a view needs of a GPU library: dlm_kernels/_cupy.py. Imported with the first CUDA array.
inline py::module_ cuda_library() { return py::module_::import("dlm_kernels._cupy"); }

// torch is never imported here; a tensor can only be one if somebody else did.
inline bool is_torch_tensor(py::handle value) {
  const py::dict modules = py::module_::import("sys").attr("modules");
  return modules.contains("torch") && py::isinstance(value, modules["torch"].attr("Tensor"));
}

inline bool is_array(py::handle value) {
  if (py::isinstance<py::array>(value)) return true;
  for (const char* protocol : {"__cuda_array_interface__", "__dlpack__", "__bfloat16__"}) {
    if (py::hasattr(value, protocol)) return true;
  }
  return false;
}

// The views of one call, and what must live as long as they do.
class Views {
 public:
  Views() = default;
  Views(const Views&) = delete;
  ~Views() {
    for (const Borrowed& each : borrowed_) each.give_back(each.managed);
  }

  Array read(const char* name, py::handle value) {
    Array a = view(name, value, false);
    if (a.dtype == kBits16) a.dtype = kOtherDType;
    return a;
  }
  Array write(const char* name, py::handle value) {
    Array a = view(name, value, true);
    if (a.dtype == kBits16) a.dtype = kOtherDType;
    return a;
  }

 private:
  static constexpr int32_t kBits16 = -16;  // uint16: no dtype of any op, but what bfloat16 can be kept in

  struct Borrowed {
    void* managed;
    void (*give_back)(void*);
  };

  Array view(const char* name, py::handle value, bool write) {
    if (py::isinstance<py::array>(value)) return numpy(name, py::reinterpret_borrow<py::array>(value), write);
    if (is_torch_tensor(value)) {
      fail<py::type_error>(name, "must be an array, for tensors there are the functions of dlm_kernels itself",
                           "a torch.Tensor");
    }
    if (py::hasattr(value, "__bfloat16__")) {
      Array a = view(name, value.attr("__bfloat16__"), write);
      if (a.dtype != kBits16) fail<py::type_error>(name, "bits of bfloat16 must be uint16", dtype_name(a.dtype));
      a.dtype = kBFloat16;
      return a;
    }
    if (py::hasattr(value, "__cuda_array_interface__")) return cuda_interface(name, value, write);
    if (py::hasattr(value, "__dlpack__")) return dlpack(name, value, write);
    fail<py::type_error>(name, "must be an array: of NumPy, or with __cuda_array_interface__ or __dlpack__",
                         type_name(value));
  }

  static int32_t dtype_of(char kind, int64_t size) {
    switch (kind) {
      case 'f': return size == 4 ? kFloat32 : size == 2 ? kFloat16 : size == 8 ? kFloat64 : kOtherDType;
      case 'i': return size == 8 ? kInt64 : size == 4 ? kInt32 : kOtherDType;
      case 'u': return size == 2 ? kBits16 : kOtherDType;
      case 'b': return kBool;
      default: return kOtherDType;
    }
  }
  // ml_dtypes': to NumPy and in array interfaces a kind of its own, of two bytes.
  static bool is_bfloat16(py::handle dtype) { return std::string(py::str(dtype)) == "bfloat16"; }

  static void check_writable(const char* name, bool writable) {
    if (!writable) fail<py::value_error>(name, "must be writable", "a read-only array");
  }
  [[noreturn]] static void foreign_byte_order(const char* name, const std::string& dtype) {
    fail<py::type_error>(name, "dtype must be of native byte order", dtype);
  }
  // From strides in bytes. Dimensions beyond kMaxDims keep their number, which validation rejects.
  template <class Extent, class Stride>
  static void set_shape(const char* name, Array* a, int64_t ndim, int64_t item_size, Extent extent, Stride stride) {
    a->ndim = static_cast<int32_t>(ndim);
    for (int32_t d = 0; d < a->ndim && d < kMaxDims; ++d) {
      a->shape[d] = extent(d);
      const int64_t bytes = stride(d);
      if (bytes % item_size != 0 && a->shape[d] > 1) {
        fail<py::value_error>(name, "strides must be multiples of the item size " + std::to_string(item_size),
                              std::to_string(bytes));
      }
      a->stride[d] = bytes / item_size;
    }
  }

  static Array numpy(const char* name, const py::array& value, bool write) {
    const bool plain = Py_TYPE(value.ptr()) == py::detail::npy_api::get().PyArray_Type_;
    if (!plain && py::hasattr(value, "mask")) fail<py::value_error>(name, "must not be masked", type_name(value));
    const py::dtype dtype = value.dtype();
    const char order = dtype.byteorder();  // '=': native, '|': of no order
    if (order != '=' && order != '|') foreign_byte_order(name, py::str(dtype));
    if (write) check_writable(name, value.writeable());
    if ((value.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0) {
      fail<py::value_error>(name, "must be aligned", "an unaligned array");
    }
    Array a;
    a.data = const_cast<void*>(value.data());
    a.dtype = dtype_of(dtype.kind(), dtype.itemsize());
    if (a.dtype == kOtherDType && dtype.itemsize() == 2 && is_bfloat16(dtype)) a.dtype = kBFloat16;
    set_shape(
        name, &a, value.ndim(), dtype.itemsize(), [&](int32_t d) { return value.shape(d); },
        [&](int32_t d) { return value.strides(d); });
    return a;
  }

  // https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
  static Array cuda_interface(const char* name, py::handle value, bool write) {
    const py::dict interface = value.attr("__cuda_array_interface__");
    const auto has = [&](const char* key) { return interface.contains(key) && !interface[key].is_none(); };
    const auto type = interface["typestr"].cast<std::string>();  // <f4
    const auto item_size = std::stoll(type.substr(2));
    if (type[0] == '>' && item_size > 1) foreign_byte_order(name, type);
    if (has("mask")) fail<py::value_error>(name, "must not be masked", "a mask");
    const auto data = interface["data"].cast<py::tuple>();
    if (write) check_writable(name, !data[1].cast<bool>());
    Array a;
    a.data = reinterpret_cast<void*>(data[0].cast<uintptr_t>());
    a.dtype = dtype_of(type[1], item_size);
    if (a.dtype == kOtherDType && item_size == 2 && py::hasattr(value, "dtype") && is_bfloat16(value.attr("dtype"))) {
      a.dtype = kBFloat16;
    }
    a.device = cuda_library().attr("device_of")(value, data[0]).cast<int32_t>();
    const auto shape = interface["shape"].cast<py::tuple>();
    const auto ndim = static_cast<int64_t>(shape.size());
    std::vector<int64_t> strides(shape.size(), item_size);
    for (int64_t d = ndim - 2; d >= 0; --d) strides[d] = strides[d + 1] * shape[d + 1].cast<int64_t>();
    if (has("strides")) {
      const auto given = interface["strides"].cast<py::tuple>();
      for (int64_t d = 0; d < ndim; ++d) strides[d] = given[d].cast<int64_t>();
    }
    set_shape(
        name, &a, ndim, item_size, [&](int32_t d) { return shape[d].cast<int64_t>(); },
        [&](int32_t d) { return strides[d]; });
    if (has("stream")) cuda_library().attr("wait_for")(interface["stream"], a.device);
    return a;
  }

  Array dlpack(const char* name, py::handle value, bool write) {
    const auto where = value.attr("__dlpack_device__")().cast<py::tuple>();
    const auto kind = where[0].cast<int32_t>(), device = where[1].cast<int32_t>();
    const bool on_cuda = kind == dlpack::kCuda || kind == dlpack::kCudaManaged;
    if (!on_cuda && kind != dlpack::kCpu && kind != dlpack::kCudaHost) {
      fail<py::value_error>(name, "must be on the CPU or on CUDA", "DLPack device type " + std::to_string(kind));
    }
    py::dict how;
    if (on_cuda) how["stream"] = cuda_library().attr("dlpack_stream")(device);
    const py::object capsule = exported(name, value, how);
    const bool versioned = PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned") != 0;
    dlpack::Tensor t;
    bool writable = false;  // before version 1 nobody says so
    if (versioned) {
      t = take<dlpack::Versioned>(capsule, "dltensor_versioned", "used_dltensor_versioned",
                                  [&](const auto& managed) { writable = (managed.flags & dlpack::kReadOnly) == 0; });
    } else {
      t = take<dlpack::Managed>(capsule, "dltensor", "used_dltensor", [](const auto&) {});
    }
    if (write) check_writable(name, writable);
    Array a;
    a.data = static_cast<char*>(t.data) + t.byte_offset;
    a.dtype = t.lanes == 1 ? dtype_of(t) : static_cast<int32_t>(kOtherDType);
    a.device = on_cuda ? device : -1;
    a.ndim = t.ndim;
    int64_t contiguous = 1;
    for (int32_t d = t.ndim - 1; d >= 0; contiguous *= t.shape[d--]) {
      if (d >= kMaxDims) continue;
      a.shape[d] = t.shape[d];
      a.stride[d] = t.strides == nullptr ? contiguous : t.strides[d];
    }
    return a;
  }

  static int32_t dtype_of(const dlpack::Tensor& t) {
    switch (t.code) {
      case dlpack::kFloat: return dtype_of('f', t.bits / 8);
      case dlpack::kInt: return dtype_of('i', t.bits / 8);
      case dlpack::kUInt: return dtype_of('u', t.bits / 8);
      case dlpack::kBool: return kBool;
      case dlpack::kBFloat: return t.bits == 16 ? kBFloat16 : kOtherDType;
      default: return kOtherDType;
    }
  }

  static py::object exported(const char* name, py::handle value, py::dict how) {
    const py::object method = value.attr("__dlpack__");
    try {
      try {
        return method(**how, py::arg("max_version") = py::make_tuple(1, 0));
      } catch (py::error_already_set& e) {  // older than that argument
        if (!e.matches(PyExc_TypeError)) throw;
      }
      return method(**how);
    } catch (py::error_already_set& e) {
      if (!e.matches(PyExc_BufferError)) throw;
      fail<py::value_error>(name, "must let DLPack have its memory", std::string(py::str(e.value())));
    }
  }

  // The tensor in a capsule, which is this call's from now on.
  template <class Managed, class Note>
  dlpack::Tensor take(const py::object& capsule, const char* name, const char* used, Note note) {
    auto* const managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), name));
    if (managed == nullptr) throw py::error_already_set();
    PyCapsule_SetName(capsule.ptr(), used);
    borrowed_.push_back({managed, [](void* p) {
                           auto* const m = static_cast<Managed*>(p);
                           if (m->deleter != nullptr) m->deleter(m);
                         }});
    note(*managed);
    return managed->tensor;
  }

  std::vector<Borrowed> borrowed_;
};

}  // namespace dlm::array
