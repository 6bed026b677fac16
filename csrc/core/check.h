// Checks of one argument each, for validate.h: the rule, and the text that names argument, rule and value.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "overlap.h"
#include "redraw.h"
#include "trace.h"

namespace dlm {

enum ErrorKind : int32_t { kOk = 0, kValueError = 1, kTypeError = 2, kRuntimeError = 3 };

struct InvalidArgument {
  ErrorKind kind;
  std::string text;
};

namespace check {

using Names = std::vector<const char*>;

inline std::string text(const std::string& words) { return words; }
inline std::string text(int64_t v) { return std::to_string(v); }
inline std::string text(double v) {
  char digits[40];
  snprintf(digits, sizeof digits, "%g", v);
  return digits;
}

// An Array keeps the first kMaxDims of its extents.
inline std::string list(const int64_t* values, int32_t n) {
  std::string items = "[";
  for (int32_t i = 0; i < n && i < kMaxDims; ++i) items += (i > 0 ? ", " : "") + text(values[i]);
  return items + (n > kMaxDims ? ", ...]" : "]");
}
inline std::string text(const Array& a) { return list(a.shape, a.ndim); }
inline std::string strides(const Array& a) { return "strides " + list(a.stride, a.ndim); }

// Of a function that composes it.
template <class Compose>
auto text(const Compose& compose) -> decltype(std::string(compose())) {
  return compose();
}

template <class T>
std::string one_of(const std::vector<T>& names) {
  std::string all;
  for (size_t i = 0; i < names.size(); ++i)
    all += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + std::string(names[i]);
  return all;
}

inline std::string device(int32_t ordinal) { return ordinal < 0 ? "cpu" : "cuda:" + std::to_string(ordinal); }

// A step of a small block lasts a few microseconds: texts are made of rule and value only where the argument is bad.
template <class Rule, class Got>
void require(bool ok, const char* argument, const Rule& rule, const Got& got) {
  if (!ok) throw InvalidArgument{kValueError, std::string(argument) + ": " + text(rule) + ", got " + text(got)};
}

inline void dtype(const char* argument, const Array& a, std::initializer_list<DType> wanted) {
  if (std::find(wanted.begin(), wanted.end(), a.dtype) != wanted.end()) return;
  Names names;
  for (DType d : wanted) names.push_back(dtype_name(d));
  throw InvalidArgument{kTypeError,
                        std::string(argument) + ": dtype must be " + one_of(names) + ", got " + dtype_name(a.dtype)};
}

inline void on_device(const char* argument, const Array& a, const char* anchor, const Array& like) {
  require(
      a.device == like.device, argument, [&] { return "must be on " + device(like.device) + " as " + anchor; },
      [&] { return device(a.device); });
}

// A shape that an argument may have.
struct Extents {
  int64_t of[kMaxDims] = {};
  int32_t n = 0;

  Extents(std::initializer_list<int64_t> all) {
    for (int64_t extent : all) of[n++] = extent;
  }
};
inline Extents leading(const Array& a, int32_t dims) {
  Extents shape = {};
  for (; shape.n < dims; ++shape.n) shape.of[shape.n] = a.shape[shape.n];
  return shape;
}
inline Extents shape_of(const Array& a) { return leading(a, a.ndim); }
inline Extents rows_of(const Array& logits) { return leading(logits, logits.ndim - 1); }

inline void has_shape(const char* argument, const Array& a, std::initializer_list<Extents> wanted) {
  for (const Extents& w : wanted) {
    if (a.ndim == w.n && std::equal(w.of, w.of + w.n, a.shape)) return;
  }
  std::vector<std::string> texts;
  for (const Extents& w : wanted) {
    const std::string each = list(w.of, w.n);
    if (std::find(texts.begin(), texts.end(), each) == texts.end()) texts.push_back(each);
  }
  require(false, argument, [&] { return "shape must be " + one_of(texts); }, a);
}

inline void dims(const char* argument, const Array& a, const char* names, int32_t n) {
  require(a.ndim == n, argument, [&] { return "must be " + std::to_string(n) + "-dimensional, " + names; }, a);
}

inline void unit_stride(const char* argument, const Array& a) {
  const int32_t last = a.ndim - 1;
  require(numel(a) == 0 || a.shape[last] == 1 || a.stride[last] == 1, argument,
          "stride of the last dimension must be 1", a.stride[last]);
}

inline Names names_of(int32_t n, const char* (*name_of)(int32_t)) {
  Names names;
  for (int32_t kind = 0; kind < n; ++kind) names.push_back(name_of(kind));
  return names;
}

inline int32_t name(const char* argument, const char* got, const Names& known) {
  for (size_t i = 0; i < known.size(); ++i) {
    if (strcmp(got, known[i]) == 0) return static_cast<int32_t>(i);
  }
  require(false, argument, [&] { return "must be " + one_of(known); }, got);
  return 0;
}

// The first value, in index order, that is not good is named.
template <class T, class Good, class Rule>
void values(const char* argument, const Array& a, Good good, const Rule& rule, int32_t dim = 0, int64_t offset = 0) {
  if (a.device >= 0) return;
  if (dim < min_of(a.ndim, kMaxDims)) {
    for (int64_t i = 0; i < a.shape[dim]; ++i) values<T>(argument, a, good, rule, dim + 1, offset + i * a.stride[dim]);
    return;
  }
  const T v = static_cast<const T*>(a.data)[offset];
  using Wide = typename std::conditional<std::is_integral<T>::value, int64_t, double>::type;
  require(good(v), argument, rule, static_cast<Wide>(v));
}

inline void not_overlapping(const char* argument, const Array& a) {
  require(!overlaps_itself(a), argument, "must not overlap itself", [&] { return strides(a); });
}

inline void contiguous(const char* argument, const Array& a) {
  int64_t stride = 1;
  bool good = true;
  for (int32_t d = a.ndim - 1; d >= 0; stride *= a.shape[d--]) good &= a.shape[d] == 1 || a.stride[d] == stride;
  require(good || numel(a) == 0, argument, "must be contiguous", [&] { return strides(a); });
}

inline void canvas(const Array& x, bool written = true) {
  dtype("x", x, {kInt64, kInt32});
  dims("x", x, "[B, L]", 2);
  if (written) not_overlapping("x", x);
}

// [B, W, ...] must fit the canvas.
inline void covered(const char* argument, const Array& a, const Array& x) {
  require(
      a.shape[0] == x.shape[0], argument, [&] { return "dimension 0 must be " + text(x.shape[0]) + " as in x"; },
      a.shape[0]);
  require(
      a.shape[1] <= x.shape[1], argument,
      [&] { return "dimension 1 must be at most " + text(x.shape[1]) + " as in x"; }, a.shape[1]);
}

// [B, W], or [R] where `place` lists the rows.
inline void rows_on_canvas(const char* argument, const Array& a, const PlaceParams& place, const Array& x) {
  const bool packed = given(place.rows);
  on_device(argument, a, "x", x);
  dims(argument, a, packed ? "[R]" : "[B, W]", packed ? 1 : 2);
  if (!packed) covered(argument, a, x);
}

// A token that is to be written.
inline void fits(const char* argument, int64_t token, const Array& x) {
  require(x.dtype == kInt64 || (token >= INT32_MIN && token <= INT32_MAX), argument, "must fit in int32 as x", token);
}

enum Layout { kDense, kPacked, kEither };

inline void logits(const Array& z, Layout layout, const Array* x) {
  dtype("logits", z, {kFloat32, kFloat16, kBFloat16});
  if (x != nullptr) on_device("logits", z, "x", *x);
  if (layout == kEither) {
    require(z.ndim == 2 || z.ndim == 3, "logits", "must be [B, W, V] or [R, V]", z);
  } else {
    layout == kPacked ? dims("logits", z, "[R, V]", 2) : dims("logits", z, "[B, W, V]", 3);
  }
  require(z.shape[z.ndim - 1] >= 1, "logits", "the vocabulary must not be empty", z);
  require(z.shape[z.ndim - 1] <= kMaxVocab, "logits", "the vocabulary must have at most 2^30 tokens", z);
  unit_stride("logits", z);
  if (x != nullptr && layout == kDense) covered("logits", z, *x);
}

// [1] or [B]; batch < 0: any length.
inline void per_request(const char* argument, const Array& a, DType type, int64_t batch, const char* anchor,
                        const Array& like) {
  dtype(argument, a, {type});
  on_device(argument, a, anchor, like);
  if (batch < 0) {
    dims(argument, a, "[B]", 1);
  } else {
    has_shape(argument, a, {{1}, {batch}});
  }
}

inline void temperature(const Array& t, int64_t batch, const char* anchor, const Array& like, bool above_zero = false) {
  per_request("temperature", t, kFloat32, batch, anchor, like);
  values<float>(
      "temperature", t, [&](float v) { return std::isfinite(v) && (above_zero ? v > 0 : v >= 0); },
      above_zero ? "must be finite and > 0" : "must be finite and >= 0");
}

inline void step(const Array& s, const char* anchor, const Array& like) {
  dtype("step", s, {kInt64});
  on_device("step", s, anchor, like);
  require(numel(s) == 1 && s.ndim <= kMaxDims, "step", "must have one element", s);
}

inline void quota(const Array& q, const Array& x) {
  per_request("quota", q, kInt64, x.shape[0], "x", x);
  values<int64_t>("quota", q, [](int64_t v) { return v >= 0; }, "must be >= 0");
}

inline int32_t rule(const DecideParams& d) {
  static const Names names = names_of(kNumRules, rule_name);
  const int32_t r = name("rule", d.rule, names);
  const auto in_unit = [&](const char* argument, double v) {
    require(v >= 0 && v <= 1, argument, [&] { return std::string("must be in [0, 1] for ") + rule_name(r); }, v);
  };
  if (r == kThreshold || r == kSegmentMax) {
    in_unit("level", d.level);
    in_unit("low", d.low);
  } else if (r != kTopK) {
    require(d.level >= 0, "level", [&] { return std::string("must be >= 0 for ") + rule_name(r); }, d.level);
  }
  return r;
}

inline void window(const DecideParams& d) {
  const int64_t length = d.x.shape[1];
  require(
      d.window_start >= 0 && d.window_start <= length, "window_start",
      [&] { return "must be in [0, " + text(length) + "]"; }, d.window_start);
  require(
      d.window_stop == -1 || (d.window_start <= d.window_stop && d.window_stop <= length), "window_stop",
      [&] { return "must be -1 or in [" + text(d.window_start) + ", " + text(length) + "]"; }, d.window_stop);
}

// dims 2: [B, L]; 1: [B].
inline void like_canvas(const char* argument, const Array& a, DType type, const Array& x, int32_t dims = 2) {
  if (!given(a)) return;
  dtype(argument, a, {type});
  on_device(argument, a, "x", x);
  has_shape(argument, a, {leading(x, dims)});
}

inline void frozen(const DecideParams& d) { like_canvas("frozen", d.frozen, kBool, d.x); }

// What a step carries over and writes.
inline void state(const char* argument, const Array& a, DType type, const Array& x, int32_t dims = 2) {
  like_canvas(argument, a, type, x, dims);
  if (given(a)) not_overlapping(argument, a);
}

inline void trace(const DecideParams& d) {
  const Array &positions = d.trace.positions, &steps = d.trace.steps;
  if (given(positions)) {
    dtype("trace", positions, {kInt32});
    on_device("trace", positions, "x", d.x);
    has_shape("trace", positions, {{d.x.shape[0], d.x.shape[1], kTraceWords}});
    contiguous("trace", positions);
  }
  require(given(steps) == given(positions), "trace_steps", "must be given with trace, and only then",
          [&] { return given(steps) ? text(steps) : "none"; });
  if (!given(steps)) return;
  dtype("trace_steps", steps, {kInt64});
  on_device("trace_steps", steps, "x", d.x);
  dims("trace_steps", steps, "[S, B, 8]", 3);
  require(steps.shape[0] >= 1, "trace_steps", "must have a step", steps);
  has_shape("trace_steps", steps, {{steps.shape[0], d.x.shape[0], kNumTraceColumns}});
  contiguous("trace_steps", steps);
}

// last < 0: no limit.
inline void start(const Array& s, bool packed, int64_t batch, int64_t last, const char* anchor, const Array& like) {
  if (!given(s)) return;
  per_request("start", s, kInt64, packed ? -1 : batch, anchor, like);
  require(!packed, "start", "must not be given with packed logits [R, V]", s);
  values<int64_t>(
      "start", s, [&](int64_t v) { return v >= 0 && (last < 0 || v <= last); },
      [&] { return last < 0 ? "must be >= 0" : "must be in [0, " + text(last) + "] (L - W)"; });
}

// size: B * L, or < 0 for no limit.
inline void rows(const Array& r, int64_t count, int64_t size, const char* anchor, const Array& like) {
  if (!given(r)) return;
  dtype("rows", r, {kInt64});
  on_device("rows", r, anchor, like);
  has_shape("rows", r, {{count}});
  values<int64_t>(
      "rows", r, [&](int64_t v) { return v >= -1 && (size < 0 || v < size); },
      [&] { return size < 0 ? "must be >= -1" : "must be in [-1, " + text(size) + ")"; });
  if (r.device >= 0) return;
  std::vector<int64_t> sorted;
  for (int64_t i = 0; i < count; ++i) sorted.push_back(static_cast<const int64_t*>(r.data)[i * r.stride[0]]);
  std::sort(sorted.begin(), sorted.end());
  for (int64_t i = 1; i < count; ++i) {
    require(sorted[i] < 0 || sorted[i] != sorted[i - 1], "rows", "must not hold a position twice", sorted[i]);
  }
}

inline void shift(int64_t s, bool packed) {
  if (packed) {
    require(s == 0, "shift", "must be 0 with packed logits [R, V]", s);
  } else {
    require(s == 0 || s == -1, "shift", "must be 0 or -1", s);
  }
}

inline void ids(const char* argument, const Array& a, const Array& like) {
  if (!given(a)) return;
  dtype(argument, a, {kInt64});
  on_device(argument, a, "logits", like);
  dims(argument, a, "[n]", 1);
}

inline void softcap(const SweepParams& s) {
  require(s.softcap == 0 || (s.softcap >= 1e-6 && s.softcap <= 1e6), "softcap", "must be 0 (none) or in [1e-6, 1e6]",
          s.softcap);
}

// Uniform noise must have a token to be, and the canvas be able to hold it and the mask.
inline void noise_prior(int64_t mask_id, int64_t vocab, const Array& x) {
  require(mask_id >= -1, "mask_id", "must be >= -1 (none)", mask_id);
  require(x.dtype == kInt64 || mask_id <= INT32_MAX, "mask_id", "must fit in int32 as x", mask_id);
  require(noise_support(vocab, mask_id) >= 1, "mask_id", "must leave a token of the vocabulary for noise", mask_id);
}

// [1, n], [B, n] or [B, L, n] float64.
inline void of_schedule(const char* argument, const Array& a, int64_t n, const Array& x) {
  dtype(argument, a, {kFloat64});
  has_shape(argument, a, {{1, n}, {x.shape[0], n}, {x.shape[0], x.shape[1], n}});
  unit_stride(argument, a);
}

// Nothing becomes a mask that there is none of: `column` of each row is the chance of it.
inline void no_way_to_no_mask(const char* argument, Array a, int64_t column, int64_t mask_id) {
  if (mask_id >= 0 || a.device >= 0) return;
  a.data = static_cast<double*>(a.data) + column;
  a.shape[a.ndim - 1] = 1;
  values<double>(argument, a, [](double v) { return v == 0; }, "must not lead to the mask without mask_id");
}

inline void coefficients(const TransitionArgs& a) {
  of_schedule("coefficients", a.coefficients, kTransitionSize, a.decide.x);
  if (!is_host_row(a.coefficients)) on_device("coefficients", a.coefficients, "x", a.decide.x);
  values<double>("coefficients", a.coefficients, [](double v) { return std::isfinite(v); }, "must be finite");
  no_way_to_no_mask("coefficients", a.coefficients, 7, a.mask_id);  // of a token: Bridge::mask
}

inline void rates(const NoisingArgs& a) {
  of_schedule("rates", a.rates, 2, a.x);
  on_device("rates", a.rates, "x", a.x);
  values<double>("rates", a.rates, [](double v) { return v >= 0 && v <= 1; }, "must be in [0, 1]");
  for (int64_t i = 0; a.rates.device < 0 && i < numel(a.rates) / 2; ++i) {
    const int64_t width = a.rates.ndim == 3 ? a.rates.shape[1] : 1;
    const double* const rate =
        static_cast<const double*>(a.rates.data) + i / width * a.rates.stride[0] + i % width * a.rates.stride[1];
    const double total = rate[0] + rate[1];
    require(total <= 1 + 1e-9, "rates", "must sum to at most 1", total);
  }
  no_way_to_no_mask("rates", a.rates, 1, a.mask_id);
}

inline void redraw(const TransitionArgs& a, Resolved* out) {
  static const Names names = names_of(kNumRedraws, redraw_name);
  out->redraw = name("redraw", a.redraw, names);
  if (out->redraw == kMinP) {
    require(a.level >= 0 && a.level <= 1, "level", "must be in [0, 1] for min_p", a.level);
  } else if (out->redraw == kGuidance) {
    require(std::isfinite(a.level), "level", "must be finite for guidance", a.level);
    require(given(a.sweep.uncond), "uncond_logits", "must be given for guidance", "none");
    require(a.sweep.cfg_scale == 0, "cfg_scale", "must be 0 for guidance", a.sweep.cfg_scale);
  }
  if (out->redraw != kNoRedraw) {
    values<float>("temperature", a.sweep.temperature, [](float v) { return v > 0; }, "must be > 0 with redraw");
  }
}

// What a transition starts from must be a token, or the mask; other ops do not care.
inline void current_tokens(const TransitionArgs& a, const Geometry& g, int64_t vocab) {
  if (a.decide.x.device >= 0) return;
  const auto rule = [&] {
    return "must hold tokens in [0, " + text(vocab) + ")" + (a.mask_id < 0 ? "" : " or mask_id") +
           " where it may change";
  };
  for_each_place(g, [&](int64_t, const Place& at) {
    if (!is_candidate(a.decide, at)) return;
    const int64_t token = token_on_canvas(a.decide.x, at);
    require((token >= 0 && token < vocab) || (a.mask_id >= 0 && token == a.mask_id), "x", rule, token);
  });
}

inline void previous(const Array& a, const Array& logits) {
  dtype("previous", a, {kFloat32, kFloat16, kBFloat16});
  on_device("previous", a, "logits", logits);
  has_shape("previous", a, {shape_of(logits)});
  unit_stride("previous", a);
}

inline void guidance(const SweepParams& s) {
  if (given(s.uncond)) {
    dtype("uncond_logits", s.uncond, {static_cast<DType>(s.logits.dtype)});
    on_device("uncond_logits", s.uncond, "logits", s.logits);
    has_shape("uncond_logits", s.uncond, {shape_of(s.logits)});
    unit_stride("uncond_logits", s.uncond);
  }
  require(std::isfinite(s.cfg_scale), "cfg_scale", "must be finite", s.cfg_scale);
}

inline void filters(const SweepParams& s, int64_t batch, const char* anchor, const Array& like, Resolved* out) {
  if (given(s.top_k)) {
    per_request("top_k", s.top_k, kInt64, batch, anchor, like);
    values<int64_t>("top_k", s.top_k, [](int64_t v) { return v >= 0; }, "must be >= 0");
  }
  const auto share = [&](const char* argument, const Array& a) {
    if (!given(a)) return;
    per_request(argument, a, kFloat64, batch, anchor, like);
    values<double>(argument, a, [](double v) { return v >= 0 && v <= 1; }, "must be in [0, 1]");
  };
  share("top_p", s.top_p);
  share("min_p", s.min_p);
  static const Names orders = {"top_k_first", "top_p_first"};
  out->top_k_first = name("filter_order", s.filter_order, orders) == 0;
}

inline void like_rows(const char* argument, const Array& a, DType type, const Array& logits) {
  if (!given(a)) return;
  dtype(argument, a, {type});
  on_device(argument, a, "logits", logits);
  has_shape(argument, a, {rows_of(logits)});
}

inline void ready(const DecideParams& d, const Array& logits) {
  like_rows("ready", d.ready, kBool, logits);
  require(!given(d.ready) || strcmp(d.rule, rule_name(kThreshold)) == 0, "ready",
          "must be given with rule threshold only", d.rule);
  require(!given(d.ready) || d.low == 0, "ready", "must be given without within", d.low);
}

// edit.h's parameters; only with it, and for rows of these logits.
inline void editing(const DecideParams& d, const Array& logits) {
  const EditParams& e = d.edit;
  if (e.on) {
    require(e.level >= 0 && e.level <= 1, "edit", "must be in [0, 1]", e.level);
    require(d.has_mask, "mask_id", "must be given with edit", "none");
  }
  const auto needs_edit = [&](const char* argument, const Array& a) {
    require(e.on || !given(a), argument, "must be given with edit", "without");
  };
  state("edits_left", e.left, kInt64, d.x, 1);
  needs_edit("edits_left", e.left);
  like_rows("edited", e.edited, kBool, logits);
  if (given(e.edited)) not_overlapping("edited", e.edited);
  needs_edit("edited", e.edited);
  state("num_edited", e.num_edited, kInt64, d.x, 1);
  needs_edit("num_edited", e.num_edited);
}

// columns: how many of them a row needs; 0 is one, without a dimension of its own.
inline void uniform(const Array& u, Extents shape, int64_t columns, const char* anchor, const Array& like) {
  if (!given(u)) return;
  if (columns > 0) shape.of[shape.n++] = columns;
  dtype("uniform", u, {kFloat64});
  on_device("uniform", u, anchor, like);
  has_shape("uniform", u, {shape});
  values<double>("uniform", u, [](double v) { return v >= 0 && v < 1; }, "must be in [0, 1)");
}
inline void uniform(const Array& u, const Array& logits, int64_t columns = 0) {
  uniform(u, rows_of(logits), columns, "logits", logits);
}

inline void scoring(const DrawParams& d, Resolved* out) {
  static const Names confidences = names_of(kNumConfidences, confidence_name),
                     sources = names_of(kNumConfidenceFrom, confidence_from_name),
                     dtypes = {"float32", "bfloat16", "float64"};
  constexpr DType kinds[] = {kFloat32, kBFloat16, kFloat64};
  out->confidence = name("confidence", d.confidence, confidences);
  out->confidence_from = name("confidence_from", d.confidence_from, sources);
  out->conf_dtype = kinds[name("conf_dtype", d.conf_dtype, dtypes)];
  const double t = d.rank_temperature;
  require(std::isfinite(t) && t >= 0, "rank_temperature", "must be finite and >= 0", t);
  require(t == 0 || out->confidence != kRandom, "rank_temperature", "must be 0 for confidence random", t);
}

inline Geometry geometry(const Array& shaped, int32_t trailing, const PlaceParams& place, int64_t length) {
  Geometry g;
  g.packed = given(place.rows);
  g.rows = place.rows;
  g.start = place.start;
  g.shift = place.shift;
  g.length = length;
  const bool flat = shaped.ndim - trailing == 1;  // [R]: packed, or one sequence
  g.batch = flat ? 1 : shaped.shape[0];
  g.width = flat ? shaped.shape[0] : shaped.shape[1];
  g.num_rows = g.batch * g.width;
  return g;
}

// What every step on a canvas begins with.
inline void canvas_and_law(const Array& x, const SweepParams& s, const PlaceParams& place, const DrawParams& draw) {
  canvas(x);
  logits(s.logits, given(place.rows) ? kPacked : kDense, &x);
  temperature(s.temperature, x.shape[0], "x", x);
  per_request("seed", draw.seed, kInt64, x.shape[0], "x", x);
  step(draw.step, "x", x);
}

// Which positions the rows of `shaped` (logits, or tokens) are for, and which of them may change.
inline void places(const DecideParams& d, const PlaceParams& place, const Array& shaped) {
  const int64_t batch = d.x.shape[0], length = d.x.shape[1];
  const bool packed = given(place.rows);
  window(d);
  frozen(d);
  start(place.start, packed, batch, packed ? -1 : length - shaped.shape[1], "x", d.x);
  rows(place.rows, shaped.shape[0], batch * length, "x", d.x);
}

}  // namespace check

}  // namespace dlm
