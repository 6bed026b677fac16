// The torch entry of the kernel library, on LibTorch's stable ABI: one host-only binary for torch >= 2.10 and every
// Python >= 3.10. Schemas and fake kernels are in dlm_kernels/_ops.py; here are the implementations for CPU tensors.
#include <Python.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../api.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

int32_t dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return dlm::kFloat32;
    case ScalarType::BFloat16: return dlm::kBFloat16;
    case ScalarType::Half: return dlm::kFloat16;
    case ScalarType::Double: return dlm::kFloat64;
    case ScalarType::Long: return dlm::kInt64;
    case ScalarType::Int: return dlm::kInt32;
    case ScalarType::Bool: return dlm::kBool;
    default: return dlm::kOtherDType;
  }
}

// Dimensions beyond kMaxDims keep their number, which validation rejects, and their first extents, which it prints.
dlm::Array view(const Tensor& t) {
  dlm::Array a;
  a.data = const_cast<void*>(t.const_data_ptr());
  a.dtype = dtype_of(t);
  a.device = t.is_cpu() ? -1 : t.get_device_index();
  a.ndim = static_cast<int32_t>(t.dim());
  for (int32_t d = 0; d < a.ndim && d < dlm::kMaxDims; ++d) {
    a.shape[d] = t.size(d);
    a.stride[d] = t.stride(d);
  }
  return a;
}

dlm::Array view(const MaybeTensor& t) { return t.has_value() ? view(*t) : dlm::Array{}; }

// torch's intra-op pool runs the workers: set_num_threads holds, and no second pool fights its spinning threads.
struct Pool : dlm_executor {
  Pool() {
    threads = static_cast<int32_t>(torch::stable::get_num_threads());
    self = nullptr;
    run = [](void*, int32_t workers, void (*work)(void*, int32_t), void* context) {
      torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) work(context, static_cast<int32_t>(i));
      });
    };
  }
};

// The Python layer reads the kind from this mark and raises ValueError or TypeError.
void raise_if(int32_t status, const dlm_error& error) {
  const char* kind = status == 1 ? "ValueError" : status == 2 ? "TypeError" : "RuntimeError";
  STD_TORCH_CHECK(status == 0, "[dlm_kernels:", kind, "] ", error.text, "[end]");
}

class Outputs {
 public:
  explicit Outputs(const Tensor& like) : like_(like) {}
  Tensor make(const std::vector<int64_t>& shape, ScalarType type) const {
    return torch::stable::new_empty(like_, shape, type);
  }

 private:
  const Tensor& like_;
};

std::vector<int64_t> leading_shape(const Tensor& t, int64_t dims) {
  std::vector<int64_t> shape;
  for (int64_t d = 0; d < dims && d < t.dim(); ++d) shape.push_back(t.size(d));
  return shape;
}

int64_t product(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (int64_t s : shape) n *= s;
  return n;
}

Tensor workspace(const Outputs& out, const std::vector<int64_t>& shape, int64_t batch, const MaybeTensor& suppress,
                 const Pool& pool) {
  const int64_t ids = suppress.has_value() ? suppress->numel() : 0;
  // int64 elements: aligned for everything that is cut from it.
  return out.make({(dlm_cpu_workspace_bytes(product(shape), batch, ids, pool.threads) + 7) / 8}, ScalarType::Long);
}

template <class T>
T* data(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

dlm::SweepParams sweep_params(const Tensor& logits, const Tensor& temperature, const MaybeTensor& uncond,
                              double cfg_scale, const MaybeTensor& suppress) {
  dlm::SweepParams p;
  p.logits = view(logits);
  p.temperature = view(temperature);
  p.uncond = view(uncond);
  p.cfg_scale = cfg_scale;
  p.suppress = view(suppress);
  return p;
}

dlm::PlaceParams place_params(const MaybeTensor& start, const MaybeTensor& rows, int64_t length, int64_t shift) {
  dlm::PlaceParams p;
  p.start = view(start);
  p.rows = view(rows);
  p.length = length;
  p.shift = shift;
  return p;
}

dlm::DecideParams decide_params(const Tensor& x, const Tensor& quota, int64_t mask_id, int64_t window_start,
                                int64_t window_stop, const MaybeTensor& frozen) {
  dlm::DecideParams p;
  p.x = view(x);
  p.quota = view(quota);
  p.mask_id = mask_id;
  p.window_start = window_start;
  p.window_stop = window_stop;
  p.frozen = view(frozen);
  return p;
}

using Eight = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Eight row_stats(const Tensor& logits, const Tensor& temperature, const MaybeTensor& given,
                const MaybeTensor& uncond_logits, double cfg_scale, const MaybeTensor& suppress) {
  const Pool pool;
  const Outputs out(logits);
  const auto shape = leading_shape(logits, logits.dim() - 1);
  Tensor argmax = out.make(shape, ScalarType::Long), max = out.make(shape, ScalarType::Float),
         logsumexp = out.make(shape, ScalarType::Float), second = out.make(shape, ScalarType::Float),
         rest = out.make(shape, ScalarType::Float), entropy = out.make(shape, ScalarType::Float),
         p_given = out.make(shape, ScalarType::Float), bad = out.make(shape, ScalarType::Bool);
  dlm::RowStatsArgs a;
  a.sweep = sweep_params(logits, temperature, uncond_logits, cfg_scale, suppress);
  a.given = view(given);
  a.argmax = data<int64_t>(argmax);
  a.max = data<float>(max);
  a.logsumexp = data<float>(logsumexp);
  a.second = data<float>(second);
  a.rest = data<float>(rest);
  a.entropy = data<float>(entropy);
  a.p_given = data<float>(p_given);
  a.bad = data<bool>(bad);
  Tensor scratch = workspace(out, shape, 0, suppress, pool);
  dlm_error error;
  raise_if(dlm_cpu_row_stats(&a, &pool, scratch.mutable_data_ptr(), &error), error);
  return {argmax, max, logsumexp, second, rest, entropy, p_given, bad};
}

using Six = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Six draw_tokens(const Tensor& logits, const Tensor& temperature, const Tensor& seed, const Tensor& step,
                const MaybeTensor& start, const MaybeTensor& rows, int64_t length, int64_t shift,
                const MaybeTensor& suppress, const MaybeTensor& demote, const MaybeTensor& uncond_logits,
                double cfg_scale, const MaybeTensor& uniform, const std::string& confidence,
                const std::string& confidence_from, const std::string& conf_dtype) {
  const Pool pool;
  const Outputs out(logits);
  const auto shape = leading_shape(logits, logits.dim() - 1);
  Tensor tokens = out.make(shape, ScalarType::Long), score = out.make(shape, ScalarType::Float),
         key = out.make(shape, ScalarType::Float), logprob = out.make(shape, ScalarType::Float),
         entropy = out.make(shape, ScalarType::Float), bad = out.make(shape, ScalarType::Bool);
  dlm::DrawArgs a;
  a.sweep = sweep_params(logits, temperature, uncond_logits, cfg_scale, suppress);
  a.place = place_params(start, rows, length, shift);
  a.draw = {view(seed),        view(step), view(uniform), view(demote), confidence.c_str(), confidence_from.c_str(),
            conf_dtype.c_str()};
  a.tokens = data<int64_t>(tokens);
  a.confidence = data<float>(score);
  a.key = data<float>(key);
  a.logprob = data<float>(logprob);
  a.entropy = data<float>(entropy);
  a.bad = data<bool>(bad);
  Tensor scratch = workspace(out, shape, 0, suppress, pool);
  dlm_error error;
  raise_if(dlm_cpu_draw_tokens(&a, &pool, scratch.mutable_data_ptr(), &error), error);
  return {tokens, score, key, logprob, entropy, bad};
}

Six denoise_step(Tensor x, const Tensor& logits, const Tensor& temperature, const Tensor& seed, const Tensor& step,
                 const Tensor& quota, int64_t mask_id, const std::string& rule, double level, bool strict,
                 int64_t window_start, int64_t window_stop, const MaybeTensor& frozen, const MaybeTensor& start,
                 const MaybeTensor& rows, int64_t shift, const MaybeTensor& suppress, const MaybeTensor& demote,
                 const MaybeTensor& uncond_logits, double cfg_scale, const MaybeTensor& uniform,
                 const std::string& confidence, const std::string& confidence_from, const std::string& conf_dtype) {
  const Pool pool;
  const Outputs out(x);
  const auto shape = leading_shape(logits, logits.dim() - 1);
  const auto batch = leading_shape(x, 1);
  Tensor tokens = out.make(shape, x.scalar_type()), score = out.make(shape, ScalarType::Float),
         committed = out.make(shape, ScalarType::Bool), num_committed = out.make(batch, ScalarType::Long),
         num_open = out.make(batch, ScalarType::Long), num_bad = out.make(batch, ScalarType::Long);
  dlm::StepArgs a;
  a.sweep = sweep_params(logits, temperature, uncond_logits, cfg_scale, suppress);
  a.place = place_params(start, rows, 0, shift);
  a.draw = {view(seed),        view(step), view(uniform), view(demote), confidence.c_str(), confidence_from.c_str(),
            conf_dtype.c_str()};
  a.decide = decide_params(x, quota, mask_id, window_start, window_stop, frozen);
  a.decide.rule = rule.c_str();
  a.decide.level = level;
  a.decide.strict = strict;
  a.tokens = tokens.mutable_data_ptr();
  a.confidence = data<float>(score);
  a.committed = data<bool>(committed);
  a.num_committed = data<int64_t>(num_committed);
  a.num_open = data<int64_t>(num_open);
  a.num_bad = data<int64_t>(num_bad);
  Tensor scratch = workspace(out, shape, product(batch), suppress, pool);
  dlm_error error;
  raise_if(dlm_cpu_denoise_step(&a, &pool, scratch.mutable_data_ptr(), &error), error);
  return {tokens, score, committed, num_committed, num_open, num_bad};
}

using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Four topk_unmask(Tensor x, const Tensor& tokens, const Tensor& confidence, const Tensor& quota, int64_t mask_id,
                 int64_t window_start, int64_t window_stop, const MaybeTensor& frozen, const MaybeTensor& start,
                 const MaybeTensor& rows) {
  const Pool pool;
  const Outputs out(x);
  const auto shape = leading_shape(tokens, tokens.dim());
  const auto batch = leading_shape(x, 1);
  Tensor committed = out.make(shape, ScalarType::Bool), num_committed = out.make(batch, ScalarType::Long),
         num_open = out.make(batch, ScalarType::Long), num_bad = out.make(batch, ScalarType::Long);
  dlm::UnmaskArgs a;
  a.tokens = view(tokens);
  a.confidence = view(confidence);
  a.place = place_params(start, rows, 0, 0);
  a.decide = decide_params(x, quota, mask_id, window_start, window_stop, frozen);
  a.committed = data<bool>(committed);
  a.num_committed = data<int64_t>(num_committed);
  a.num_open = data<int64_t>(num_open);
  a.num_bad = data<int64_t>(num_bad);
  Tensor scratch = workspace(out, shape, product(batch), std::nullopt, pool);
  dlm_error error;
  raise_if(dlm_cpu_topk_unmask(&a, &pool, scratch.mutable_data_ptr(), &error), error);
  return {committed, num_committed, num_open, num_bad};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dlm_kernels, CPU, m) {
  m.impl("row_stats", TORCH_BOX(&row_stats));
  m.impl("draw_tokens", TORCH_BOX(&draw_tokens));
  m.impl("denoise_step_", TORCH_BOX(&denoise_step));
  m.impl("topk_unmask_", TORCH_BOX(&topk_unmask));
}

// Importing this module is what loads the registrations above.
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
PyMODINIT_FUNC PyInit__C(void) { return PyModule_Create(&module); }
