// NumPy entry, without torch: arrays become the same PODs, errors the same ValueError and TypeError.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "../api.h"

namespace py = pybind11;

namespace {

int32_t dtype_of(const py::array& a) {
  const char kind = a.dtype().kind(), order = a.dtype().byteorder();
  const auto size = a.itemsize();
  if (order == '>')
    throw py::type_error("logits: dtype must be of native byte order, got " + std::string(py::str(a.dtype())));
  if (kind == 'f')
    return size == 4 ? dlm::kFloat32 : size == 2 ? dlm::kFloat16 : size == 8 ? dlm::kFloat64 : dlm::kOtherDType;
  if (kind == 'i') return size == 8 ? dlm::kInt64 : size == 4 ? dlm::kInt32 : dlm::kOtherDType;
  return kind == 'b' ? dlm::kBool : dlm::kOtherDType;
}

dlm::Array view(const py::array& a) {
  dlm::Array out;
  out.data = const_cast<void*>(a.data());
  out.dtype = dtype_of(a);
  out.ndim = static_cast<int32_t>(a.ndim());
  for (int32_t d = 0; d < out.ndim && d < dlm::kMaxDims; ++d) {
    out.shape[d] = a.shape(d);
    out.stride[d] = a.strides(d) / a.itemsize();
  }
  return out;
}

dlm::Array view(const std::optional<py::array>& a) { return a.has_value() ? view(*a) : dlm::Array{}; }

// Threads for one call: NumPy has no pool to borrow.
struct Threads : dlm_executor {
  explicit Threads(int32_t n) {
    threads = n;
    self = nullptr;
    run = [](void*, int32_t workers, void (*work)(void*, int32_t), void* context) {
      std::vector<std::thread> others;
      for (int32_t i = 1; i < workers; ++i) others.emplace_back(work, context, i);
      work(context, 0);
      for (std::thread& t : others) t.join();
    };
  }
};

void raise_if(int32_t status, const dlm_error& error) {
  if (status == 0) return;
  if (status == 1) throw py::value_error(error.text);
  if (status == 2) throw py::type_error(error.text);
  throw std::runtime_error(error.text);
}

template <class T>
T* data(py::array& a) {
  return static_cast<T*>(a.mutable_data());
}

py::tuple row_stats(const py::array& logits, const py::array& temperature, const std::optional<py::array>& given,
                    const std::optional<py::array>& uncond_logits, double cfg_scale,
                    const std::optional<py::array>& suppress, int32_t threads) {
  std::vector<py::ssize_t> shape;
  for (py::ssize_t d = 0; d + 1 < logits.ndim(); ++d) shape.push_back(logits.shape(d));
  py::array_t<int64_t> argmax(shape);
  py::array_t<float> max(shape), logsumexp(shape), second(shape), rest(shape), entropy(shape), p_given(shape);
  py::array_t<bool> bad(shape);
  dlm::RowStatsArgs a;
  a.sweep.logits = view(logits);
  a.sweep.temperature = view(temperature);
  a.sweep.uncond = view(uncond_logits);
  a.sweep.cfg_scale = cfg_scale;
  a.sweep.suppress = view(suppress);
  a.given = view(given);
  a.out.argmax = data<int64_t>(argmax);
  a.out.max = data<float>(max);
  a.out.logsumexp = data<float>(logsumexp);
  a.out.second = data<float>(second);
  a.out.rest = data<float>(rest);
  a.out.entropy = data<float>(entropy);
  a.out.p_given = data<float>(p_given);
  a.out.bad = data<bool>(bad);
  const Threads executor(threads > 0 ? threads : 1);
  const int64_t ids = suppress.has_value() ? suppress->size() : 0;
  const auto bytes = static_cast<size_t>(dlm_cpu_workspace_bytes(bad.size(), 0, ids, 0, executor.threads));
  dlm_error error;
  int32_t status;
  {
    py::gil_scoped_release unlocked;
    const std::unique_ptr<void, decltype(&std::free)> scratch(std::malloc(bytes), &std::free);
    status = dlm_cpu_row_stats(&a, &executor, scratch.get(), &error);
  }
  raise_if(status, error);
  return py::make_tuple(argmax, max, logsumexp, second, rest, entropy, p_given, bad);
}

}  // namespace

PYBIND11_MODULE(_array, m) {
  m.def("row_stats", &row_stats, py::arg("logits").noconvert(), py::arg("temperature"), py::arg("given"),
        py::arg("uncond_logits"), py::arg("cfg_scale"), py::arg("suppress"), py::arg("threads"));
}
