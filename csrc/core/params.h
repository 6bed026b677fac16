// The PODs that cross every layer: what the caller passed, as pointers, shapes and element strides. No tensor type,
// no ownership. Outputs and workspaces come from the caller; a backend never allocates.
#pragma once

#include "hd.h"

namespace dlm {

constexpr int32_t kMaxDims = 5;  // ops take up to 3; the rest is for the error that prints them

// A strided view. All strides are in elements. ndim < 0: the argument was not given.
struct Array {
  void* data = nullptr;
  int32_t dtype = 0;    // DType
  int32_t device = -1;  // -1: CPU, >= 0: CUDA ordinal
  int32_t ndim = -1;
  int64_t shape[kMaxDims] = {};
  int64_t stride[kMaxDims] = {};
};

DLM_HD bool given(const Array& a) { return a.ndim >= 0; }

// Of an expanded array that may be more than there are numbers: then the largest.
inline int64_t product(const int64_t* extents, int32_t dims) {
  int64_t n = 1;
  for (int32_t d = 0; d < dims; ++d) {
    if (extents[d] == 0) return 0;
    if (__builtin_mul_overflow(n, extents[d], &n)) n = INT64_MAX;
  }
  return n;
}
inline int64_t numel(const Array& a) { return product(a.shape, a.ndim < kMaxDims ? a.ndim : kMaxDims); }

// Where logits come from and which law they define.
struct SweepParams {
  Array logits;       // [B, W, V], or packed [R, V]
  Array uncond;       // like logits; combined as u + (w + 1)(c - u)
  Array suppress;     // [n] int64: ids that count as -inf
  Array temperature;  // [1] or [B] float32
  double cfg_scale = 0;
  double softcap = 0;  // c: every logit z becomes c tanh(z / c), before anything else; 0: as they are
  Array top_k;         // [1] or [B] int64: 0 = off. These filters make the law that is drawn from: cutoff.h
  Array top_p;         // [1] or [B] float64 in [0, 1]: 1 = off
  Array min_p;         // [1] or [B] float64 in [0, 1]: 0 = off
  const char* filter_order = "top_k_first";  // or "top_p_first"
  bool drop_crossing = false, keep_ties = false;
};

// Which canvas position a logits row belongs to.
struct PlaceParams {
  Array start;         // [1] or [B] int64: position of row (b, 0)
  Array rows;          // [R] int64: b * L + position, -1 = padding
  int64_t length = 0;  // L
  int64_t shift = 0;   // 0, or -1: position i reads row i - 1 (Dream)
};

// How a token is drawn and scored.
struct DrawParams {
  Array seed;     // [1] or [B] int64
  Array step;     // one int64
  Array uniform;  // rows' shape, float64 in (0, 1): overrides the keyed uniform; [..., n] where a step needs n of them
  Array demote;   // [n] int64: ids whose positions rank last
  Array current;  // rows' shape int64, -1 = none: what "gain" and "change" compare with; steps take it from the canvas
  const char* confidence = "prob";
  const char* confidence_from = "raw";
  const char* conf_dtype = "float32";
  double rank_temperature = 0;  // > 0: rank at random by it, confidence.h
};

// Revision counters, updated where positions change; not given: none are kept. trace.h
struct TraceParams {
  Array positions;  // [B, L, 8] int32, contiguous: a PositionTrace each
  Array steps;      // [S, B, kNumTraceColumns] int64, contiguous: events per step
  Array step;       // one int64: now
};

// Token editing, besides a rule. edit.h
struct EditParams {
  bool on = false;
  double level = 0;  // confidence that an edit must exceed
  Array left;        // [B] int64: steps in which a sequence without masks may still edit; not given: no limit
  Array edited;      // rows' shape bool, and [B] int64: outputs, each may be missing
  Array num_edited;
};

// What a position holds, as bits.
enum Holding : int32_t { kMask = 1, kToken = 2 };

// Which positions may change, how many do, and who takes note of it.
struct DecideParams {
  Array x;       // [B, L] int64 or int32
  Array frozen;  // [B, L] bool
  Array quota;   // [1] or [B] int64
  int64_t mask_id = 0;
  bool has_mask = true;    // false: every position is open, whatever it holds
  int32_t writes = kMask;  // else the positions that a step may write, by what they hold
  EditParams edit;
  Array ready;      // rows' shape bool: a threshold counts only these positions; not given: all
  Array committed;  // [B, L] bool: positions that are closed for good; renoise_step_ closes more, and its quota counts
  Array done;       // [B] bool: sequences that are left alone
  TraceParams trace;
  int64_t window_start = 0;
  int64_t window_stop = -1;  // -1: L
  const char* rule = "topk";
  double level = 0, low = 0;  // decide.h: what they are depends on the rule
  bool strict = true;
};

// What renoise_step_ carries from step to step besides DecideParams' committed and done; each may be missing.
struct RenoiseParams {
  Array argmax;           // [B, L], dtype of x: the most probable canvas
  Array unchanged;        // [B] int64: for how many steps in a row argmax was the same
  Array probs;            // rows' shape + [V], bfloat16: the law of confidence_from
  int64_t stability = 1;  // done: argmax unchanged for this many steps,
  double confident = 0;   // and the mean entropy of the sequence below this
};

// Outputs: of the rows' shape and contiguous, counts [B].
struct RowStatsOutputs {
  int64_t* argmax = nullptr;
  float *max = nullptr, *logsumexp = nullptr, *second = nullptr, *rest = nullptr, *entropy = nullptr,
        *p_given = nullptr;
  bool* bad = nullptr;
};

struct DrawOutputs {
  int64_t* tokens = nullptr;
  float *confidence = nullptr, *key = nullptr, *logprob = nullptr, *entropy = nullptr;
  bool* bad = nullptr;
};

struct UnmaskOutputs {
  bool* committed = nullptr;
  int64_t *num_committed = nullptr, *num_open = nullptr, *num_bad = nullptr;  // num_open: not of renoise_step_
};

struct StepOutputs {
  void* tokens = nullptr;  // dtype of x
  float* confidence = nullptr;
  UnmaskOutputs unmask;
};

struct RenoiseOutputs {
  void* argmax = nullptr;  // dtype of x
  float* entropy = nullptr;
  bool* done = nullptr;  // [B]: at rest, now or before
};

struct TransitionOutputs {
  void* tokens = nullptr;    // dtype of x
  uint8_t* route = nullptr;  // Route
  float *p_current = nullptr, *confidence = nullptr;
  int64_t *num_changed = nullptr, *num_bad = nullptr;
};

struct NoisingOutputs {
  void* x_t = nullptr;  // dtype of x_0
  uint8_t* route = nullptr;
};

struct RowStatsArgs {
  SweepParams sweep;
  Array given;  // rows' shape int64, -1 = none
  RowStatsOutputs out;
};

struct DrawArgs {
  SweepParams sweep;
  PlaceParams place;
  DrawParams draw;
  DrawOutputs out;
};

struct StepArgs {
  SweepParams sweep;
  PlaceParams place;
  DrawParams draw;
  DecideParams decide;
  StepOutputs out;
};

// A step whose candidates either take their draw or fall back to noise.
struct RenoiseArgs {
  StepArgs step;         // draw.uniform: [..., 2] for draw and noise
  int64_t mask_id = -1;  // never drawn as noise; -1: none
  RenoiseParams state;
  RenoiseOutputs out;
};

struct TransitionArgs {
  SweepParams sweep;
  PlaceParams place;
  DrawParams draw;       // uniform: [..., 3] for route, draw and noise
  DecideParams decide;   // which positions may change
  Array coefficients;    // [1, 14], [B, 14] or [B, L, 14] float64: transition.h
  int64_t mask_id = -1;  // never drawn as noise, and never by a law if suppressed there; -1: none
  const char* tempered = "before";
  const char* redraw = "none";  // redraw.h
  double level = 0;             // of the redraw
  TransitionOutputs out;
};

struct NoisingArgs {
  Array x;                    // [B, L] int64 or int32: x_0
  Array rates;                // [1, 2], [B, 2] or [B, L, 2] float64: probability of uniform noise, and of the mask
  Array frozen;               // [B, L] bool
  Array seed, step, uniform;  // uniform: [B, L, 2] for route and noise
  int64_t vocab = 0, mask_id = -1;
  NoisingOutputs out;
};

struct DivergenceOutputs {
  float* kl = nullptr;
  bool* bad = nullptr;
};

struct DivergenceArgs {
  Array logits, previous;  // [B, W, V] or [R, V]; their dtypes may differ
  Array temperature;       // [1], [B] or [R] float32
  Array wanted;            // rows' shape bool: the others are not read
  DivergenceOutputs out;
};

// Ranks open positions and writes tokens, or (remask) filled ones from the lowest confidence and writes the mask.
struct UnmaskArgs {
  bool remask = false;
  double below = kInfinity;  // only those of lower confidence are remasked
  Array tokens;              // rows' shape, dtype of x; not for remask
  Array confidence;          // rows' shape, any float dtype
  PlaceParams place;
  DecideParams decide;
  UnmaskOutputs out;
};

}  // namespace dlm
