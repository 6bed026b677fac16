// Host checks of the arguments, once, before anything is written, for every compiled backend and entry point.
// python_ref/validate.py is the same list in the same order with the same texts; a test compares the two.
//
// Arguments are checked in the order of the op's signature, each one completely: dtype (a TypeError), then device,
// shape, strides and range (ValueErrors). Values of arrays are checked on the CPU only: elsewhere that would
// synchronise with the device, so kernels there must survive any value.
#pragma once

#include "check.h"

namespace dlm {

namespace check {

struct Named {
  const char* argument;
  const Array& array;
  Span span = span_of(array);
};

// What a step writes it must not read as something else, and write under one name only. Last, and in the order of the
// signature.
inline void apart(std::initializer_list<Named> written, std::initializer_list<Named> read) {
  const auto pair = [](const Named& one, const Named& other) {
    if (!meet(one.span, other.span)) return;
    require(!share_memory(one.array, other.array), one.argument, "must have memory of its own",
            [&] { return std::string("memory of ") + other.argument; });
  };
  for (const Named& one : written) {
    if (is_empty(one.span)) continue;
    for (const Named* other = written.begin(); other != &one; ++other) pair(one, *other);
    for (const Named& other : read) pair(one, other);
  }
}

}  // namespace check

inline Resolved validate(const RowStatsArgs& a) {
  const SweepParams& s = a.sweep;
  Resolved out;
  check::logits(s.logits, check::kEither, nullptr);
  check::temperature(s.temperature, s.logits.shape[0], "logits", s.logits, true);
  check::like_rows("given", a.given, kInt64, s.logits);
  check::guidance(s);
  check::ids("suppress", s.suppress, s.logits);
  out.geometry = check::geometry(s.logits, 1, PlaceParams{}, 0);
  if (s.logits.ndim == 2) std::swap(out.geometry.batch, out.geometry.width);  // [R, V]: a temperature for every row
  out.vocab = s.logits.shape[s.logits.ndim - 1];
  return out;
}

inline Resolved validate(const DivergenceArgs& a) {
  Resolved out;
  check::logits(a.logits, check::kEither, nullptr);
  check::previous(a.previous, a.logits);
  check::temperature(a.temperature, a.logits.shape[0], "logits", a.logits, true);
  check::like_rows("wanted", a.wanted, kBool, a.logits);
  out.geometry = check::geometry(a.logits, 1, PlaceParams{}, 0);
  if (a.logits.ndim == 2) std::swap(out.geometry.batch, out.geometry.width);  // a temperature for every row
  out.vocab = a.logits.shape[a.logits.ndim - 1];
  return out;
}

inline Resolved validate(const DrawArgs& a) {
  const SweepParams& s = a.sweep;
  const bool listed = given(a.place.rows);
  Resolved out;
  check::logits(s.logits, listed ? check::kPacked : check::kEither, nullptr);
  const bool packed = s.logits.ndim == 2;
  int64_t batch = packed ? 1 : s.logits.shape[0];
  if (listed) {  // the per-request arrays say how many sequences there are
    const auto not_empty = [&](const char* argument, const Array& a) {
      check::require(a.shape[0] >= 1 || s.logits.shape[0] == 0, argument, "must not be empty", a);
    };
    check::temperature(s.temperature, -1, "logits", s.logits);
    not_empty("temperature", s.temperature);
    batch = s.temperature.shape[0];
    check::per_request("seed", a.draw.seed, kInt64, batch == 1 ? -1 : batch, "logits", s.logits);
    not_empty("seed", a.draw.seed);
    batch = max_of(batch, a.draw.seed.shape[0]);
    for (const Array* each : {&s.top_k, &s.top_p, &s.min_p}) {
      if (batch == 1 && each->ndim == 1 && each->shape[0] > 1) batch = each->shape[0];
    }
  } else {
    check::temperature(s.temperature, batch, "logits", s.logits);
    check::per_request("seed", a.draw.seed, kInt64, batch, "logits", s.logits);
  }
  check::step(a.draw.step, "logits", s.logits);
  check::start(a.place.start, packed, batch, -1, "logits", s.logits);
  const int64_t length = a.place.length;
  int64_t limit = -1;
  if (listed) {
    check::require(length >= 1, "length", "must be >= 1 with rows", length);
    // b * length + p of any int64 is on a canvas that is too long to count
    limit = batch <= 1 || length > INT64_MAX / batch ? -1 : batch * length;
    check::rows(a.place.rows, s.logits.shape[0], limit, "logits", s.logits);
  } else {
    check::require(length == 0, "length", "must be 0 without rows", length);
  }
  check::shift(a.place.shift, packed);
  check::ids("suppress", s.suppress, s.logits);
  check::ids("demote", a.draw.demote, s.logits);
  check::guidance(s);
  check::filters(s, batch, "logits", s.logits, &out);
  check::uniform(a.draw.uniform, s.logits);
  check::like_rows("given", a.draw.current, kInt64, s.logits);
  check::scoring(a.draw, &out);
  check::require(
      !compares(out.confidence) || given(a.draw.current), "given",
      [&] { return std::string("must be given for confidence ") + a.draw.confidence; }, "none");
  out.geometry = check::geometry(s.logits, 1, a.place, length);
  out.geometry.limit = limit;
  out.vocab = s.logits.shape[s.logits.ndim - 1];
  return out;
}

inline Resolved validate(const StepArgs& a) {
  const SweepParams& s = a.sweep;
  const Array& x = a.decide.x;
  Resolved out;
  check::canvas_and_law(x, s, a.place, a.draw);
  out.vocab = s.logits.shape[s.logits.ndim - 1];
  check::quota(a.decide.quota, x);
  out.rule = check::rule(a.decide);
  check::ready(a.decide, s.logits);
  check::editing(a.decide, s.logits);
  check::places(a.decide, a.place, s.logits);
  check::shift(a.place.shift, given(a.place.rows));
  check::ids("suppress", s.suppress, s.logits);
  check::ids("demote", a.draw.demote, s.logits);
  check::guidance(s);
  check::filters(s, x.shape[0], "x", x, &out);
  check::uniform(a.draw.uniform, s.logits);
  check::scoring(a.draw, &out);
  check::require(
      a.draw.rank_temperature == 0 || out.rule == kTopK, "rank_temperature",
      [&] { return std::string("must be 0 for rule ") + a.decide.rule; }, a.draw.rank_temperature);
  check::trace(a.decide);
  const EditParams& edit = a.decide.edit;
  check::apart({{"x", x},
                {"edits_left", edit.left},
                {"edited", edit.edited},
                {"num_edited", edit.num_edited},
                {"trace", a.decide.trace.positions},
                {"trace_steps", a.decide.trace.steps}},
               {{"logits", s.logits},
                {"temperature", s.temperature},
                {"seed", a.draw.seed},
                {"step", a.draw.step},
                {"quota", a.decide.quota},
                {"ready", a.decide.ready},
                {"frozen", a.decide.frozen},
                {"start", a.place.start},
                {"rows", a.place.rows},
                {"suppress", s.suppress},
                {"demote", a.draw.demote},
                {"uncond_logits", s.uncond},
                {"top_k", s.top_k},
                {"top_p", s.top_p},
                {"min_p", s.min_p},
                {"uniform", a.draw.uniform}});
  out.geometry = check::geometry(s.logits, 1, a.place, x.shape[1]);
  out.geometry.limit = numel(x);
  return out;
}

inline Resolved validate(const RenoiseArgs& args) {
  const StepArgs& a = args.step;
  const RenoiseParams& state = args.state;
  const SweepParams& s = a.sweep;
  const Array& x = a.decide.x;
  Resolved out;
  check::canvas_and_law(x, s, a.place, a.draw);
  out.vocab = s.logits.shape[s.logits.ndim - 1];
  check::quota(a.decide.quota, x);
  check::noise_prior(args.mask_id, out.vocab, x);
  out.rule = check::rule(a.decide);
  check::state("committed", a.decide.committed, kBool, x);
  check::state("argmax", state.argmax, static_cast<DType>(x.dtype), x);
  check::state("unchanged", state.unchanged, kInt64, x, 1);
  check::require(!given(state.unchanged) || given(state.argmax), "unchanged", "must be given with argmax", "without");
  check::state("done", a.decide.done, kBool, x, 1);
  check::require(!given(a.decide.done) || given(state.unchanged), "done", "must be given with argmax and unchanged",
                 "without");
  if (given(state.probs)) {
    check::dtype("probs", state.probs, {kBFloat16});
    check::on_device("probs", state.probs, "x", x);
    check::has_shape("probs", state.probs, {check::shape_of(s.logits)});
    check::unit_stride("probs", state.probs);
    check::not_overlapping("probs", state.probs);
  }
  check::require(state.stability >= 0, "stability", "must be >= 0", state.stability);
  check::require(state.confident >= 0, "confident", "must be >= 0", state.confident);
  check::places(a.decide, a.place, s.logits);
  check::shift(a.place.shift, given(a.place.rows));
  check::ids("suppress", s.suppress, s.logits);
  check::guidance(s);
  check::filters(s, x.shape[0], "x", x, &out);
  check::softcap(s);
  check::uniform(a.draw.uniform, s.logits, 2);
  check::scoring(a.draw, &out);
  check::trace(a.decide);
  check::apart({{"x", x},
                {"committed", a.decide.committed},
                {"argmax", state.argmax},
                {"unchanged", state.unchanged},
                {"done", a.decide.done},
                {"probs", state.probs},
                {"trace", a.decide.trace.positions},
                {"trace_steps", a.decide.trace.steps}},
               {{"logits", s.logits},
                {"temperature", s.temperature},
                {"seed", a.draw.seed},
                {"step", a.draw.step},
                {"quota", a.decide.quota},
                {"frozen", a.decide.frozen},
                {"start", a.place.start},
                {"rows", a.place.rows},
                {"suppress", s.suppress},
                {"uncond_logits", s.uncond},
                {"top_k", s.top_k},
                {"top_p", s.top_p},
                {"min_p", s.min_p},
                {"uniform", a.draw.uniform}});
  out.geometry = check::geometry(s.logits, 1, a.place, x.shape[1]);
  out.geometry.limit = numel(x);
  return out;
}

inline Resolved validate(const TransitionArgs& a) {
  const SweepParams& s = a.sweep;
  const Array& x = a.decide.x;
  Resolved out;
  check::canvas_and_law(x, s, a.place, a.draw);
  out.vocab = s.logits.shape[s.logits.ndim - 1];
  check::coefficients(a);
  check::noise_prior(a.mask_id, out.vocab, x);
  out.tempered_after = check::name("tempered", a.tempered, {"before", "after"}) == 1;
  check::redraw(a, &out);
  check::places(a.decide, a.place, s.logits);
  check::shift(a.place.shift, given(a.place.rows));
  check::ids("suppress", s.suppress, s.logits);
  check::guidance(s);
  check::filters(s, x.shape[0], "x", x, &out);
  check::uniform(a.draw.uniform, s.logits, 3);
  check::trace(a.decide);
  check::apart({{"x", x}, {"trace", a.decide.trace.positions}, {"trace_steps", a.decide.trace.steps}},
               {{"logits", s.logits},
                {"temperature", s.temperature},
                {"seed", a.draw.seed},
                {"step", a.draw.step},
                {"coefficients", a.coefficients},
                {"frozen", a.decide.frozen},
                {"start", a.place.start},
                {"rows", a.place.rows},
                {"suppress", s.suppress},
                {"uncond_logits", s.uncond},
                {"top_k", s.top_k},
                {"top_p", s.top_p},
                {"min_p", s.min_p},
                {"uniform", a.draw.uniform}});
  out.geometry = check::geometry(s.logits, 1, a.place, x.shape[1]);
  out.geometry.limit = numel(x);
  check::current_tokens(a, out.geometry, out.vocab);
  out.confidence_from = kSampled;
  return out;
}

inline Resolved validate(const NoisingArgs& a) {
  Resolved out;
  check::canvas(a.x, false);
  check::rates(a);
  check::per_request("seed", a.seed, kInt64, a.x.shape[0], "x", a.x);
  check::step(a.step, "x", a.x);
  check::require(a.vocab >= 1, "vocab_size", "must be >= 1", a.vocab);
  check::require(a.x.dtype == kInt64 || a.vocab - 1 <= INT32_MAX, "vocab_size", "must fit in int32 as x", a.vocab);
  check::noise_prior(a.mask_id, a.vocab, a.x);
  check::like_canvas("frozen", a.frozen, kBool, a.x);
  check::uniform(a.uniform, {a.x.shape[0], a.x.shape[1]}, 2, "x", a.x);
  out.vocab = a.vocab;
  return out;
}

inline Resolved validate(const UnmaskArgs& a) {
  const Array& x = a.decide.x;
  Resolved out;
  check::canvas(x);
  if (!a.remask) {
    check::dtype("tokens", a.tokens, {static_cast<DType>(x.dtype)});
    check::rows_on_canvas("tokens", a.tokens, a.place, x);
  }
  check::dtype("confidence", a.confidence, {kFloat32, kFloat64, kFloat16, kBFloat16});
  if (a.remask) {
    check::rows_on_canvas("confidence", a.confidence, a.place, x);
  } else {
    check::on_device("confidence", a.confidence, "x", x);
    check::has_shape("confidence", a.confidence, {check::shape_of(a.tokens)});
  }
  check::quota(a.decide.quota, x);
  if (a.remask) {
    check::fits("mask_id", a.decide.mask_id, x);
    check::require(a.below == a.below, "below", "must not be NaN", a.below);
  }
  check::places(a.decide, a.place, a.confidence);
  if (given(a.decide.trace.step)) check::step(a.decide.trace.step, "x", x);
  check::require(given(a.decide.trace.step) || !given(a.decide.trace.positions), "step", "must be given with trace",
                 "none");
  check::trace(a.decide);
  check::apart({{"x", x}, {"trace", a.decide.trace.positions}, {"trace_steps", a.decide.trace.steps}},
               {{"tokens", a.tokens},
                {"confidence", a.confidence},
                {"quota", a.decide.quota},
                {"frozen", a.decide.frozen},
                {"start", a.place.start},
                {"rows", a.place.rows},
                {"step", a.decide.trace.step}});
  out.geometry = check::geometry(a.confidence, 0, a.place, x.shape[1]);
  out.geometry.limit = numel(x);
  return out;
}

// The frame of every C entry: runs `body`, which validates first, and turns what it throws into a status and a text.
template <class Error, class Body>
int32_t guarded(Error* error, Body body) {
  const auto fail = [&](int32_t kind, const char* text) {
    if (error != nullptr) {
      error->kind = kind;
      const size_t room = sizeof error->text - 1;
      size_t n = std::min(strlen(text), room);
      while (n == room && n > 0 && (text[n] & 0xc0) == 0x80) --n;  // a whole character of UTF-8 or none of it
      memcpy(error->text, text, n);
      error->text[n] = 0;
    }
    return kind;
  };
  try {
    body();
    return kOk;
  } catch (const InvalidArgument& e) {
    return fail(e.kind, e.text.c_str());
  } catch (const std::exception& e) {
    return fail(kRuntimeError, e.what());
  }
}

}  // namespace dlm
