// One row of effective logits, as runs of contiguous values: straight from the caller's memory where that is what the
// law reads, through a small stack tile where logits are combined (guidance) or excluded (suppressed ids).
#pragma once

#include <algorithm>

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
};

inline float logit_at(const RowSource& s, int64_t i) {
  if (std::binary_search(s.excluded, s.excluded + s.num_excluded, i)) return -kInfinity;
  const float c = load_float(s.cond, s.dtype, i);
  return s.uncond == nullptr ? c : combine(c, load_float(s.uncond, s.dtype, i), s.cfg_weight);
}

// Calls body(data, dtype, n, index of the first) over [begin, end) in index order until it returns true.
template <class Body>
inline void for_each_run(const RowSource& s, int64_t begin, int64_t end, Body body) {
  const int64_t* id = std::lower_bound(s.excluded, s.excluded + s.num_excluded, begin);
  const int64_t* const last_id = s.excluded + s.num_excluded;
  float tile[kTile];
  for (int64_t i = begin; i < end;) {
    const int64_t hole = id != last_id && *id < end ? *id : end;
    const int64_t direct_end = s.uncond != nullptr ? i : hole == end ? end : begin + (hole - begin) / kTile * kTile;
    if (direct_end > i) {
      const char* data = static_cast<const char*>(s.cond) + i * dtype_size(s.dtype);
      if (body(data, s.dtype, direct_end - i, i)) return;
      i = direct_end;
      continue;
    }
    const int64_t n = min_of(end, begin + ((i - begin) / kTile + 1) * kTile) - i;
    for (int64_t j = 0; j < n; ++j) tile[j] = load_float(s.cond, s.dtype, i + j);
    if (s.uncond != nullptr) {
      for (int64_t j = 0; j < n; ++j) tile[j] = combine(tile[j], load_float(s.uncond, s.dtype, i + j), s.cfg_weight);
    }
    for (; id != last_id && *id < i + n; ++id) tile[*id - i] = -kInfinity;
    if (body(tile, kFloat32, n, i)) return;
    i += n;
  }
}

}  // namespace dlm::cpu
