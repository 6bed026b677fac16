// csrc/core behind a C ABI, for tests only. Everything is scalars and arrays, so that ctypes can call it.
#include <algorithm>
#include <vector>

#include "chunk.h"
#include "confidence.h"
#include "decide.h"
#include "draw.h"
#include "dtype.h"
#include "geometry.h"
#include "philox.h"
#include "row_stats.h"
#include "trace.h"
#include "transition.h"

using namespace dlm;

extern "C" {

void shim_philox(const uint32_t* counter, const uint32_t* key, uint32_t* out) {
  const Philox4 words = philox4x32_10({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  for (int i = 0; i < 4; ++i) out[i] = words.word[i];
}

void shim_noise(int64_t seed, int64_t position, int64_t step, int32_t stream, uint32_t* out) {
  const Philox4 words = noise(seed, position, step, static_cast<Stream>(stream));
  for (int i = 0; i < 4; ++i) out[i] = words.word[i];
}

double shim_uniform_52(const uint32_t* w) { return uniform_52({{w[0], w[1], w[2], w[3]}}); }
float shim_uniform_23(const uint32_t* w) { return uniform_23({{w[0], w[1], w[2], w[3]}}); }

int64_t shim_chunk_size(int64_t vocab) { return chunk_size(vocab); }
int64_t shim_num_chunks(int64_t vocab) { return num_chunks(vocab); }

void shim_widen(const uint16_t* bits, int64_t n, int32_t half, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = half ? to_float(Float16{bits[i]}) : to_float(BFloat16{bits[i]});
}

void shim_round_to(const double* v, int64_t n, int32_t dtype, double* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = round_to(dtype, v[i]);
}

struct Stats {
  float max, second;
  int64_t argmax;
  double rest, tilt;
};

static RowStats from(const Stats& s) {
  RowStats out;
  out.max = s.max, out.second = s.second, out.argmax = s.argmax, out.rest = s.rest, out.tilt = s.tilt;
  return out;
}
static Stats to(const RowStats& s) { return {s.max, s.second, s.argmax, s.rest, s.tilt}; }

// Folds n parts left to right, starting from the identity.
void shim_merge(const Stats* parts, int64_t n, double beta, Stats* out) {
  RowStats all;
  for (int64_t i = 0; i < n; ++i) all = merge(all, from(parts[i]), beta);
  *out = to(all);
}

double shim_entropy(const Stats* s) { return entropy(from(*s)); }
double shim_log_sum_exp(const Stats* s, double beta) { return log_sum_exp(from(*s), beta); }
double shim_log_prob(const Stats* s, int64_t token, float z, double beta) { return log_prob(from(*s), token, z, beta); }
double shim_odds_against(const Stats* s, int64_t token, float z, double beta) {
  return odds_against(from(*s), token, z, beta);
}

void shim_score(int32_t kind, int32_t dtype, const Stats* s, int64_t token, double odds, double beta, float u,
                int64_t current, float z_current, double* value, float* key) {
  const Score out = score(kind, dtype, from(*s), token, odds, beta, u, {current, z_current});
  *value = out.value, *key = out.key;
}

// chunk stats from parallel arrays; returns the chunk, writes the target
int64_t shim_pick_chunk(const float* max, const double* draw_mass, int64_t n, double beta, double u, double* target) {
  ChunkStats chunks[kMaxChunks];
  for (int64_t c = 0; c < n; ++c) chunks[c].max = max[c], chunks[c].draw_mass = draw_mass[c];
  const ChunkPick pick = pick_chunk(chunks, n, beta, u);
  *target = pick.target;
  return pick.chunk;
}

// One sequence of n eligible positions: writes which of them the rule accepts.
void shim_decide(int32_t rule, int32_t conf_dtype, int32_t strict, double level, double low, int64_t quota, int64_t n,
                 const int64_t* position, const double* value, const float* key, const float* entropy,
                 uint8_t* chosen) {
  std::vector<Ranked> order;
  for (int64_t i = 0; i < n; ++i) {
    order.push_back({rank_key(rule, key[i], entropy[i]), position[i], i});
    chosen[i] = 0;
  }
  std::sort(order.begin(), order.end(), ranks_before);
  RuleParams p;
  p.rule = rule, p.conf_dtype = conf_dtype, p.strict = strict != 0, p.level = level, p.low = low, p.quota = quota;
  const auto at = [&](int64_t r) { return order[r].row; };
  int64_t count = 0;
  if (sees_neighbours(rule)) {
    const int64_t best = n > 0 ? at(0) : -1;
    std::sort(order.begin(), order.end(), stands_before);
    for (int64_t i = 0; i < n; ++i) {
      if (begins_run(order.data(), i)) {
        count += choose_in_run(p, order.data(), i, n, best, [&](int64_t row) { return value[row]; });
      }
    }
    std::sort(order.begin(), order.end(), ranks_before);
  } else {
    count = accept(
        p, n, [&](int64_t r) { return value[at(r)]; }, [&](int64_t r) { return static_cast<double>(entropy[at(r)]); });
  }
  for (int64_t r = 0; r < count; ++r) chosen[at(r)] = 1;
}

static Array vector_of(const int64_t* values, int64_t n, int64_t stride) {
  Array a;
  a.data = const_cast<int64_t*>(values), a.dtype = kInt64, a.ndim = 1, a.shape[0] = n, a.stride[0] = stride;
  return a;
}

// b, p and the offset of the logits row that each of the num_rows rows reads; width 0: packed. Null pointers: not
// given.
void shim_places(int64_t batch, int64_t width, int64_t num_rows, int64_t length, int64_t shift, const int64_t* start,
                 int64_t num_start, const int64_t* rows, const int64_t* strides, int64_t* out) {
  Geometry g;
  g.batch = batch, g.width = width, g.num_rows = num_rows, g.length = length, g.shift = shift,
  g.packed = rows != nullptr;
  if (start != nullptr) g.start = vector_of(start, num_start, 1);
  if (rows != nullptr) g.rows = vector_of(rows, num_rows, 1);
  Array logits;
  logits.ndim = g.packed ? 2 : 3;
  for (int d = 0; d < logits.ndim; ++d) logits.stride[d] = strides[d];
  for (int64_t r = 0; r < num_rows; ++r) {
    const Place at = place_of(g, r);
    out[4 * r] = at.b, out[4 * r + 1] = at.p;
    out[4 * r + 2] = logits_offset(g, logits, r), out[4 * r + 3] = row_offset(g, logits, r);
  }
}

// Of position (b, p), out of contiguous [B, 14] (length 0) or [B, L, 14] coefficients.
void shim_transition_at(const double* values, int64_t batch, int64_t length, int64_t b, int64_t p, double* out) {
  Array a;
  a.data = const_cast<double*>(values), a.dtype = kFloat64, a.ndim = length > 0 ? 3 : 2;
  a.shape[0] = batch, a.stride[0] = max_of<int64_t>(length, 1) * kTransitionSize;
  a.shape[1] = length > 0 ? length : kTransitionSize, a.stride[1] = length > 0 ? kTransitionSize : 1;
  const Transition t = transition_at(a, {b, p});
  out[0] = t.fresh, out[1] = t.evidence, out += 2;
  for (const Bridge& v : {t.token, t.mask}) {
    for (double field : {v.keep_p, v.keep, v.leave, v.model, v.noise, v.mask}) *out++ = field;
  }
}

// One row: 14 coefficients in, 4 weights out.
void shim_route_weights(const double* coefficients, double odds, int32_t is_mask, double support, double* out) {
  const Transition t = transition_from(coefficients);
  const RouteWeights w = route_weights(t, odds, is_mask != 0, support);
  out[kStay] = w.stay, out[kModel] = w.model, out[kNoise] = w.noise, out[kRemask] = w.mask;
}

double shim_leave_one_out_odds(double odds, double evidence, double support, double exponent) {
  return leave_one_out_odds(odds, evidence, support, exponent);
}

int32_t shim_pick_route(const double* w, double u) {
  RouteWeights weights;
  weights.stay = w[kStay], weights.model = w[kModel], weights.noise = w[kNoise], weights.mask = w[kRemask];
  return pick_route(weights, u);
}

// The route of a position that holds `current`, from 14 coefficients.
int32_t shim_choose_route(const double* coefficients, const Stats* s, float temperature, int64_t current,
                          float z_current, int32_t tempered_after, int64_t vocab, int64_t mask_id, double u) {
  Resolved r;
  r.vocab = vocab, r.tempered_after = tempered_after != 0;
  return choose_route(transition_from(coefficients), mask_id, r, row_law(temperature, kSampled, false), from(*s),
                      {current, z_current}, u);
}

int32_t shim_noising_route(double noise, double mask, double u) { return noising_route(noise, mask, u); }

int64_t shim_noise_support(int64_t vocab, int64_t mask_id) { return noise_support(vocab, mask_id); }
int64_t shim_noise_token(double u, int64_t support, int64_t mask_id) { return noise_token(u, support, mask_id); }

int64_t shim_position_trace_size() { return sizeof(PositionTrace); }
void shim_fresh_position_trace(int32_t* out) {
  const PositionTrace fresh;
  memcpy(out, &fresh, sizeof fresh);
}

// A trace over int32 [B, L, 8] and int64 [S, B, 8]; null: none is given.
static TraceParams trace_of(int32_t* positions, int64_t* steps, const int64_t* sizes) {
  TraceParams trace;
  if (positions == nullptr) return trace;
  Array &p = trace.positions, &s = trace.steps;
  p.data = positions, p.dtype = kInt32, p.ndim = 3;
  s.data = steps, s.dtype = kInt64, s.ndim = 3;
  for (int64_t d = 0; d < 2; ++d) p.shape[d] = sizes[1 + d], s.shape[d] = sizes[d];
  p.shape[2] = kTraceWords, s.shape[2] = kNumTraceColumns;
  return trace;
}

// What one step did at n places (b, p): before, after, by_noise, committed. sizes: S, B, L.
void shim_record(int32_t* positions, int64_t* steps, const int64_t* sizes, int64_t step, int64_t n,
                 const int64_t* places, const int64_t* events, const double* gain) {
  const TraceParams trace = trace_of(positions, steps, sizes);
  for (int64_t i = 0; i < n; ++i) {
    TraceEvent e;
    e.before = events[4 * i], e.after = events[4 * i + 1], e.by_noise = events[4 * i + 2] != 0;
    e.committed = events[4 * i + 3], e.gain = gain[i];
    record(trace, step, {places[2 * i], places[2 * i + 1]}, e);
  }
}

int64_t shim_committed_token(int32_t* positions, const int64_t* sizes, int64_t b, int64_t p) {
  return committed_token(trace_of(positions, nullptr, sizes), {b, p});
}

}  // extern "C"
