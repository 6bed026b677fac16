// The ops for torch tensors, written once over a Device: tensors become PODs, outputs and workspace are allocated, the
// device's C entry is called, its status becomes an exception. Schemas and fake kernels are in dlm_kernels/_ops.py.
#pragma once

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

namespace dlm::torch_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

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

inline std::vector<int64_t> leading_shape(const Tensor& t, int64_t dims) {
  std::vector<int64_t> shape;
  for (int64_t d = 0; d < dims && d < t.dim(); ++d) shape.push_back(t.size(d));
  return shape;
}

inline int64_t product(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (int64_t s : shape) n *= s;
  return n;
}

inline int64_t vocab_of(const Tensor& logits) { return logits.dim() > 0 ? logits.size(logits.dim() - 1) : 0; }

inline Tensor make_like(const Tensor& like, const std::vector<int64_t>& shape, ScalarType type) {
  return torch::stable::new_empty(like, shape, type);
}

template <class T>
T* data(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// What a call needs besides its arguments.
struct Need {
  int64_t rows = 0, vocab = 0, batch = 0, num_suppress = 0;  // vocab 0: no logits are read
  bool filtered = false;
};

// A Device has: ordinal(tensor), -1 for the CPU; a constructor from (a tensor of the device, Need); and call(args,
// error) for each kind of args, which runs the op.
template <class Device>
struct Ops {
  // Dimensions beyond kMaxDims keep their number, which validation rejects, and their first extents, which it prints.
  static Array view(const Tensor& t) {
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
  static Array view(const MaybeTensor& t) { return t.has_value() ? view(*t) : Array{}; }

  // The Python layer reads the kind from this mark and raises ValueError or TypeError.
  template <class Args>
  static void run(const Tensor& anchor, const Need& need, const Args& args) {
    dlm_error error;
    const int32_t status = Device(anchor, need).call(args, &error);
    const char* kind = status == 1 ? "ValueError" : status == 2 ? "TypeError" : "RuntimeError";
    STD_TORCH_CHECK(status == 0, "[dlm_kernels:", kind, "] ", error.text, "[end]");
  }

  static SweepParams sweep_params(const Tensor& logits, const Tensor& temperature, const MaybeTensor& uncond,
                                  double cfg_scale, const MaybeTensor& suppress, double softcap = 0) {
    SweepParams s;
    s.logits = view(logits);
    s.temperature = view(temperature);
    s.uncond = view(uncond);
    s.cfg_scale = cfg_scale;
    s.suppress = view(suppress);
    s.softcap = softcap;
    return s;
  }

  // `order` is kept by address.
  static void filter(SweepParams* s, const MaybeTensor& top_k, const MaybeTensor& top_p, const MaybeTensor& min_p,
                     const std::string& order, bool drop_crossing, bool keep_ties) {
    s->top_k = view(top_k);
    s->top_p = view(top_p);
    s->min_p = view(min_p);
    s->filter_order = order.c_str();
    s->drop_crossing = drop_crossing;
    s->keep_ties = keep_ties;
  }

  // Of a tensor that the op writes: copies that torch made lazily are made now.
  static Array written(Tensor& t) {
    Array a = view(t);
    a.data = t.mutable_data_ptr();
    return a;
  }
  static Array written(MaybeTensor& t) { return t.has_value() ? written(*t) : Array{}; }

  static DecideParams decide_params(Tensor& x, int64_t window_start, int64_t window_stop, const MaybeTensor& frozen,
                                    MaybeTensor& trace, MaybeTensor& trace_steps, const MaybeTensor& step) {
    DecideParams p;
    p.x = written(x);
    p.has_mask = false;
    p.window_start = window_start;
    p.window_stop = window_stop;
    p.frozen = view(frozen);
    p.trace = {written(trace), written(trace_steps), view(step)};
    return p;
  }
  // Only masks are open.
  static void mask_only(DecideParams* p, std::optional<int64_t> mask_id) {
    p->has_mask = mask_id.has_value();
    p->mask_id = mask_id.value_or(0);
  }

  static bool any(const MaybeTensor& a, const MaybeTensor& b, const MaybeTensor& c) {
    return a.has_value() || b.has_value() || c.has_value();
  }
  static int64_t count(const MaybeTensor& ids) { return ids.has_value() ? ids->numel() : 0; }

  using Eight = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

  static Eight row_stats(const Tensor& logits, const Tensor& temperature, const MaybeTensor& given,
                         const MaybeTensor& uncond_logits, double cfg_scale, const MaybeTensor& suppress) {
    const auto shape = leading_shape(logits, logits.dim() - 1);
    const auto make = [&](ScalarType type) { return make_like(logits, shape, type); };
    Tensor argmax = make(ScalarType::Long), max = make(ScalarType::Float), logsumexp = make(ScalarType::Float),
           second = make(ScalarType::Float), rest = make(ScalarType::Float), entropy = make(ScalarType::Float),
           p_given = make(ScalarType::Float), bad = make(ScalarType::Bool);
    RowStatsArgs a;
    a.sweep = sweep_params(logits, temperature, uncond_logits, cfg_scale, suppress);
    a.given = view(given);
    a.out = {data<int64_t>(argmax), data<float>(max),     data<float>(logsumexp), data<float>(second),
             data<float>(rest),     data<float>(entropy), data<float>(p_given),   data<bool>(bad)};
    run(logits, {product(shape), vocab_of(logits), 0, count(suppress)}, a);
    return {argmax, max, logsumexp, second, rest, entropy, p_given, bad};
  }

  static std::tuple<Tensor, Tensor> row_kl(const Tensor& logits, const Tensor& previous, const Tensor& temperature,
                                           const MaybeTensor& wanted) {
    const auto shape = leading_shape(logits, logits.dim() - 1);
    Tensor kl = make_like(logits, shape, ScalarType::Float), bad = make_like(logits, shape, ScalarType::Bool);
    run(logits, {},
        DivergenceArgs{
            view(logits), view(previous), view(temperature), view(wanted), {data<float>(kl), data<bool>(bad)}});
    return {kl, bad};
  }

  using Six = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

  static Six draw_tokens(const Tensor& logits, const Tensor& temperature, const Tensor& seed, const Tensor& step,
                         const MaybeTensor& start, const MaybeTensor& rows, int64_t length, int64_t shift,
                         const MaybeTensor& suppress, const MaybeTensor& demote, const MaybeTensor& uncond_logits,
                         double cfg_scale, const MaybeTensor& top_k, const MaybeTensor& top_p, const MaybeTensor& min_p,
                         const std::string& filter_order, bool drop_crossing, bool keep_ties,
                         const MaybeTensor& uniform, const MaybeTensor& given, const std::string& confidence,
                         const std::string& confidence_from, const std::string& conf_dtype, double rank_temperature) {
    const auto shape = leading_shape(logits, logits.dim() - 1);
    const auto make = [&](ScalarType type) { return make_like(logits, shape, type); };
    Tensor tokens = make(ScalarType::Long), score = make(ScalarType::Float), key = make(ScalarType::Float),
           logprob = make(ScalarType::Float), entropy = make(ScalarType::Float), bad = make(ScalarType::Bool);
    DrawArgs a;
    a.sweep = sweep_params(logits, temperature, uncond_logits, cfg_scale, suppress);
    filter(&a.sweep, top_k, top_p, min_p, filter_order, drop_crossing, keep_ties);
    a.place = {view(start), view(rows), length, shift};
    a.draw = {view(seed),  view(step),         view(uniform),           view(demote),
              view(given), confidence.c_str(), confidence_from.c_str(), conf_dtype.c_str()};
    a.draw.rank_temperature = rank_temperature;
    a.out = {data<int64_t>(tokens), data<float>(score),   data<float>(key),
             data<float>(logprob),  data<float>(entropy), data<bool>(bad)};
    run(logits, {product(shape), vocab_of(logits), 0, count(suppress), any(top_k, top_p, min_p)}, a);
    return {tokens, score, key, logprob, entropy, bad};
  }

  static Six denoise_step(Tensor x, const Tensor& logits, const Tensor& temperature, const Tensor& seed,
                          const Tensor& step, const Tensor& quota, std::optional<int64_t> mask_id,
                          const std::string& rule, double level, double low, bool strict, const MaybeTensor& ready,
                          std::optional<double> edit, MaybeTensor edits_left, MaybeTensor edited,
                          MaybeTensor num_edited, int64_t window_start, int64_t window_stop, const MaybeTensor& frozen,
                          const MaybeTensor& start, const MaybeTensor& rows, int64_t shift, const MaybeTensor& suppress,
                          const MaybeTensor& demote, const MaybeTensor& uncond_logits, double cfg_scale,
                          const MaybeTensor& top_k, const MaybeTensor& top_p, const MaybeTensor& min_p,
                          const std::string& filter_order, bool drop_crossing, bool keep_ties,
                          const MaybeTensor& uniform, const std::string& confidence, const std::string& confidence_from,
                          const std::string& conf_dtype, double rank_temperature, MaybeTensor trace,
                          MaybeTensor trace_steps) {
    const auto shape = leading_shape(logits, logits.dim() - 1);
    const auto batch = leading_shape(x, 1);
    Tensor tokens = make_like(x, shape, x.scalar_type()), score = make_like(x, shape, ScalarType::Float),
           committed = make_like(x, shape, ScalarType::Bool), num_committed = make_like(x, batch, ScalarType::Long),
           num_open = make_like(x, batch, ScalarType::Long), num_bad = make_like(x, batch, ScalarType::Long);
    StepArgs a;
    a.sweep = sweep_params(logits, temperature, uncond_logits, cfg_scale, suppress);
    filter(&a.sweep, top_k, top_p, min_p, filter_order, drop_crossing, keep_ties);
    a.place = {view(start), view(rows), 0, shift};
    a.draw = {view(seed), view(step),         view(uniform),           view(demote),
              Array{},    confidence.c_str(), confidence_from.c_str(), conf_dtype.c_str()};
    a.draw.rank_temperature = rank_temperature;
    a.decide = decide_params(x, window_start, window_stop, frozen, trace, trace_steps, step);
    mask_only(&a.decide, mask_id);
    a.decide.edit = {edit.has_value(), edit.value_or(0), written(edits_left), written(edited), written(num_edited)};
    a.decide.ready = view(ready);
    if (a.decide.edit.on) a.decide.writes = kMask | kToken;
    a.decide.quota = view(quota);
    a.decide.rule = rule.c_str();
    a.decide.level = level;
    a.decide.low = low;
    a.decide.strict = strict;
    a.out.tokens = tokens.mutable_data_ptr();
    a.out.confidence = data<float>(score);
    a.out.unmask = {data<bool>(committed), data<int64_t>(num_committed), data<int64_t>(num_open),
                    data<int64_t>(num_bad)};
    run(x, {product(shape), vocab_of(logits), product(batch), count(suppress), any(top_k, top_p, min_p)}, a);
    return {tokens, score, committed, num_committed, num_open, num_bad};
  }

  using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

  static Four run_unmask(const Tensor& x, const std::vector<int64_t>& shape, UnmaskArgs& a) {
    const auto batch = leading_shape(x, 1);
    Tensor written = make_like(x, shape, ScalarType::Bool), num_written = make_like(x, batch, ScalarType::Long),
           num_open = make_like(x, batch, ScalarType::Long), num_bad = make_like(x, batch, ScalarType::Long);
    a.out = {data<bool>(written), data<int64_t>(num_written), data<int64_t>(num_open), data<int64_t>(num_bad)};
    run(x, {product(shape), 0, product(batch), 0}, a);
    return {written, num_written, num_open, num_bad};
  }

  static Four topk_unmask(Tensor x, const Tensor& tokens, const Tensor& confidence, const Tensor& quota,
                          std::optional<int64_t> mask_id, int64_t window_start, int64_t window_stop,
                          const MaybeTensor& frozen, const MaybeTensor& start, const MaybeTensor& rows,
                          const MaybeTensor& step, MaybeTensor trace, MaybeTensor trace_steps) {
    UnmaskArgs a;
    a.tokens = view(tokens);
    a.confidence = view(confidence);
    a.place = {view(start), view(rows), 0, 0};
    a.decide = decide_params(x, window_start, window_stop, frozen, trace, trace_steps, step);
    mask_only(&a.decide, mask_id);
    a.decide.quota = view(quota);
    return run_unmask(x, leading_shape(tokens, tokens.dim()), a);
  }

  static Four remask(Tensor x, const Tensor& confidence, const Tensor& quota, int64_t mask_id, double below,
                     int64_t window_start, int64_t window_stop, const MaybeTensor& frozen, const MaybeTensor& start,
                     const MaybeTensor& rows, const MaybeTensor& step, MaybeTensor trace, MaybeTensor trace_steps) {
    UnmaskArgs a;
    a.remask = true;
    a.below = below;
    a.confidence = view(confidence);
    a.place = {view(start), view(rows), 0, 0};
    a.decide = decide_params(x, window_start, window_stop, frozen, trace, trace_steps, step);
    mask_only(&a.decide, mask_id);
    a.decide.writes = kMask | kToken;  // the open ones are counted
    a.decide.quota = view(quota);
    return run_unmask(x, leading_shape(confidence, confidence.dim()), a);
  }

  using Seven = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

  static Seven renoise_step(Tensor x, const Tensor& logits, const Tensor& temperature, const Tensor& seed,
                            const Tensor& step, const Tensor& quota, int64_t mask_id, const std::string& rule,
                            double level, double low, bool strict, MaybeTensor committed, MaybeTensor argmax,
                            MaybeTensor unchanged, MaybeTensor done, MaybeTensor probs, int64_t stability,
                            double confident, int64_t window_start, int64_t window_stop, const MaybeTensor& frozen,
                            const MaybeTensor& start, const MaybeTensor& rows, int64_t shift,
                            const MaybeTensor& suppress, const MaybeTensor& uncond_logits, double cfg_scale,
                            const MaybeTensor& top_k, const MaybeTensor& top_p, const MaybeTensor& min_p,
                            const std::string& filter_order, bool drop_crossing, bool keep_ties, double softcap,
                            const MaybeTensor& uniform, const std::string& confidence,
                            const std::string& confidence_from, const std::string& conf_dtype, MaybeTensor trace,
                            MaybeTensor trace_steps) {
    const auto shape = leading_shape(logits, logits.dim() - 1);
    const auto batch = leading_shape(x, 1);
    Tensor tokens = make_like(x, shape, x.scalar_type()), best = make_like(x, shape, x.scalar_type()),
           entropy = make_like(x, shape, ScalarType::Float), score = make_like(x, shape, ScalarType::Float),
           accepted = make_like(x, shape, ScalarType::Bool), num_accepted = make_like(x, batch, ScalarType::Long),
           num_open = make_like(x, batch, ScalarType::Long), num_bad = make_like(x, batch, ScalarType::Long);
    RenoiseArgs a;
    a.step.sweep = sweep_params(logits, temperature, uncond_logits, cfg_scale, suppress, softcap);
    filter(&a.step.sweep, top_k, top_p, min_p, filter_order, drop_crossing, keep_ties);
    a.step.place = {view(start), view(rows), 0, shift};
    a.step.draw = {view(seed), view(step),         view(uniform),           Array{},
                   Array{},    confidence.c_str(), confidence_from.c_str(), conf_dtype.c_str()};
    a.step.decide = decide_params(x, window_start, window_stop, frozen, trace, trace_steps, step);
    a.step.decide.committed = written(committed);
    a.step.decide.done = written(done);
    a.step.decide.quota = view(quota);
    a.step.decide.rule = rule.c_str();
    a.step.decide.level = level;
    a.step.decide.low = low;
    a.step.decide.strict = strict;
    a.step.out.tokens = tokens.mutable_data_ptr();
    a.step.out.confidence = data<float>(score);
    a.step.out.unmask = {data<bool>(accepted), data<int64_t>(num_accepted), data<int64_t>(num_open),
                         data<int64_t>(num_bad)};
    a.mask_id = mask_id;
    a.state = {written(argmax), written(unchanged), written(probs), stability, confident};
    a.out = {best.mutable_data_ptr(), data<float>(entropy)};
    run(x, {product(shape), vocab_of(logits), product(batch), count(suppress), any(top_k, top_p, min_p)}, a);
    return {tokens, best, entropy, score, accepted, num_accepted, num_bad};
  }

  static Six transition_step(Tensor x, const Tensor& logits, const Tensor& temperature, const Tensor& seed,
                             const Tensor& step, const Tensor& coefficients, int64_t mask_id,
                             const std::string& tempered, const std::string& redraw, double level, int64_t window_start,
                             int64_t window_stop, const MaybeTensor& frozen, const MaybeTensor& start,
                             const MaybeTensor& rows, int64_t shift, const MaybeTensor& suppress,
                             const MaybeTensor& uncond_logits, double cfg_scale, const MaybeTensor& top_k,
                             const MaybeTensor& top_p, const MaybeTensor& min_p, const std::string& filter_order,
                             bool drop_crossing, bool keep_ties, const MaybeTensor& uniform, MaybeTensor trace,
                             MaybeTensor trace_steps) {
    const auto shape = leading_shape(logits, logits.dim() - 1);
    const auto batch = leading_shape(x, 1);
    Tensor tokens = make_like(x, shape, x.scalar_type()), route = make_like(x, shape, ScalarType::Byte),
           p_current = make_like(x, shape, ScalarType::Float), score = make_like(x, shape, ScalarType::Float),
           num_changed = make_like(x, batch, ScalarType::Long), num_bad = make_like(x, batch, ScalarType::Long);
    TransitionArgs a;
    a.sweep = sweep_params(logits, temperature, uncond_logits, cfg_scale, suppress);
    filter(&a.sweep, top_k, top_p, min_p, filter_order, drop_crossing, keep_ties);
    a.place = {view(start), view(rows), 0, shift};
    a.draw.seed = view(seed);
    a.draw.step = view(step);
    a.draw.uniform = view(uniform);
    a.decide = decide_params(x, window_start, window_stop, frozen, trace, trace_steps, step);
    a.coefficients = view(coefficients);
    a.mask_id = mask_id;
    a.tempered = tempered.c_str();
    a.redraw = redraw.c_str();
    a.level = level;
    a.out.tokens = tokens.mutable_data_ptr();
    a.out.route = data<uint8_t>(route);
    a.out.p_current = data<float>(p_current);
    a.out.confidence = data<float>(score);
    a.out.num_changed = data<int64_t>(num_changed);
    a.out.num_bad = data<int64_t>(num_bad);
    run(x, {product(shape), vocab_of(logits), product(batch), count(suppress), any(top_k, top_p, min_p)}, a);
    return {tokens, route, p_current, score, num_changed, num_bad};
  }

  static std::tuple<Tensor, Tensor> q_sample(const Tensor& x, const Tensor& rates, const Tensor& seed,
                                             const Tensor& step, int64_t vocab_size, int64_t mask_id,
                                             const MaybeTensor& frozen, const MaybeTensor& uniform) {
    const auto shape = leading_shape(x, x.dim());
    Tensor x_t = make_like(x, shape, x.scalar_type()), route = make_like(x, shape, ScalarType::Byte);
    NoisingArgs a;
    a.x = view(x);
    a.rates = view(rates);
    a.frozen = view(frozen);
    a.seed = view(seed);
    a.step = view(step);
    a.uniform = view(uniform);
    a.vocab = vocab_size;
    a.mask_id = mask_id;
    a.out = {x_t.mutable_data_ptr(), data<uint8_t>(route)};
    run(x, {}, a);
    return {x_t, route};
  }
};

// In the body of a STABLE_TORCH_LIBRARY_IMPL.
template <class Device, class Library>
void implement(Library& m) {
  m.impl("row_stats", TORCH_BOX(&Ops<Device>::row_stats));
  m.impl("row_kl", TORCH_BOX(&Ops<Device>::row_kl));
  m.impl("draw_tokens", TORCH_BOX(&Ops<Device>::draw_tokens));
  m.impl("denoise_step_", TORCH_BOX(&Ops<Device>::denoise_step));
  m.impl("topk_unmask_", TORCH_BOX(&Ops<Device>::topk_unmask));
  m.impl("remask_", TORCH_BOX(&Ops<Device>::remask));
  m.impl("renoise_step_", TORCH_BOX(&Ops<Device>::renoise_step));
  m.impl("transition_step_", TORCH_BOX(&Ops<Device>::transition_step));
  m.impl("q_sample", TORCH_BOX(&Ops<Device>::q_sample));
}

}  // namespace dlm::torch_ops
