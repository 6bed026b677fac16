// The ops over the arrays of any library, written once: arguments become PODs, outputs are made, a backend runs. torch/
// and pybind/ bring the arrays. The signatures are the schemas of dlm_kernels/_ops.py.
#pragma once

#include <array>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "api.h"

namespace dlm {

// The C entries of a backend as one name.
inline int32_t call_cpu(const RowStatsArgs& a, const dlm_executor* executor, void* workspace, dlm_error* error) {
  return dlm_cpu_row_stats(&a, executor, workspace, error);
}
inline int32_t call_cpu(const DivergenceArgs& a, const dlm_executor* executor, void* workspace, dlm_error* error) {
  return dlm_cpu_row_kl(&a, executor, workspace, error);
}
inline int32_t call_cpu(const DrawArgs& a, const dlm_executor* executor, void* workspace, dlm_error* error) {
  return dlm_cpu_draw_tokens(&a, executor, workspace, error);
}
inline int32_t call_cpu(const StepArgs& a, const dlm_executor* executor, void* workspace, dlm_error* error) {
  return dlm_cpu_denoise_step(&a, executor, workspace, error);
}
inline int32_t call_cpu(const UnmaskArgs& a, const dlm_executor* executor, void* workspace, dlm_error* error) {
  return dlm_cpu_topk_unmask(&a, executor, workspace, error);
}
inline int32_t call_cpu(const RenoiseArgs& a, const dlm_executor* executor, void* workspace, dlm_error* error) {
  return dlm_cpu_renoise_step(&a, executor, workspace, error);
}
inline int32_t call_cpu(const TransitionArgs& a, const dlm_executor* executor, void* workspace, dlm_error* error) {
  return dlm_cpu_transition_step(&a, executor, workspace, error);
}
inline int32_t call_cpu(const NoisingArgs& a, const dlm_executor* executor, void* workspace, dlm_error* error) {
  return dlm_cpu_q_sample(&a, executor, workspace, error);
}

inline int32_t call_cuda(const RowStatsArgs& a, void* scratch, void* stream, dlm_error* error) {
  return dlm_cuda_row_stats(&a, scratch, stream, error);
}
inline int32_t call_cuda(const DivergenceArgs& a, void* scratch, void* stream, dlm_error* error) {
  return dlm_cuda_row_kl(&a, scratch, stream, error);
}
inline int32_t call_cuda(const DrawArgs& a, void* scratch, void* stream, dlm_error* error) {
  return dlm_cuda_draw_tokens(&a, scratch, stream, error);
}
inline int32_t call_cuda(const StepArgs& a, void* scratch, void* stream, dlm_error* error) {
  return dlm_cuda_denoise_step(&a, scratch, stream, error);
}
inline int32_t call_cuda(const UnmaskArgs& a, void* scratch, void* stream, dlm_error* error) {
  return dlm_cuda_topk_unmask(&a, scratch, stream, error);
}
inline int32_t call_cuda(const RenoiseArgs& a, void* scratch, void* stream, dlm_error* error) {
  return dlm_cuda_renoise_step(&a, scratch, stream, error);
}
inline int32_t call_cuda(const TransitionArgs& a, void* scratch, void* stream, dlm_error* error) {
  return dlm_cuda_transition_step(&a, scratch, stream, error);
}
inline int32_t call_cuda(const NoisingArgs& a, void* scratch, void* stream, dlm_error* error) {
  return dlm_cuda_q_sample(&a, scratch, stream, error);
}

using Shape = std::vector<int64_t>;

inline Shape leading_shape(const Array& a, int32_t dims) {
  const int32_t n = min_of(min_of(dims, a.ndim), kMaxDims);
  return Shape(a.shape, a.shape + max_of(n, 0));
}

// Sizes that are made from no more than this do not overflow, and no memory holds that many rows.
constexpr int64_t kTooMany = int64_t{1} << 44;

inline int64_t product(const Shape& shape) {
  return min_of(product(shape.data(), static_cast<int32_t>(shape.size())), kTooMany);
}

// Names reach the C ABI as C strings: one that a NUL ends early would pass for another.
inline const char* name_of(const std::string& name) {
  return name.find('\0') == std::string::npos ? name.c_str() : "a name with NUL in it";
}

// Numbers where an op takes arrays: [1] each, on the host, for as long as this lives.
class Numbers {
 public:
  template <class T>
  Array hold(T value) {
    void* const slot = &slots_.at(used_++);
    memcpy(slot, &value, sizeof value);
    return on_host(slot, std::is_same_v<T, float> ? kFloat32 : std::is_same_v<T, double> ? kFloat64 : kInt64, 1);
  }
  static Array on_host(void* data, DType dtype, int64_t size) {
    Array a;
    a.data = data;
    a.dtype = dtype;
    a.ndim = 1;
    a.shape[0] = size;
    a.stride[0] = 1;
    return a;
  }

 private:
  std::array<int64_t, 16> slots_;  // more than any op has
  size_t used_ = 0;
};

// Memory for the CPU backend to work in, for one call.
class Workspace {
 public:
  explicit Workspace(int64_t bytes)
      : large_(bytes > static_cast<int64_t>(sizeof small_) ? std::malloc(static_cast<size_t>(bytes)) : nullptr) {
    data = large_.get();
    if (bytes <= static_cast<int64_t>(sizeof small_)) data = small_;
  }
  void* data;  // null: there was none left

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  alignas(64) std::byte small_[1 << 13];  // where malloc would take longer than a small step
  const std::unique_ptr<void, Free> large_;
};

// What a call needs besides its arguments.
struct Need {
  int64_t rows = 0, vocab = 0, batch = 0, num_suppress = 0;  // vocab 0: no logits are read
  bool filtered = false;
};

// A Call is one call of an op, made from the name and value of the array on whose device it runs. It has
//   Tensor, Name                    the library's array type, and a std::string
//   read(name, tensor)              the Array of an argument that is read, write(name, tensor) of one that is written
//   numbers(name, tensor, dtype)    of one for which the library may take a number
//   ids(name, tensor)               of one for which it may take a list of token ids
//   make<T>(shape)                  a new contiguous tensor of T on the device, data(tensor) its memory
//   run(need, args)                 the backend's work; what goes wrong is thrown as the library's callers expect it
template <class Call>
struct Ops {
  using Tensor = typename Call::Tensor;
  using MaybeTensor = std::optional<Tensor>;
  using Name = typename Call::Name;

  template <class T>
  struct Output {
    Tensor tensor;
    T* data;
  };

  // A Call, and what follows from it: arguments that may be missing, outputs, groups of arguments.
  struct Op : Call {
    using Call::Call;
    using Call::ids, Call::numbers, Call::read, Call::write;

    Array read(const char* name, const MaybeTensor& t) { return t.has_value() ? read(name, *t) : Array{}; }
    Array write(const char* name, MaybeTensor& t) { return t.has_value() ? write(name, *t) : Array{}; }
    Array ids(const char* name, const MaybeTensor& t) { return t.has_value() ? ids(name, *t) : Array{}; }
    Array numbers(const char* name, const MaybeTensor& t, DType dtype) {
      return t.has_value() ? numbers(name, *t, dtype) : Array{};
    }

    template <class T>
    Output<T> make(const Shape& shape) {
      Tensor made = Call::template make<T>(shape);
      return {made, static_cast<T*>(Call::data(made))};
    }
    Output<int64_t> integers(const Shape& shape) { return make<int64_t>(shape); }
    Output<float> floats(const Shape& shape) { return make<float>(shape); }
    Output<bool> flags(const Shape& shape) { return make<bool>(shape); }
    Output<uint8_t> bytes(const Shape& shape) { return make<uint8_t>(shape); }
    // Of the canvas' dtype.
    Output<void> tokens(const Array& x, const Shape& shape) {
      Tensor made = x.dtype == kInt32 ? Call::template make<int32_t>(shape) : Call::template make<int64_t>(shape);
      return {made, Call::data(made)};
    }

    SweepParams sweep(const Tensor& logits, const Tensor& temperature, const MaybeTensor& uncond, double cfg_scale,
                      const MaybeTensor& suppress, double softcap = 0) {
      SweepParams s;
      s.logits = read("logits", logits);
      s.temperature = numbers("temperature", temperature, kFloat32);
      s.uncond = read("uncond_logits", uncond);
      s.cfg_scale = cfg_scale;
      s.suppress = ids("suppress", suppress);
      s.softcap = softcap;
      return s;
    }

    // `order` is kept by address.
    void filter(SweepParams* s, const MaybeTensor& top_k, const MaybeTensor& top_p, const MaybeTensor& min_p,
                const std::string& order, bool drop_crossing, bool keep_ties) {
      s->top_k = numbers("top_k", top_k, kInt64);
      s->top_p = numbers("top_p", top_p, kFloat64);
      s->min_p = numbers("min_p", min_p, kFloat64);
      s->filter_order = name_of(order);
      s->drop_crossing = drop_crossing;
      s->keep_ties = keep_ties;
    }

    PlaceParams place(const MaybeTensor& start, const MaybeTensor& rows, int64_t length = 0, int64_t shift = 0) {
      return {numbers("start", start, kInt64), read("rows", rows), length, shift};
    }

    DrawParams draw(const Tensor& seed, const Tensor& step, const MaybeTensor& uniform) {
      DrawParams d;
      d.seed = numbers("seed", seed, kInt64);
      d.step = numbers("step", step, kInt64);
      d.uniform = read("uniform", uniform);
      return d;
    }
    // The names are kept by address.
    static void score(DrawParams* d, const std::string& confidence, const std::string& from, const std::string& dtype) {
      d->confidence = name_of(confidence);
      d->confidence_from = name_of(from);
      d->conf_dtype = name_of(dtype);
    }

    // Every position is open; only_masks says otherwise.
    DecideParams decide(Tensor& x, int64_t window_start, int64_t window_stop, const MaybeTensor& frozen,
                        MaybeTensor& trace, MaybeTensor& trace_steps, const MaybeTensor& step) {
      DecideParams p;
      p.x = write("x", x);
      p.has_mask = false;
      p.window_start = window_start;
      p.window_stop = window_stop;
      p.frozen = read("frozen", frozen);
      p.trace = {write("trace", trace), write("trace_steps", trace_steps), numbers("step", step, kInt64)};
      return p;
    }
    static void only_masks(DecideParams* p, std::optional<int64_t> mask_id) {
      p->has_mask = mask_id.has_value();
      p->mask_id = mask_id.value_or(0);
    }
    // `name` is kept by address.
    void rule(DecideParams* p, const Tensor& quota, const std::string& name, double level, double low, bool strict) {
      p->quota = numbers("quota", quota, kInt64);
      p->rule = name_of(name);
      p->level = level;
      p->low = low;
      p->strict = strict;
    }
  };

  static Shape rows_of(const Array& logits) { return leading_shape(logits, logits.ndim - 1); }
  static Shape batch_of(const Array& x) { return leading_shape(x, 1); }

  static Need need(const SweepParams& s, const Shape& rows, const Shape& batch = {0}) {
    const bool filtered = given(s.top_k) || given(s.top_p) || given(s.min_p);
    const int64_t vocab = s.logits.ndim > 0 ? s.logits.shape[min_of(s.logits.ndim, kMaxDims) - 1] : 0;
    return {product(rows), min_of(vocab, kTooMany), product(batch),
            given(s.suppress) ? min_of(numel(s.suppress), kTooMany) : 0, filtered};
  }

  using Eight = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

  static Eight row_stats(const Tensor& logits, const Tensor& temperature, const MaybeTensor& given,
                         const MaybeTensor& uncond_logits, double cfg_scale, const MaybeTensor& suppress) {
    Op op("logits", logits);
    RowStatsArgs a;
    a.sweep = op.sweep(logits, temperature, uncond_logits, cfg_scale, suppress);
    a.given = op.read("given", given);
    const Shape rows = rows_of(a.sweep.logits);
    const auto argmax = op.integers(rows);
    const auto max = op.floats(rows), logsumexp = op.floats(rows), second = op.floats(rows), rest = op.floats(rows),
               entropy = op.floats(rows), p_given = op.floats(rows);
    const auto bad = op.flags(rows);
    a.out = {argmax.data, max.data, logsumexp.data, second.data, rest.data, entropy.data, p_given.data, bad.data};
    op.run(need(a.sweep, rows), a);
    return {argmax.tensor, max.tensor,     logsumexp.tensor, second.tensor,
            rest.tensor,   entropy.tensor, p_given.tensor,   bad.tensor};
  }

  static std::tuple<Tensor, Tensor> row_kl(const Tensor& logits, const Tensor& previous, const Tensor& temperature,
                                           const MaybeTensor& wanted) {
    Op op("logits", logits);
    DivergenceArgs a;
    a.logits = op.read("logits", logits);
    a.previous = op.read("previous", previous);
    a.temperature = op.numbers("temperature", temperature, kFloat32);
    a.wanted = op.read("wanted", wanted);
    const Shape rows = rows_of(a.logits);
    const auto kl = op.floats(rows);
    const auto bad = op.flags(rows);
    a.out = {kl.data, bad.data};
    op.run({}, a);
    return {kl.tensor, bad.tensor};
  }

  using Six = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

  static Six draw_tokens(const Tensor& logits, const Tensor& temperature, const Tensor& seed, const Tensor& step,
                         const MaybeTensor& start, const MaybeTensor& rows, int64_t length, int64_t shift,
                         const MaybeTensor& suppress, const MaybeTensor& demote, const MaybeTensor& uncond_logits,
                         double cfg_scale, const MaybeTensor& top_k, const MaybeTensor& top_p, const MaybeTensor& min_p,
                         const Name& filter_order, bool drop_crossing, bool keep_ties, const MaybeTensor& uniform,
                         const MaybeTensor& given, const Name& confidence, const Name& confidence_from,
                         const Name& conf_dtype, double rank_temperature) {
    Op op("logits", logits);
    DrawArgs a;
    a.sweep = op.sweep(logits, temperature, uncond_logits, cfg_scale, suppress);
    op.filter(&a.sweep, top_k, top_p, min_p, filter_order, drop_crossing, keep_ties);
    a.place = op.place(start, rows, length, shift);
    a.draw = op.draw(seed, step, uniform);
    a.draw.demote = op.ids("demote", demote);
    a.draw.current = op.read("given", given);
    op.score(&a.draw, confidence, confidence_from, conf_dtype);
    a.draw.rank_temperature = rank_temperature;
    const Shape shape = rows_of(a.sweep.logits);
    const auto tokens = op.integers(shape);
    const auto score = op.floats(shape), key = op.floats(shape), logprob = op.floats(shape), entropy = op.floats(shape);
    const auto bad = op.flags(shape);
    a.out = {tokens.data, score.data, key.data, logprob.data, entropy.data, bad.data};
    op.run(need(a.sweep, shape), a);
    return {tokens.tensor, score.tensor, key.tensor, logprob.tensor, entropy.tensor, bad.tensor};
  }

  static Six denoise_step(Tensor x, const Tensor& logits, const Tensor& temperature, const Tensor& seed,
                          const Tensor& step, const Tensor& quota, std::optional<int64_t> mask_id, const Name& rule,
                          double level, double low, bool strict, const MaybeTensor& ready, std::optional<double> edit,
                          MaybeTensor edits_left, MaybeTensor edited, MaybeTensor num_edited, int64_t window_start,
                          int64_t window_stop, const MaybeTensor& frozen, const MaybeTensor& start,
                          const MaybeTensor& rows, int64_t shift, const MaybeTensor& suppress,
                          const MaybeTensor& demote, const MaybeTensor& uncond_logits, double cfg_scale,
                          const MaybeTensor& top_k, const MaybeTensor& top_p, const MaybeTensor& min_p,
                          const Name& filter_order, bool drop_crossing, bool keep_ties, const MaybeTensor& uniform,
                          const Name& confidence, const Name& confidence_from, const Name& conf_dtype,
                          double rank_temperature, MaybeTensor trace, MaybeTensor trace_steps) {
    Op op("x", x);
    StepArgs a;
    a.sweep = op.sweep(logits, temperature, uncond_logits, cfg_scale, suppress);
    op.filter(&a.sweep, top_k, top_p, min_p, filter_order, drop_crossing, keep_ties);
    a.place = op.place(start, rows, 0, shift);
    a.draw = op.draw(seed, step, uniform);
    a.draw.demote = op.ids("demote", demote);
    op.score(&a.draw, confidence, confidence_from, conf_dtype);
    a.draw.rank_temperature = rank_temperature;
    a.decide = op.decide(x, window_start, window_stop, frozen, trace, trace_steps, step);
    op.only_masks(&a.decide, mask_id);
    op.rule(&a.decide, quota, rule, level, low, strict);
    a.decide.edit = {edit.has_value(), edit.value_or(0), op.write("edits_left", edits_left), op.write("edited", edited),
                     op.write("num_edited", num_edited)};
    if (a.decide.edit.on) a.decide.writes = kMask | kToken;
    a.decide.ready = op.read("ready", ready);
    const Shape shape = rows_of(a.sweep.logits), batch = batch_of(a.decide.x);
    const auto tokens = op.tokens(a.decide.x, shape);
    const auto score = op.floats(shape);
    const auto committed = op.flags(shape);
    const auto num_committed = op.integers(batch), num_open = op.integers(batch), num_bad = op.integers(batch);
    a.out = {tokens.data, score.data, {committed.data, num_committed.data, num_open.data, num_bad.data}};
    op.run(need(a.sweep, shape, batch), a);
    return {tokens.tensor, score.tensor, committed.tensor, num_committed.tensor, num_open.tensor, num_bad.tensor};
  }

  using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

  // `rows` is shaped like the rows; a.decide is filled.
  static Four run_unmask(Op& op, const Array& rows, UnmaskArgs& a) {
    const Shape shape = leading_shape(rows, rows.ndim), batch = batch_of(a.decide.x);
    const auto written = op.flags(shape);
    const auto num_written = op.integers(batch), num_open = op.integers(batch), num_bad = op.integers(batch);
    a.out = {written.data, num_written.data, num_open.data, num_bad.data};
    op.run({product(shape), 0, product(batch), 0}, a);
    return {written.tensor, num_written.tensor, num_open.tensor, num_bad.tensor};
  }

  static Four topk_unmask(Tensor x, const Tensor& tokens, const Tensor& confidence, const Tensor& quota,
                          std::optional<int64_t> mask_id, int64_t window_start, int64_t window_stop,
                          const MaybeTensor& frozen, const MaybeTensor& start, const MaybeTensor& rows,
                          const MaybeTensor& step, MaybeTensor trace, MaybeTensor trace_steps) {
    Op op("x", x);
    UnmaskArgs a;
    a.tokens = op.read("tokens", tokens);
    a.confidence = op.read("confidence", confidence);
    a.place = op.place(start, rows);
    a.decide = op.decide(x, window_start, window_stop, frozen, trace, trace_steps, step);
    op.only_masks(&a.decide, mask_id);
    a.decide.quota = op.numbers("quota", quota, kInt64);
    return run_unmask(op, a.tokens, a);
  }

  static Four remask(Tensor x, const Tensor& confidence, const Tensor& quota, int64_t mask_id, double below,
                     int64_t window_start, int64_t window_stop, const MaybeTensor& frozen, const MaybeTensor& start,
                     const MaybeTensor& rows, const MaybeTensor& step, MaybeTensor trace, MaybeTensor trace_steps) {
    Op op("x", x);
    UnmaskArgs a;
    a.remask = true;
    a.below = below;
    a.confidence = op.read("confidence", confidence);
    a.place = op.place(start, rows);
    a.decide = op.decide(x, window_start, window_stop, frozen, trace, trace_steps, step);
    op.only_masks(&a.decide, mask_id);
    a.decide.writes = kMask | kToken;  // the open ones are counted
    a.decide.quota = op.numbers("quota", quota, kInt64);
    return run_unmask(op, a.confidence, a);
  }

  static Eight renoise_step(Tensor x, const Tensor& logits, const Tensor& temperature, const Tensor& seed,
                            const Tensor& step, const Tensor& quota, int64_t mask_id, const Name& rule, double level,
                            double low, bool strict, MaybeTensor committed, MaybeTensor argmax, MaybeTensor unchanged,
                            MaybeTensor done, MaybeTensor probs, int64_t stability, double confident,
                            int64_t window_start, int64_t window_stop, const MaybeTensor& frozen,
                            const MaybeTensor& start, const MaybeTensor& rows, int64_t shift,
                            const MaybeTensor& suppress, const MaybeTensor& uncond_logits, double cfg_scale,
                            const MaybeTensor& top_k, const MaybeTensor& top_p, const MaybeTensor& min_p,
                            const Name& filter_order, bool drop_crossing, bool keep_ties, double softcap,
                            const MaybeTensor& uniform, const Name& confidence, const Name& confidence_from,
                            const Name& conf_dtype, MaybeTensor trace, MaybeTensor trace_steps) {
    Op op("x", x);
    RenoiseArgs a;
    SweepParams& sweep = a.step.sweep;
    DecideParams& decide = a.step.decide;
    sweep = op.sweep(logits, temperature, uncond_logits, cfg_scale, suppress, softcap);
    op.filter(&sweep, top_k, top_p, min_p, filter_order, drop_crossing, keep_ties);
    a.step.place = op.place(start, rows, 0, shift);
    a.step.draw = op.draw(seed, step, uniform);
    op.score(&a.step.draw, confidence, confidence_from, conf_dtype);
    decide = op.decide(x, window_start, window_stop, frozen, trace, trace_steps, step);
    op.rule(&decide, quota, rule, level, low, strict);
    decide.committed = op.write("committed", committed);
    decide.done = op.write("done", done);
    a.mask_id = mask_id;
    a.state = {op.write("argmax", argmax), op.write("unchanged", unchanged), op.write("probs", probs), stability,
               confident};
    const Shape shape = rows_of(sweep.logits), batch = batch_of(decide.x);
    const auto tokens = op.tokens(decide.x, shape), best = op.tokens(decide.x, shape);
    const auto entropy = op.floats(shape), score = op.floats(shape);
    const auto accepted = op.flags(shape);
    const auto num_accepted = op.integers(batch), num_bad = op.integers(batch);
    const auto at_rest = op.flags(batch);
    a.step.out = {tokens.data, score.data, {accepted.data, num_accepted.data, nullptr, num_bad.data}};
    a.out = {best.data, entropy.data, at_rest.data};
    op.run(need(sweep, shape, batch), a);
    return {tokens.tensor,   best.tensor,         entropy.tensor, score.tensor,
            accepted.tensor, num_accepted.tensor, num_bad.tensor, at_rest.tensor};
  }

  static Six transition_step(Tensor x, const Tensor& logits, const Tensor& temperature, const Tensor& seed,
                             const Tensor& step, const Tensor& coefficients, int64_t mask_id, const Name& tempered,
                             const Name& redraw, double level, int64_t window_start, int64_t window_stop,
                             const MaybeTensor& frozen, const MaybeTensor& start, const MaybeTensor& rows,
                             int64_t shift, const MaybeTensor& suppress, const MaybeTensor& uncond_logits,
                             double cfg_scale, const MaybeTensor& top_k, const MaybeTensor& top_p,
                             const MaybeTensor& min_p, const Name& filter_order, bool drop_crossing, bool keep_ties,
                             const MaybeTensor& uniform, MaybeTensor trace, MaybeTensor trace_steps) {
    Op op("x", x);
    TransitionArgs a;
    a.sweep = op.sweep(logits, temperature, uncond_logits, cfg_scale, suppress);
    op.filter(&a.sweep, top_k, top_p, min_p, filter_order, drop_crossing, keep_ties);
    a.place = op.place(start, rows, 0, shift);
    a.draw = op.draw(seed, step, uniform);
    a.decide = op.decide(x, window_start, window_stop, frozen, trace, trace_steps, step);
    a.coefficients = op.read("coefficients", coefficients);
    a.mask_id = mask_id;
    a.tempered = name_of(tempered);
    a.redraw = name_of(redraw);
    a.level = level;
    const Shape shape = rows_of(a.sweep.logits), batch = batch_of(a.decide.x);
    const auto tokens = op.tokens(a.decide.x, shape);
    const auto route = op.bytes(shape);
    const auto p_current = op.floats(shape), score = op.floats(shape);
    const auto num_changed = op.integers(batch), num_bad = op.integers(batch);
    a.out = {tokens.data, route.data, p_current.data, score.data, num_changed.data, num_bad.data};
    op.run(need(a.sweep, shape, batch), a);
    return {tokens.tensor, route.tensor, p_current.tensor, score.tensor, num_changed.tensor, num_bad.tensor};
  }

  static std::tuple<Tensor, Tensor> q_sample(const Tensor& x, const Tensor& rates, const Tensor& seed,
                                             const Tensor& step, int64_t vocab_size, int64_t mask_id,
                                             const MaybeTensor& frozen, const MaybeTensor& uniform) {
    Op op("x", x);
    NoisingArgs a;
    a.x = op.read("x", x);
    a.rates = op.read("rates", rates);
    a.frozen = op.read("frozen", frozen);
    a.seed = op.numbers("seed", seed, kInt64);
    a.step = op.numbers("step", step, kInt64);
    a.uniform = op.read("uniform", uniform);
    a.vocab = vocab_size;
    a.mask_id = mask_id;
    const Shape shape = leading_shape(a.x, a.x.ndim);
    const auto x_t = op.tokens(a.x, shape);
    const auto route = op.bytes(shape);
    a.out = {x_t.data, route.data};
    op.run({}, a);
    return {x_t.tensor, route.tensor};
  }
};

}  // namespace dlm
