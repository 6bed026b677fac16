// The vectorised inner loops, as a table of function pointers: one table per instruction set, chosen at run time.
// They know nothing of rows, rules or randomness; sweep.cpp composes them.
#pragma once

#include <cstdint>

#include "../core/dtype.h"

namespace dlm::cpu {

// exp((z - ref) * beta) is evaluated as exp2((z - ref) * scale), scale = beta * log2(e).
struct LawScales {
  float ref = 0;                         // a logit; sums are relative to it. exp2 may reach 2^kMaxLead before a redo
  float scale = 0;                       // confidence law
  float draw_scale = 0;                  // draw law, read only by kTwoLaws kernels
  float floor = -__builtin_huge_valf();  // logits below it count as -inf, but for accumulate
};

// Largest (max - ref) * scale, in log2 units, that a run of logits may reach: above it sums in float could overflow.
constexpr float kMaxLead = 64.0f;

// slope * exp2((z - ref) * scale) + offset.
struct AffineScales {
  float slope = 0, offset = 0;
  float least = 0;   // what is below counts as 0, and with an offset what is below 2^-120
  float factor = 1;  // of the logarithm
};

struct RunStats {
  float max = -kInfinity;
  double mass = 0;  // sum of exp2((z - ref) * scale)
  double tilt = 0;  // sum of the same times its exponent, log2 units
  double draw_mass = 0;
};

enum AccumulateFlags : int { kPlain = 0, kTilt = 1, kTwoLaws = 2, kNumAccumulateFlags = 4 };

struct DTypeKernels {
  // A run of n contiguous logits: adds to *out. NaN makes mass NaN; -inf adds nothing.
  void (*accumulate[kNumAccumulateFlags])(const void* z, int64_t n, const LawScales& law, RunStats* out);
  float (*maximum)(const void* z, int64_t n);              // NaN may be passed over; accumulate finds it
  int64_t (*find)(const void* z, int64_t n, float value);  // lowest index with z == value, -1 if none
  // Walks the CDF of exp2((z - ref) * draw_scale) in index order until it passes *target. Returns the index, or -1
  // with *target reduced by the run's mass; *last tracks the last index with mass (unchanged if none).
  int64_t (*invert)(const void* z, int64_t n, const LawScales& law, double* target, int64_t* last);
  // The values in [low, high], in any order, `low` above -inf; returns how many. Where z is float, `out` may be z. It
  // has room for 16 more than that.
  int64_t (*collect)(const void* z, int64_t n, float low, float high, float* out);
  void (*exponentials)(const void* z, int64_t n, const LawScales& law, float* out);  // exp2((z - ref) * scale)
  // Adds factor * log2(slope * exp2((z - ref) * scale) + offset) to out, but makes it -inf where that counts as 0.
  void (*add_log2)(const void* z, int64_t n, const LawScales& law, const AffineScales& of, float* out);
  // exp2((z - ref) * scale) * share, rounded to nearest even.
  void (*probabilities)(const void* z, int64_t n, const LawScales& law, float share, BFloat16* out);
};

struct KernelTable {
  const char* isa;
  DTypeKernels dtype[3];                           // by DType: float32, bfloat16, float16
  void (*soften)(float* z, int64_t n, float cap);  // cap * tanh(z / cap) in place, to 1e-7 of cap; -inf, inf, NaN stay
};

const KernelTable& portable_kernels();
#if defined(DLM_X86)
const KernelTable& avx2_kernels();
const KernelTable& avx512_kernels();
#endif
#if defined(DLM_EMULATE_AVX512)
const KernelTable& avx512_emulated_kernels();  // the AVX-512 source over plain C++: tests on CPUs without it
#endif

// dispatch.cpp
const KernelTable& active_kernels();
bool set_isa(const char* name);  // "auto" or a name from isa_names(); false if this machine cannot run it
const char* isa_names();         // comma-separated, best first

}  // namespace dlm::cpu
