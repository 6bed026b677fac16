// The ops for torch tensors: ops.h over LibTorch's stable ABI, for a device. Schemas and fake kernels are in
// dlm_kernels/_ops.py.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <stdexcept>
#include <string>

#include "../ops.h"

namespace dlm::torch_ops {

struct Name : std::string {
  using std::string::string;
};

}  // namespace dlm::torch_ops

// torch's own for std::string loses one in every call, up to 2.13: https://github.com/pytorch/pytorch/issues/191340
template <>
struct torch::stable::detail::ToImpl<dlm::torch_ops::Name> {
  static dlm::torch_ops::Name call(StableIValue value, uint64_t, bool) {
    const auto handle = to<StringHandle>(value);
    size_t length;
    const char* text;
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &text));
    dlm::torch_ops::Name name(text, length);
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return name;
  }
};

namespace dlm::torch_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline int32_t dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return kFloat32;
    case ScalarType::BFloat16: return kBFloat16;
    case ScalarType::Half: return kFloat16;
    case ScalarType::Double: return kFloat64;
    case ScalarType::Long: return kInt64;
    case ScalarType::Int: return kInt32;
    case ScalarType::Bool: return kBool;
    default: return kOtherDType;
  }
}

template <class T>
constexpr ScalarType scalar_type = ScalarType::Long;
template <>
constexpr ScalarType scalar_type<int32_t> = ScalarType::Int;
template <>
constexpr ScalarType scalar_type<float> = ScalarType::Float;
template <>
constexpr ScalarType scalar_type<bool> = ScalarType::Bool;
template <>
constexpr ScalarType scalar_type<uint8_t> = ScalarType::Byte;

// The Python layer reads the kind from this mark and raises that error. No STD_TORCH_CHECK: its string stream crashes
// where a compiler links a libstdc++ of its own into this library.
[[noreturn]] inline void fail(const std::string& kind, const std::string& text) {
  throw std::runtime_error("[dlm_kernels:" + kind + "] " + text + "[end]");
}

// Contiguous, on the device of `like`. torch::stable::new_empty looks the operator up by its name and boxes what it is
// given; a small step would spend half its time there.
template <class T>
Tensor make_like(const Tensor& like, const Shape& shape) {
  const int64_t elements = product(shape);
  const auto no_memory = [&] {
    fail("OutOfMemoryError",
         "not enough memory for " + std::to_string(elements) + " x " + std::to_string(sizeof(T)) + " bytes");
  };
  if (elements == kTooMany) no_memory();
  Shape stride(shape.size());
  int64_t next = 1;
  for (size_t d = shape.size(); d-- > 0; next *= shape[d] > 0 ? shape[d] : 1) stride[d] = next;
  int32_t device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle made;
  const AOTITorchError status =
      aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), stride.data(),
                               torch::stable::detail::to<int32_t>(torch::stable::detail::from(scalar_type<T>)),
                               device_type, like.get_device_index(), &made);
  if (status != TORCH_SUCCESS) no_memory();
  return Tensor(made);
}

// A Device has: ordinal(tensor), -1 for the CPU; a constructor from (a tensor of the device, Need); and call(args,
// error) for each kind of args, which runs the op.
template <class Device>
class Call {
 public:
  using Tensor = torch_ops::Tensor;
  using Name = torch_ops::Name;

  Call(const char* name, const Tensor& anchor) : anchor_(anchor) { must_be(name, anchor); }

  // Dimensions beyond kMaxDims keep their number, which validation rejects, and their first extents, which it prints.
  static Array read(const char* name, const Tensor& t) {
    try {
      return array_of(t);
    } catch (const std::exception&) {
      must_be(name, t);
      throw;
    }
  }
  // Copies that torch made lazily are made now.
  static Array write(const char* name, Tensor& t) {
    Array a = read(name, t);
    a.data = t.mutable_data_ptr();
    return a;
  }
  static Array numbers(const char* name, const Tensor& t, DType) { return read(name, t); }
  static Array ids(const char* name, const Tensor& t) { return read(name, t); }

  template <class T>
  Tensor make(const Shape& shape) const {
    return make_like<T>(anchor_, shape);
  }
  static void* data(Tensor& t) { return t.mutable_data_ptr(); }

  template <class Args>
  void run(const Need& need, const Args& args) const {
    dlm_error error;
    const int32_t status = Device(anchor_, need).call(args, &error);
    if (status == 0) return;
    fail(status == 1 ? "ValueError" : status == 2 ? "TypeError" : "RuntimeError", error.text);
  }

 private:
  static Array array_of(const Tensor& t) {
    Array a;
    a.data = const_cast<void*>(t.const_data_ptr());
    a.dtype = dtype_of(t);
    a.device = Device::ordinal(t);
    a.ndim = static_cast<int32_t>(t.dim());
    for (int32_t d = 0; d < a.ndim && d < kMaxDims; ++d) {
      a.shape[d] = t.size(d);
      a.stride[d] = t.stride(d);
    }
    return a;
  }

  // A schema's Tensor may be None nevertheless: torch then hands over one that is undefined.
  static void must_be(const char* name, const Tensor& t) {
    if (!t.defined()) fail("TypeError", std::string(name) + ": must be a torch.Tensor, got NoneType");
  }

  const Tensor& anchor_;
};

// In the body of a STABLE_TORCH_LIBRARY_IMPL.
template <class Device, class Library>
void implement(Library& m) {
  using O = Ops<Call<Device>>;
  m.impl("row_stats", TORCH_BOX(&O::row_stats));
  m.impl("row_kl", TORCH_BOX(&O::row_kl));
  m.impl("draw_tokens", TORCH_BOX(&O::draw_tokens));
  m.impl("denoise_step_", TORCH_BOX(&O::denoise_step));
  m.impl("topk_unmask_", TORCH_BOX(&O::topk_unmask));
  m.impl("remask_", TORCH_BOX(&O::remask));
  m.impl("renoise_step_", TORCH_BOX(&O::renoise_step));
  m.impl("transition_step_", TORCH_BOX(&O::transition_step));
  m.impl("q_sample", TORCH_BOX(&O::q_sample));
}

}  // namespace dlm::torch_ops
