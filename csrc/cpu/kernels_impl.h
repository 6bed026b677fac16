// The inner loops, written once over Vec and compiled once per instruction set (kernels_*.cpp). Everything here has
// internal linkage: an AVX-512 copy of an inline function must never be the one the linker keeps for everybody.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels.h"

namespace {

using dlm::cpu::AffineScales;
using dlm::cpu::LawScales;
using dlm::cpu::RunStats;

constexpr int kBlock = 4 * Vec::kWidth, kStep = Vec::kStep;

// exp2 below this adds nothing that a float sum beside a term >= 2^-kMaxLead could hold; no Vec's exp2 goes lower. -inf
// lands here too: invert() guards against drawing it.
constexpr float kLowest = -123.0f;

// A page ahead: hardware prefetchers stop at page boundaries, which a row of 16-bit logits crosses every half
// microsecond (bench/notes/avx2-exp2.md). Not for fp32, where the memory is busy anyway and prefetches cost 5 to 15 %
// (bench/notes/avx512.md). Past the end of the data a prefetch does nothing.
template <class T>
constexpr uintptr_t kAhead = sizeof(T) < sizeof(float) ? 4096 : 0;

template <class T>
T negative_infinity();
template <>
inline float negative_infinity<float>() {
  return -dlm::kInfinity;
}
template <>
inline dlm::BFloat16 negative_infinity<dlm::BFloat16>() {
  return {0xff80};
}
template <>
inline dlm::Float16 negative_infinity<dlm::Float16>() {
  return {0xfc00};
}

// Calls body(4 Vecs, index of the first logit) block by block until it returns true; the tail is padded with -inf.
template <class T, class Body>
inline __attribute__((always_inline)) void for_each_block_until(const T* z, int64_t n, Body body) {
  Vec block[4];
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    for (uintptr_t line = 0; kAhead<T> > 0 && line < kBlock * sizeof(T); line += 64) {
      __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(z + i) + kAhead<T> + line));
    }
    Vec::load(z + i, block);
    if (body(block, i)) return;
  }
  if (i < n) {
    T tail[kBlock];
    for (T& each : tail) each = negative_infinity<T>();
    int64_t j = 0;  // chunks are cut at multiples of 16
    for (; i + j + 16 <= n; j += 16) memcpy(tail + j, z + i + j, 16 * sizeof(T));
    for (; i + j < n; ++j) tail[j] = z[i + j];
    Vec::load(tail, block);
    body(block, i);
  }
}

template <class T, class Body>
inline __attribute__((always_inline)) void for_each_block(const T* z, int64_t n, Body body) {
  for_each_block_until(z, n, [&](const Vec* block, int64_t) __attribute__((always_inline)) {
    body(block);
    return false;
  });
}

// x[0] op ... op x[n - 1] in one fixed order: part of what makes sums repeat bit for bit. By halves, because a chunk
// waits for it.
template <int n, class T, class Op>
inline __attribute__((always_inline)) T fold(T* x, Op op) {
  if constexpr (n > 1) {
    for (int i = 0; i < n / 2; ++i) x[i] = op(x[i], x[i + n / 2]);
    return fold<n / 2>(x, op);
  }
  return x[0];
}

// Lanes in double.
template <int kVecs>
inline double lane_sum(const Vec (&acc)[kVecs]) {
  constexpr int kLanes = kVecs * Vec::kWidth;
  float lanes[kLanes];
  for (int i = 0; i < kVecs; ++i) acc[i].store(lanes + i * Vec::kWidth);
  double sum[kLanes];
  for (int i = 0; i < kLanes; ++i) sum[i] = lanes[i];
  return fold<kLanes>(sum, [](double a, double b) { return a + b; });
}

inline float lane_max(const Vec (&top)[2]) {
  float lanes[Vec::kWidth];
  Vec::max(top[0], top[1]).store(lanes);
  return fold<Vec::kWidth>(lanes, [](float a, float b) { return dlm::max_of(a, b); });
}

template <class T, int kFlags>
void accumulate(const void* data, int64_t n, const LawScales& law, RunStats* out) {
  const T* z = static_cast<const T*>(data);
  const Vec ref = Vec::set(law.ref), scale = Vec::set(law.scale), draw_scale = Vec::set(law.draw_scale);
  const Vec lowest = Vec::set(kLowest / law.scale), draw_lowest = Vec::set(kLowest / law.draw_scale);
  const Vec zero = Vec::set(0);
  // Two chains each: enough to hide the latency of an add, few enough to stay in registers.
  Vec mass[2] = {zero, zero}, tilt[2] = {zero, zero}, draw[2] = {zero, zero};
  Vec top[2] = {Vec::set(-dlm::kInfinity), Vec::set(-dlm::kInfinity)};
  for_each_block(z, n, [&](const Vec* block) __attribute__((always_inline)) {
    for (int j = 0; j < 4; j += kStep) {
      Vec d[kStep], fraction[kStep], power[kStep];
      for (int i = 0; i < kStep; ++i) top[(j + i) % 2] = Vec::max(block[j + i], top[(j + i) % 2]);
      // NaN stays: it is the second operand.
      for (int i = 0; i < kStep; ++i) d[i] = Vec::max(lowest, block[j + i] - ref);
      // The same operation with and without tilt: asking for entropy must not move a confidence by an ulp.
      Vec::exp2(d, scale, fraction, power);
      for (int i = 0; i < kStep; ++i) mass[(j + i) % 2] = Vec::fma(fraction[i], power[i], mass[(j + i) % 2]);
      if constexpr ((kFlags & dlm::cpu::kTilt) != 0) {
        for (int i = 0; i < kStep; ++i) tilt[(j + i) % 2] = Vec::fma(fraction[i] * power[i], d[i], tilt[(j + i) % 2]);
      }
      if constexpr ((kFlags & dlm::cpu::kTwoLaws) != 0) {
        for (int i = 0; i < kStep; ++i) d[i] = Vec::max(draw_lowest, block[j + i] - ref);
        Vec::exp2(d, draw_scale, fraction, power);
        for (int i = 0; i < kStep; ++i) draw[(j + i) % 2] = Vec::fma(fraction[i], power[i], draw[(j + i) % 2]);
      }
    }
  });
  out->max = dlm::max_of(out->max, lane_max(top));
  out->mass += lane_sum(mass);
  if constexpr ((kFlags & dlm::cpu::kTilt) != 0) out->tilt += lane_sum(tilt) * static_cast<double>(law.scale);
  if constexpr ((kFlags & dlm::cpu::kTwoLaws) != 0) out->draw_mass += lane_sum(draw);
}

template <class T>
float maximum(const void* data, int64_t n) {
  Vec top[2] = {Vec::set(-dlm::kInfinity), Vec::set(-dlm::kInfinity)};
  for_each_block(static_cast<const T*>(data), n, [&](const Vec* block) __attribute__((always_inline)) {
    for (int i = 0; i < 4; ++i) top[i % 2] = Vec::max(block[i], top[i % 2]);
  });
  return lane_max(top);
}

template <class T>
int64_t find(const void* data, int64_t n, float value) {
  const T* z = static_cast<const T*>(data);
  const Vec target = Vec::set(value);
  int64_t hit = n;
  for_each_block_until(z, n, [&](const Vec* block, int64_t i) __attribute__((always_inline)) {
    bool any = false;
    for (int k = 0; k < 4; ++k) any |= Vec::any_equal(block[k], target);
    if (any) hit = i;
    return any;
  });
  for (; hit < n; ++hit) {
    if (dlm::to_float(z[hit]) == value) return hit;
  }
  return -1;
}

template <class T>
int64_t collect(const void* data, int64_t n, float low, float high, float* out) {
  const Vec least = Vec::set(low), most = Vec::set(high);
  float* end = out;
  for_each_block(static_cast<const T*>(data), n, [&](const Vec* block) __attribute__((always_inline)) {
    for (int i = 0; i < 4; ++i) end += Vec::compress(block[i], least, most, end);
  });
  return end - out;
}

// A block holding no more than this has no token to draw: what is left there are clamped -inf.
constexpr double kNoMass = 0x1p-90;

// exp2((z - ref) * draw_scale) of one block.
inline __attribute__((always_inline)) void draw_terms(const Vec block[4], const LawScales& law, Vec term[4]) {
  const Vec ref = Vec::set(law.ref), lowest = Vec::set(kLowest / law.draw_scale), floor = Vec::set(law.floor);
  for (int j = 0; j < 4; j += kStep) {
    Vec d[kStep], fraction[kStep], power[kStep];
    for (int i = 0; i < kStep; ++i)
      d[i] = Vec::max(lowest, Vec::where_at_least(floor, block[j + i], block[j + i]) - ref);
    Vec::exp2(d, Vec::set(law.draw_scale), fraction, power);
    for (int i = 0; i < kStep; ++i) term[j + i] = fraction[i] * power[i];
  }
}

// The index at which the CDF of up to one block passes `left`; the last index with mass if it never does, -1 if none.
template <class T>
int64_t walk_block(const T* z, int64_t n, const LawScales& law, double left) {
  float logit[kBlock], term[kBlock];
  for (int64_t j = 0; j < kBlock; ++j) logit[j] = j < n ? dlm::to_float(z[j]) : -dlm::kInfinity;
  Vec block[4], terms[4];
  Vec::load(logit, block);
  draw_terms(block, law, terms);
  for (int i = 0; i < 4; ++i) terms[i].store(term + i * Vec::kWidth);
  int64_t last = -1;
  for (int64_t j = 0; j < n; ++j) {
    if (!(term[j] > kNoMass)) continue;
    last = j;
    if (left < term[j]) return j;
    left -= term[j];
  }
  return last;
}

template <class T>
int64_t invert(const void* data, int64_t n, const LawScales& law, double* target, int64_t* last) {
  const T* z = static_cast<const T*>(data);
  double left = *target;
  int64_t hit = -1, live = -1;
  for_each_block_until(z, n, [&](const Vec* block, int64_t i) {
    Vec term[4];
    draw_terms(block, law, term);
    const double sum = lane_sum(term);
    if (!(sum > kNoMass)) return false;
    live = i;
    if (left < sum) {
      hit = i;
      return true;
    }
    left -= sum;
    return false;
  });
  const int64_t block = hit >= 0 ? hit : live;
  if (block >= 0) {
    const int64_t at = walk_block(z + block, n - block < kBlock ? n - block : kBlock, law, hit >= 0 ? left : HUGE_VAL);
    if (at >= 0) *last = block + at;
  }
  *target = left;
  return hit >= 0 ? *last : -1;
}

// body(exp2((z - ref) * scale) of a block, how many of them, index of the first); what is no mass is 0. Widened before
// it is loaded: Vecs of 16-bit logits are in no order.
template <class T, class Body>
inline __attribute__((always_inline)) void for_each_term(const void* data, int64_t n, const LawScales& law, Body body) {
  const T* z = static_cast<const T*>(data);
  LawScales draw = law;
  draw.draw_scale = law.scale;
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t count = n - i < kBlock ? n - i : kBlock;
    float logit[kBlock], term[kBlock];
    for (int64_t j = 0; j < count; ++j) logit[j] = dlm::to_float(z[i + j]);
    for (int64_t j = count; j < kBlock; ++j) logit[j] = -dlm::kInfinity;
    Vec block[4], terms[4];
    Vec::load(logit, block);
    draw_terms(block, draw, terms);
    for (int k = 0; k < 4; ++k) terms[k].store(term + k * Vec::kWidth);
    for (int64_t j = 0; j < kBlock; ++j) term[j] = term[j] > static_cast<float>(kNoMass) ? term[j] : 0;
    body(term, count, i);
  }
}

template <class T>
void exponentials(const void* data, int64_t n, const LawScales& law, float* out) {
  for_each_term<T>(data, n, law, [&](const float* term, int64_t count, int64_t i) {
    for (int64_t j = 0; j < count; ++j) out[i + j] = term[j];
  });
}

// log2 of positive normal numbers, to 5e-8 and the rounding of the result: minimax of degree 8 about the middle of
// [1, 2). Step by step over the Vecs, as exp2 is.
inline __attribute__((always_inline)) void log2(const Vec x[kStep], Vec out[kStep]) {
  constexpr float kPowers[] = {-9.0889083e-3f,  1.47788059e-2f, -2.05787513e-2f, 3.7462901e-2f,
                               -7.12997466e-2f, 1.42526373e-1f, -3.20596844e-1f, 9.61795986e-1f};
  Vec f[kStep], exponent[kStep];
  for (int i = 0; i < kStep; ++i) Vec::split(x[i], &f[i], &exponent[i]);
  for (int i = 0; i < kStep; ++i) f[i] = f[i] - Vec::set(1.5f);
  for (int i = 0; i < kStep; ++i) exponent[i] = exponent[i] - Vec::set(-5.84962487e-1f);
  for (int i = 0; i < kStep; ++i) out[i] = Vec::set(kPowers[0]);
  for (int k = 1; k < 8; ++k) {
    for (int i = 0; i < kStep; ++i) out[i] = Vec::fma(out[i], f[i], Vec::set(kPowers[k]));
  }
  for (int i = 0; i < kStep; ++i) out[i] = Vec::fma(out[i], f[i], exponent[i]);
}

// One block, of kBlock. kPure: no offset, and so no power either, which might underflow.
template <bool kPure, class T>
inline __attribute__((always_inline)) void add_log2_block(const T* z, const LawScales& law, const AffineScales& of,
                                                          float* out) {
  Vec block[4], sum[4];
  if constexpr (sizeof(T) == sizeof(float)) {
    Vec::load(z, block);
  } else {  // Vecs that are loaded from 16-bit logits are in no order
    float logit[kBlock];
    for (int j = 0; j < kBlock; ++j) logit[j] = dlm::to_float(z[j]);
    Vec::load(logit, block);
  }
  Vec::load(out, sum);
  Vec log[4], value[4], least;
  if constexpr (kPure) {
    const Vec floor = Vec::set(law.floor), ref = Vec::set(law.ref), scale = Vec::set(law.scale);
    least = Vec::set(dlm::max_of(-0x1p100f, static_cast<float>(::log2(static_cast<double>(of.least)))));
    const Vec log_slope = Vec::set(static_cast<float>(::log2(static_cast<double>(of.slope))));
    for (int i = 0; i < 4; ++i) {
      log[i] = value[i] = Vec::fma(Vec::where_at_least(floor, block[i], block[i]) - ref, scale, log_slope);
    }
  } else {
    const Vec slope = Vec::set(of.slope), offset = Vec::set(of.offset);
    least = Vec::set(dlm::max_of(of.least, 0x1p-120f));
    draw_terms(block, law, value);
    for (int i = 0; i < 4; ++i) value[i] = Vec::fma(slope, value[i], offset);
    for (int i = 0; i < 4; i += kStep) log2(value + i, log + i);
  }
  for (int i = 0; i < 4; ++i) {
    sum[i] = Vec::where_at_least(least, value[i], Vec::fma(Vec::set(of.factor), log[i], sum[i]));
    sum[i].store(out + i * Vec::kWidth);
  }
}

template <bool kPure, class T>
void add_log2_of(const T* z, int64_t n, const LawScales& law, const AffineScales& of, float* out) {
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) add_log2_block<kPure>(z + i, law, of, out + i);
  if (i == n) return;
  T tail[kBlock];
  float sum[kBlock] = {};
  for (T& each : tail) each = negative_infinity<T>();
  memcpy(tail, z + i, static_cast<size_t>(n - i) * sizeof(T));
  memcpy(sum, out + i, static_cast<size_t>(n - i) * sizeof(float));
  add_log2_block<kPure>(tail, law, of, sum);
  memcpy(out + i, sum, static_cast<size_t>(n - i) * sizeof(float));
}

template <class T>
void add_log2(const void* data, int64_t n, const LawScales& law, const AffineScales& of, float* out) {
  const T* z = static_cast<const T*>(data);
  LawScales draw = law;
  draw.draw_scale = law.scale;
  if (of.offset == 0) {
    add_log2_of<true>(z, n, draw, of, out);
  } else {
    add_log2_of<false>(z, n, draw, of, out);
  }
}

template <class T>
void probabilities(const void* data, int64_t n, const LawScales& law, float share, dlm::BFloat16* out) {
  for_each_term<T>(data, n, law, [&](const float* term, int64_t count, int64_t i) {
    for (int64_t j = 0; j < count; ++j) {
      out[i + j].bits = static_cast<uint16_t>(dlm::float_bits(dlm::round_to_bfloat16(term[j] * share)) >> 16);
    }
  });
}

// tanh(y) = (1 - q) / (1 + q) with q = exp(-2 y), for y >= 0; where that would cancel, its series.
inline void soften(float* z, int64_t n, float cap) {
  LawScales law;
  law.draw_scale = 2 * 1.44269504f / cap;
  for (int64_t i = 0; i < n; i += kBlock) {
    float q[kBlock];
    const int64_t count = n - i < kBlock ? n - i : kBlock;
    for (int64_t j = 0; j < kBlock; ++j) q[j] = j < count ? -fabsf(z[i + j]) : 0;
    Vec block[4], terms[4];
    Vec::load(q, block);
    draw_terms(block, law, terms);
    for (int k = 0; k < 4; ++k) terms[k].store(q + k * Vec::kWidth);
    for (int64_t j = 0; j < count; ++j) {
      const float size = fabsf(z[i + j]), y = size / cap, w = y * y;
      const float series = 1 + w * (-1.0f / 3 + w * (2.0f / 15 + w * (-17.0f / 315 + w * (62.0f / 2835))));
      const float capped = y < 0.25f ? size * series : cap * ((1 - q[j]) / (1 + q[j]));
      if (size < dlm::kInfinity) z[i + j] = copysignf(capped, z[i + j]);
    }
  }
}

template <class T>
constexpr dlm::cpu::DTypeKernels kernels_of() {
  return {{accumulate<T, 0>, accumulate<T, 1>, accumulate<T, 2>, accumulate<T, 3>},
          maximum<T>,
          find<T>,
          invert<T>,
          collect<T>,
          exponentials<T>,
          add_log2<T>,
          probabilities<T>};
}

inline dlm::cpu::KernelTable kernel_table(const char* isa) {
  return {isa, {kernels_of<float>(), kernels_of<dlm::BFloat16>(), kernels_of<dlm::Float16>()}, soften};
}

}  // namespace
