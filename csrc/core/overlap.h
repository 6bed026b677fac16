// Whether elements of arrays share memory, exactly: writing one would then change the other. Addresses only, no data.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "dtype.h"
#include "params.h"

namespace dlm {

// Byte addresses [low, high) of the elements; empty for an empty or missing array.
struct Span {
  int64_t low = 0, high = 0;
};

inline Span span_of(const Array& a) {
  if (!given(a)) return {};
  const int64_t size = dtype_size(a.dtype);
  Span s;
  s.low = static_cast<int64_t>(reinterpret_cast<intptr_t>(a.data));
  s.high = s.low + size;
  for (int32_t d = 0; d < a.ndim && d < kMaxDims; ++d) {
    if (a.shape[d] == 0) return {};
    const int64_t reach = (a.shape[d] - 1) * a.stride[d] * size;
    (reach < 0 ? s.low : s.high) += reach;
  }
  return s;
}

inline bool is_empty(const Span& s) { return s.low == s.high; }
inline bool meet(const Span& a, const Span& b) { return a.low < b.high && b.low < a.high; }

// visit(address) -> whether to go on, for every element.
template <class Visit>
bool for_each_element(const Array& a, int64_t address, int32_t dim, const Visit& visit) {
  if (dim == min_of(a.ndim, kMaxDims)) return visit(address);
  for (int64_t i = 0; i < a.shape[dim]; ++i) {
    if (!for_each_element(a, address + i * a.stride[dim] * dtype_size(a.dtype), dim + 1, visit)) return false;
  }
  return true;
}

template <class Visit>
bool for_each_element(const Array& a, const Visit& visit) {
  return for_each_element(a, static_cast<int64_t>(reinterpret_cast<intptr_t>(a.data)), 0, visit);
}

// The bytes of a span, and which of them elements have been seen on.
class Marks {
 public:
  explicit Marks(const Span& span) : span_(span), seen_(static_cast<size_t>(span.high - span.low)) {}

  // Whether none of these bytes was seen before.
  bool add(int64_t address, int64_t bytes) {
    bool fresh = true;
    for (int64_t at = std::max(address, span_.low); at < std::min(address + bytes, span_.high); ++at) {
      const auto i = static_cast<size_t>(at - span_.low);
      fresh &= !seen_[i];
      seen_[i] = true;
    }
    return fresh;
  }

 private:
  const Span span_;
  std::vector<bool> seen_;
};

// Slices of one buffer may lie between each other's elements, and share nothing.
inline bool share_memory(const Array& a, const Array& b) {
  const Span of_a = span_of(a), of_b = span_of(b);
  if (!meet(of_a, of_b)) return false;
  Marks marks({std::max(of_a.low, of_b.low), std::min(of_a.high, of_b.high)});
  const int64_t size = dtype_size(a.dtype), other = dtype_size(b.dtype);
  for_each_element(a, [&](int64_t address) { return marks.add(address, size), true; });
  return !for_each_element(b, [&](int64_t address) { return marks.add(address, other); });
}

inline bool overlaps_itself(const Array& a) {
  if (!given(a) || numel(a) == 0) return false;
  using Dim = std::pair<int64_t, int64_t>;
  Dim dims[kMaxDims], *end = dims;  // (stride, size) in order, none of size 1
  for (int32_t d = 0; d < a.ndim && d < kMaxDims; ++d) {
    if (a.shape[d] <= 1) continue;
    const Dim dim{std::abs(a.stride[d]), a.shape[d]};
    Dim* place = end++;
    for (; place != dims && dim < place[-1]; --place) *place = place[-1];
    *place = dim;
  }
  int64_t reach = 0;  // of the dimensions inside: each index of this one is clear of them
  for (const auto* dim = dims; dim != end; ++dim) {
    const auto [stride, size] = *dim;
    if (stride == 0) return true;
    if (stride <= reach) {
      Marks marks(span_of(a));
      return !for_each_element(a, [&](int64_t address) { return marks.add(address, dtype_size(a.dtype)); });
    }
    reach += (size - 1) * stride;
  }
  return false;
}

}  // namespace dlm
