// The ops as plain functions of Python, for CPU tensors: ops.h without torch's dispatcher, which takes longer to pass
// on some thirty arguments than a small step does. torch's DLPack exchange API says what a tensor is, and makes
// tensors. All arguments are given, by position, in the order of the schemas in dlm_kernels/_ops.py.
//
// A function returns NotImplemented, and has done nothing, for whatever it does not know: it is the dispatcher's then.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <cfloat>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "../dlpack.h"
#include "../ops.h"
#include "pool.h"

namespace dlm::eager {

struct Declined {};     // to the dispatcher
struct PythonError {};  // which is set
struct Rejected {
  dlm_error error;
};

// A counted reference.
class Object {
 public:
  explicit Object(PyObject* borrowed) : p_(borrowed) { Py_XINCREF(p_); }
  static Object stolen(PyObject* p) {
    if (p == nullptr) throw PythonError{};
    Object o(nullptr);
    o.p_ = p;
    return o;
  }
  Object(const Object& other) : memory(other.memory), p_(other.p_) { Py_XINCREF(p_); }
  Object(Object&& other) noexcept : memory(other.memory), p_(std::exchange(other.p_, nullptr)) {}
  Object& operator=(Object&& other) noexcept {
    std::swap(p_, other.p_);
    std::swap(memory, other.memory);
    return *this;
  }
  ~Object() { Py_XDECREF(p_); }

  PyObject* get() const { return p_; }
  PyObject* release() { return std::exchange(p_, nullptr); }

  void* memory = nullptr;  // of a tensor that was made here

 private:
  PyObject* p_;
};

// What this takes from torch, set by connect, once and for good.
struct Torch {
  const dlpack::Exchange* exchange = nullptr;
  PyTypeObject* tensor = nullptr;
  PyObject *profiled = nullptr, *function_modes = nullptr, *keys = nullptr, *raw_repr = nullptr;
  std::vector<uint64_t> plain;
};
inline Torch torch;

// Whether a mode, transform, tracer or profiler of this thread wants to see calls. All but function modes and profilers
// add a key to those of the thread's dispatcher.
inline bool is_watched() {
  const auto says_yes = [](PyObject* function) {
    return PyObject_IsTrue(Object::stolen(PyObject_CallNoArgs(function)).get()) != 0;
  };
  if (torch.exchange == nullptr || says_yes(torch.profiled) || says_yes(torch.function_modes)) return true;
  const Object keys = Object::stolen(PyObject_CallNoArgs(torch.keys));
  const Object bits = Object::stolen(PyObject_CallMethodObjArgs(keys.get(), torch.raw_repr, nullptr));
  return std::find(torch.plain.begin(), torch.plain.end(), PyLong_AsUnsignedLongLong(bits.get())) == torch.plain.end();
}

// Python's numbers. A bool is none.
inline int64_t integer(PyObject* p) {
  int overflow = 0;
  if (!PyLong_CheckExact(p)) throw Declined{};
  const long long found = PyLong_AsLongLongAndOverflow(p, &overflow);
  if (overflow != 0) throw Declined{};
  return found;
}
inline double real(PyObject* p) {
  if (PyFloat_Check(p)) return PyFloat_AsDouble(p);
  return static_cast<double>(integer(p));
}

class Call {
 public:
  using Tensor = Object;
  using Name = std::string;

  Call(const char*, const Object& anchor) : anchor_(anchor) {}

  static Array read(const char*, const Object& value) {
    dlpack::Tensor t;
    if (Py_TYPE(value.get()) != torch.tensor) throw Declined{};
    if (torch.exchange->view(value.get(), &t) != 0) {
      PyErr_Clear();
      throw Declined{};
    }
    Array a;
    a.data = static_cast<char*>(t.data) + t.byte_offset;
    a.dtype = dtype_of(t);
    a.ndim = t.ndim;
    for (int32_t d = 0; d < a.ndim && d < kMaxDims; ++d) {
      a.shape[d] = t.shape[d];
      a.stride[d] = t.strides[d];
    }
    // Another device, no memory of its own, or numbers that are to be negated first.
    if (t.device_type != dlpack::kCpu || (t.data == nullptr && numel(a) > 0)) throw Declined{};
    if (is_float(a.dtype) && is_negated(value)) throw Declined{};
    return a;
  }
  static Array write(const char* name, const Object& value) { return read(name, value); }

  // A number is as good as a tensor of one. Seeds that are None are drawn, one for each sequence, by torch.
  Array numbers(const char* name, const Object& value, DType dtype) {
    PyObject* const p = value.get();
    if (p == Py_None && name == std::string_view("seed")) {
      const Array anchor = read(name, anchor_);
      const int64_t batch = anchor.ndim == 0 ? 1 : anchor.shape[0];
      seeds_.emplace(batch);
      return Numbers::on_host(seeds_->memory(), kInt64, batch);
    }
    if (!PyLong_CheckExact(p) && !PyFloat_Check(p)) return read(name, value);
    if (dtype == kInt64) return numbers_.hold(integer(p));
    const double found = real(p);
    if (dtype == kFloat64) return numbers_.hold(found);
    if (found > FLT_MAX || found < -FLT_MAX) throw Declined{};  // torch has a say in what it is as a float32
    return numbers_.hold(static_cast<float>(found));
  }
  static Array ids(const char* name, const Object& value) { return read(name, value); }

  // A tensor over memory of ours, which a kernel's outputs fill. That is a third of the time of torch's own empty.
  template <class T>
  static Object make(const Shape& shape) {
    struct Block {
      dlpack::Versioned managed;
      int64_t shape[kMaxDims], stride[kMaxDims];
    };
    constexpr size_t kAlignment = 64;  // torch's own. (aligned_alloc is several times as slow.)
    const int64_t bytes = product(shape) * static_cast<int64_t>(sizeof(T));
    auto* const block = static_cast<Block*>(std::malloc(sizeof(Block) + kAlignment + static_cast<size_t>(bytes)));
    if (block == nullptr) throw Declined{};
    const auto end = reinterpret_cast<uintptr_t>(block + 1);
    void* const memory = reinterpret_cast<void*>((end + kAlignment - 1) / kAlignment * kAlignment);
    const auto ndim = static_cast<int32_t>(shape.size());
    int64_t next = 1;
    for (int32_t d = ndim; d-- > 0; next *= max_of<int64_t>(shape[d], 1)) {
      block->shape[d] = shape[d];
      block->stride[d] = next;
    }
    constexpr uint8_t kCode = std::is_same_v<T, bool>       ? dlpack::kBool
                              : std::is_floating_point_v<T> ? dlpack::kFloat
                              : std::is_signed_v<T>         ? dlpack::kInt
                                                            : dlpack::kUInt;
    const dlpack::Tensor tensor = {memory,       dlpack::kCpu,  0, ndim, kCode, 8 * sizeof(T), 1,
                                   block->shape, block->stride, 0};
    block->managed = {1, 0, nullptr, [](dlpack::Versioned* managed) { std::free(managed); }, 0, tensor};
    void* made = nullptr;
    if (torch.exchange->adopt(&block->managed, &made) != 0) throw PythonError{};
    Object object = Object::stolen(static_cast<PyObject*>(made));
    object.memory = memory;
    return object;
  }
  static void* data(const Object& made) { return made.memory; }

  template <class Args>
  void run(const Need& need, const Args& args) const {
    const torch_ops::Pool pool;
    const Workspace scratch(dlm_cpu_workspace_bytes(need.rows, need.batch, need.num_suppress,
                                                    need.filtered ? need.vocab : 0, pool.threads));
    if (scratch.data == nullptr) throw Declined{};
    if (seeds_.has_value()) seeds_->draw();  // last of all, for what is declined draws again
    Rejected rejected = {};
    PyThreadState* const python = PyEval_SaveThread();
    const int32_t status = call_cpu(args, &pool, scratch.data, &rejected.error);
    PyEval_RestoreThread(python);
    if (status != 0) throw rejected;
  }

 private:
  // Seeds that torch draws, in the tensor of the call before where that had as many: making one takes half as long as
  // the draw.
  class Seeds {
   public:
    explicit Seeds(int64_t n)
        : size_(n), tensor_(std::exchange(kept().size, -1) == n ? std::move(kept().tensor) : make<int64_t>({n})) {}
    Seeds(const Seeds&) = delete;
    ~Seeds() {
      kept().size = size_;
      kept().tensor = std::move(tensor_);
    }
    void* memory() const { return tensor_.memory; }
    void draw() const {
      static PyObject* const name = PyUnicode_InternFromString("random_");
      Object::stolen(PyObject_CallMethodObjArgs(tensor_.get(), name, nullptr));
    }

   private:
    struct Kept {
      int64_t size = -1;
      Object tensor{nullptr};
    };
    static Kept& kept() {  // under the GIL; never destroyed, since Python ends before statics do
      static Kept& one = *new Kept;
      return one;
    }
    const int64_t size_;
    Object tensor_;
  };

  static int32_t dtype_of(const dlpack::Tensor& t) {
    if (t.lanes != 1) return kOtherDType;
    switch (t.code) {
      case dlpack::kFloat:
        return t.bits == 32 ? kFloat32 : t.bits == 16 ? kFloat16 : t.bits == 64 ? kFloat64 : kOtherDType;
      case dlpack::kBFloat: return t.bits == 16 ? kBFloat16 : kOtherDType;
      case dlpack::kInt: return t.bits == 64 ? kInt64 : t.bits == 32 ? kInt32 : kOtherDType;
      case dlpack::kBool: return kBool;
      default: return kOtherDType;
    }
  }
  static bool is_float(int32_t dtype) {
    return dtype == kFloat32 || dtype == kBFloat16 || dtype == kFloat16 || dtype == kFloat64;
  }
  // As the imaginary part of a lazy conjugate is; DLPack does not tell.
  static bool is_negated(const Object& value) {
    static PyObject* const name = PyUnicode_InternFromString("is_neg");
    const Object found = Object::stolen(PyObject_CallMethodObjArgs(value.get(), name, nullptr));
    return found.get() != Py_False;
  }

  const Object& anchor_;
  Numbers numbers_;
  std::optional<Seeds> seeds_;
};

// ---- Python's arguments as those of an op
// ----------------------------------------------------------------------------

template <class T>
struct Of;
template <>
struct Of<Object> {
  static Object value(PyObject* p) { return Object(p); }
};
template <>
struct Of<bool> {
  static bool value(PyObject* p) {
    if (p != Py_True && p != Py_False) throw Declined{};
    return p == Py_True;
  }
};
template <>
struct Of<double> {
  static double value(PyObject* p) { return real(p); }
};
template <>
struct Of<int64_t> {
  static int64_t value(PyObject* p) { return integer(p); }
};
template <>
struct Of<std::string> {
  static std::string value(PyObject* p) {
    Py_ssize_t size = 0;
    const char* const text = PyUnicode_Check(p) ? PyUnicode_AsUTF8AndSize(p, &size) : nullptr;
    if (text == nullptr) {
      PyErr_Clear();
      throw Declined{};
    }
    return std::string(text, static_cast<size_t>(size));
  }
};
template <class T>
struct Of<std::optional<T>> {
  static std::optional<T> value(PyObject* p) {
    if (p == Py_None) return std::nullopt;
    return Of<T>::value(p);
  }
};

// What Python makes of the exceptions above.
template <class Body>
PyObject* answered(Body body) {
  try {
    return body();
  } catch (const Declined&) {
    Py_INCREF(Py_NotImplemented);
    return Py_NotImplemented;
  } catch (const Rejected& e) {
    const int32_t kind = e.error.kind;
    PyErr_SetString(kind == 1 ? PyExc_ValueError : kind == 2 ? PyExc_TypeError : PyExc_RuntimeError, e.error.text);
  } catch (const PythonError&) {
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  }
  return nullptr;
}

// An op as a function of Python.
template <auto op>
struct Function;
template <class... Results, class... Parameters, std::tuple<Results...> (*op)(Parameters...)>
struct Function<op> {
  static PyObject* call(PyObject*, PyObject* const* values, Py_ssize_t count) {
    return answered([&] {
      if (count != sizeof...(Parameters) || is_watched()) throw Declined{};
      return tuple_of(run(values, std::index_sequence_for<Parameters...>{}), std::index_sequence_for<Results...>{});
    });
  }

 private:
  template <size_t... i>
  static std::tuple<Results...> run(PyObject* const* values, std::index_sequence<i...>) {
    return op(Of<std::decay_t<Parameters>>::value(values[i])...);
  }
  template <size_t... i>
  static PyObject* tuple_of(std::tuple<Results...> results, std::index_sequence<i...>) {
    Object tuple = Object::stolen(PyTuple_New(sizeof...(i)));
    (PyTuple_SetItem(tuple.get(), i, std::get<i>(results).release()), ...);
    return tuple.release();
  }
};

// connect(torch.Tensor, its exchange API, three functions that say who watches, the dispatcher's keys where nobody
// does): from now on calls are not declined.
inline PyObject* connect(PyObject*, PyObject* arguments) {
  return answered([&]() -> PyObject* {
    PyObject *tensor, *capsule, *profiled, *function_modes, *keys;
    unsigned long long plain[2];
    if (!PyArg_ParseTuple(arguments, "OOOOO(KK)", &tensor, &capsule, &profiled, &function_modes, &keys, &plain[0],
                          &plain[1])) {
      throw PythonError{};
    }
    const auto* const exchange = static_cast<dlpack::Exchange*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    if (exchange == nullptr) throw PythonError{};
    if (exchange->major != 1 || exchange->view == nullptr) return Object(Py_False).release();
    torch.tensor = reinterpret_cast<PyTypeObject*>(Object(tensor).release());
    torch.profiled = Object(profiled).release();
    torch.function_modes = Object(function_modes).release();
    torch.keys = Object(keys).release();
    torch.raw_repr = PyUnicode_InternFromString("raw_repr");
    torch.plain = {plain[0], plain[1]};
    torch.exchange = exchange;
    return Object(Py_True).release();
  });
}

template <auto op>
PyMethodDef method(const char* name) {
  const auto call = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&Function<op>::call));
  return {name, call, METH_FASTCALL, nullptr};
}

inline PyMethodDef* functions() {
  using O = Ops<Call>;
  static PyMethodDef all[] = {
      {"connect", &connect, METH_VARARGS, nullptr},
      method<&O::row_stats>("row_stats"),
      method<&O::row_kl>("row_kl"),
      method<&O::draw_tokens>("draw_tokens"),
      method<&O::denoise_step>("denoise_step_"),
      method<&O::topk_unmask>("topk_unmask_"),
      method<&O::remask>("remask_"),
      method<&O::renoise_step>("renoise_step_"),
      method<&O::transition_step>("transition_step_"),
      method<&O::q_sample>("q_sample"),
      {nullptr, nullptr, 0, nullptr},
  };
  return all;
}

}  // namespace dlm::eager
