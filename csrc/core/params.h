// The PODs that cross every layer: what the caller passed, as pointers, shapes and element strides. No tensor type,
// no ownership. Outputs and workspaces come from the caller; a backend never allocates.
#pragma once

#include "hd.h"

namespace dlm {

constexpr int32_t kMaxDims = 6;  // ops take up to 3; the rest is for the error that prints them

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

DLM_HD int64_t numel(const Array& a) {
  int64_t n = 1;
  for (int32_t d = 0; d < a.ndim && d < kMaxDims; ++d) n *= a.shape[d];
  return n;
}

// Where logits come from and which law they define.
struct SweepParams {
  Array logits;       // [B, W, V], or packed [R, V]
  Array uncond;       // like logits; combined as u + (w + 1)(c - u)
  Array suppress;     // [n] int64: ids that count as -inf
  Array temperature;  // [1] or [B] float32
  double cfg_scale = 0;
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
  Array uniform;  // rows' shape, float64 in (0, 1): overrides the keyed uniform
  Array demote;   // [n] int64: ids whose positions rank last
  const char* confidence = "prob";
  const char* confidence_from = "raw";
  const char* conf_dtype = "float32";
};

// Which positions may change, and how many do.
struct DecideParams {
  Array x;       // [B, L] int64 or int32
  Array frozen;  // [B, L] bool
  Array quota;   // [1] or [B] int64
  int64_t mask_id = 0;
  int64_t window_start = 0;
  int64_t window_stop = -1;  // -1: L
  const char* rule = "topk";
  double level = 0;
  bool strict = true;
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
  int64_t *num_committed = nullptr, *num_open = nullptr, *num_bad = nullptr;
};

struct StepOutputs {
  void* tokens = nullptr;  // dtype of x
  float* confidence = nullptr;
  UnmaskOutputs unmask;
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

struct UnmaskArgs {
  Array tokens;      // rows' shape, dtype of x
  Array confidence;  // rows' shape, any float dtype
  PlaceParams place;
  DecideParams decide;
  UnmaskOutputs out;
};

}  // namespace dlm
