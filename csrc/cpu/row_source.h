// One row of effective logits, as runs of contiguous values: straight from the caller's memory where that is what the
// law reads, through a small stack tile where logits are capped, combined (guidance) or excluded (suppressed ids).
#pragma once

#include <algorithm>
#include <cmath>

#include "../core/cutoff.h"
#include "../core/geometry.h"
#include "../core/row_stats.h"

namespace dlm::cpu {

constexpr int64_t kTile = 1024;

struct RowSource {
  const void* cond = nullptr;
  const void* uncond = nullptr;  // null: no guidance
  int32_t dtype = kFloat32;
  float cfg_weight = 1;               // w + 1
  const int64_t* excluded = nullptr;  // sorted ids that count as -inf
  int64_t num_excluded = 0;
  int64_t skipped = -1;                                      // one more
  void (*soften)(float* z, int64_t n, float cap) = nullptr;  // null: no softcap
  float softcap = 0;
  Cutoff cutoff;  // what it does not keep counts as -inf

  // Of a run from i on that for_each_run hands out: lower logits count as -inf.
  float floor_at(int64_t i) const { return i <= cutoff.index ? cutoff.z : std::nextafter(cutoff.z, kInfinity); }
};

// n <= kTile logits from i on, before any is excluded.
inline void load_tile(const RowSource& s, int64_t i, int64_t n, float* tile) {
  for (int64_t j = 0; j < n; ++j) tile[j] = load_float(s.cond, s.dtype, i + j);
  if (s.soften != nullptr) s.soften(tile, n, s.softcap);
  if (s.uncond == nullptr) return;
  float uncond[kTile];
  for (int64_t j = 0; j < n; ++j) uncond[j] = load_float(s.uncond, s.dtype, i + j);
  if (s.soften != nullptr) s.soften(uncond, n, s.softcap);
  for (int64_t j = 0; j < n; ++j) tile[j] = combine(tile[j], uncond[j], s.cfg_weight);
}

inline float logit_at(const RowSource& s, int64_t i) {
  if (i == s.skipped || std::binary_search(s.excluded, s.excluded + s.num_excluded, i)) return -kInfinity;
  float z;
  load_tile(s, i, 1, &z);
  return keeps(s.cutoff, z, i) ? z : -kInfinity;
}

// Returns whether the body did.
template <class Body>
inline bool for_each_run_until(const RowSource& s, int64_t begin, int64_t end, Body& body) {
  const int64_t* id = std::lower_bound(s.excluded, s.excluded + s.num_excluded, begin);
  const int64_t* const last_id = s.excluded + s.num_excluded;
  const bool computed = s.uncond != nullptr || s.soften != nullptr;
  float tile[kTile];
  for (int64_t i = begin; i < end;) {
    int64_t hole = id != last_id && *id < end ? *id : end;
    if (s.skipped >= i && s.skipped < hole) hole = s.skipped;
    const int64_t direct_end = computed ? i : hole == end ? end : begin + (hole - begin) / kTile * kTile;
    if (direct_end > i) {
      const char* data = static_cast<const char*>(s.cond) + i * dtype_size(s.dtype);
      if (body(data, s.dtype, direct_end - i, i)) return true;
      i = direct_end;
      continue;
    }
    const int64_t n = min_of(end, begin + ((i - begin) / kTile + 1) * kTile) - i;
    load_tile(s, i, n, tile);
    for (; id != last_id && *id < i + n; ++id) tile[*id - i] = -kInfinity;
    if (s.skipped >= i && s.skipped < i + n) tile[s.skipped - i] = -kInfinity;
    if (body(tile, kFloat32, n, i)) return true;
    i += n;
  }
  return false;
}

// Calls body(data, dtype, n, index of the first) over [begin, end) in index order until it returns true. What the
// cutoff does not keep is in there: the whole run has one floor.
template <class Body>
inline void for_each_run(const RowSource& s, int64_t begin, int64_t end, Body body) {
  int64_t stop = begin <= s.cutoff.index && s.cutoff.index < end ? s.cutoff.index + 1 : end;
  for (; begin < end && !for_each_run_until(s, begin, stop, body); stop = end) begin = stop;
}

}  // namespace dlm::cpu
