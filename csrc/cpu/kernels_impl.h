// The inner loops, written once over Vec and compiled once per instruction set (kernels_*.cpp). Everything here has
// internal linkage: an AVX-512 copy of an inline function must never be the one the linker keeps for everybody.
#pragma once

#include <cmath>

#include "kernels.h"

namespace {

using dlm::cpu::LawScales;
using dlm::cpu::RunStats;

constexpr int kBlock = 4 * Vec::kWidth;

// exp2 below this adds nothing that a float sum beside a term >= 2^-kMaxLead could hold; the bit-shift Vecs cannot go
// lower. -inf lands here too: invert() guards against drawing it.
constexpr float kLowest = -126.0f;

// A page ahead: hardware prefetchers stop at page boundaries, which a row of logits crosses every half microsecond
// (bench/notes/avx2-exp2.md). Past the end of the data a prefetch does nothing.
constexpr uintptr_t kAhead = 4096;

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
    for (uintptr_t line = 0; line < kBlock * sizeof(T); line += 64) {
      __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(z + i) + kAhead + line));
    }
    Vec::load(z + i, block);
    if (body(block, i)) return;
  }
  if (i < n) {
    T tail[kBlock];
    for (int j = 0; j < kBlock; ++j) tail[j] = i + j < n ? z[i + j] : negative_infinity<T>();
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

// Lanes in a fixed order, in double: part of what makes sums repeat bit for bit.
template <int kVecs>
double lane_sum(const Vec (&acc)[kVecs]) {
  float lanes[kVecs * Vec::kWidth];
  for (int i = 0; i < kVecs; ++i) acc[i].store(lanes + i * Vec::kWidth);
  double sum = 0;
  for (float lane : lanes) sum += lane;
  return sum;
}

inline float lane_max(const Vec (&top)[2]) {
  float lanes[2 * Vec::kWidth], max = -dlm::kInfinity;
  for (int i = 0; i < 2; ++i) top[i].store(lanes + i * Vec::kWidth);
  for (float lane : lanes) max = dlm::max_of(max, lane);
  return max;
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
    for (int i = 0; i < 4; ++i) {
      top[i % 2] = Vec::max(block[i], top[i % 2]);
      const Vec d = block[i] - ref;
      const Vec low = Vec::max(lowest, d);  // NaN stays: it is the second operand
      // The same operation with and without tilt: asking for entropy must not move a confidence by an ulp.
      mass[i % 2] = Vec::add_exp2(low, scale, mass[i % 2]);
      if constexpr ((kFlags & dlm::cpu::kTilt) != 0) {
        tilt[i % 2] = Vec::fma(Vec::add_exp2(low, scale, zero), low, tilt[i % 2]);
      }
      if constexpr ((kFlags & dlm::cpu::kTwoLaws) != 0) {
        draw[i % 2] = Vec::add_exp2(Vec::max(draw_lowest, d), draw_scale, draw[i % 2]);
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

// A block holding no more than this has no token to draw: what is left there are clamped -inf.
constexpr double kNoMass = 0x1p-90;

// exp2((z - ref) * draw_scale) of one block of floats, in index order.
inline void draw_terms(const float* z, const LawScales& law, float out[kBlock]) {
  const Vec ref = Vec::set(law.ref), scale = Vec::set(law.draw_scale), lowest = Vec::set(kLowest / law.draw_scale);
  Vec block[4];
  Vec::load(z, block);
  for (int i = 0; i < 4; ++i) {
    Vec::add_exp2(Vec::max(lowest, block[i] - ref), scale, Vec::set(0)).store(out + i * Vec::kWidth);
  }
}

// The index at which the CDF of up to one block passes `left`; the last index with mass if it never does, -1 if none.
template <class T>
int64_t walk_block(const T* z, int64_t n, const LawScales& law, double left) {
  float logit[kBlock], term[kBlock];
  for (int64_t j = 0; j < kBlock; ++j) logit[j] = j < n ? dlm::to_float(z[j]) : -dlm::kInfinity;
  draw_terms(logit, law, term);
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
  const Vec ref = Vec::set(law.ref), scale = Vec::set(law.draw_scale), lowest = Vec::set(kLowest / law.draw_scale);
  double left = *target;
  int64_t hit = -1, live = -1;
  for_each_block_until(z, n, [&](const Vec* block, int64_t i) {
    Vec term[4];
    for (int k = 0; k < 4; ++k) term[k] = Vec::add_exp2(Vec::max(lowest, block[k] - ref), scale, Vec::set(0));
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

template <class T>
constexpr dlm::cpu::DTypeKernels kernels_of() {
  return {{accumulate<T, 0>, accumulate<T, 1>, accumulate<T, 2>, accumulate<T, 3>}, maximum<T>, find<T>, invert<T>};
}

inline dlm::cpu::KernelTable kernel_table(const char* isa) {
  return {isa, {kernels_of<float>(), kernels_of<dlm::BFloat16>(), kernels_of<dlm::Float16>()}};
}

}  // namespace
