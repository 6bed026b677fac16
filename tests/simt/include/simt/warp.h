// Warp collectives. Each lane hands its operand to the runtime, the last one to arrive computes the results of all.
#pragma once

#include <cstring>

#include "site.h"
#include "types.h"

namespace simt {

enum class Collective : uint8_t {
  sync,
  shfl,
  shfl_up,
  shfl_down,
  shfl_xor,
  ballot,
  any,
  all,
  match_any,
  reduce_add,
  reduce_min,
  reduce_max,
  reduce_min_signed,
  reduce_max_signed,
  reduce_and,
  reduce_or,
  reduce_xor,
};

// `value` holds the operand's `bytes` low bytes; `argument` is the source lane, delta or lane mask of a shuffle.
uint64_t collective(Collective kind, unsigned mask, uint64_t value, int bytes, unsigned argument, int width, Site site);

template <class T>
T shuffle(Collective kind, unsigned mask, T value, unsigned argument, int width, Site site) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = collective(kind, mask, bits, sizeof value, argument, width, site);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline unsigned vote(Collective kind, unsigned mask, uint64_t value, int bytes, Site site) {
  return static_cast<unsigned>(collective(kind, mask, value, bytes, 0, 32, site));
}

}  // namespace simt

inline void __syncwarp(unsigned mask = 0xffffffff, simt::Site site = simt::Site::here()) {
  simt::vote(simt::Collective::sync, mask, 0, 0, site);
}

// CUDA's overloads, so that a narrower operand is promoted as there and a wider one is as ambiguous.
#define SIMT_SHUFFLES(T)                                                                                          \
  inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, simt::Site site = simt::Site::here()) {  \
    return simt::shuffle(simt::Collective::shfl, mask, value, static_cast<unsigned>(lane), width, site);          \
  }                                                                                                               \
  inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,                                 \
                          simt::Site site = simt::Site::here()) {                                                 \
    return simt::shuffle(simt::Collective::shfl_up, mask, value, delta, width, site);                             \
  }                                                                                                               \
  inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,                               \
                            simt::Site site = simt::Site::here()) {                                               \
    return simt::shuffle(simt::Collective::shfl_down, mask, value, delta, width, site);                           \
  }                                                                                                               \
  inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,                                 \
                           simt::Site site = simt::Site::here()) {                                                \
    return simt::shuffle(simt::Collective::shfl_xor, mask, value, static_cast<unsigned>(lane_mask), width, site); \
  }
SIMT_SHUFFLES(int)
SIMT_SHUFFLES(unsigned)
SIMT_SHUFFLES(long)
SIMT_SHUFFLES(unsigned long)
SIMT_SHUFFLES(long long)
SIMT_SHUFFLES(unsigned long long)
SIMT_SHUFFLES(float)
SIMT_SHUFFLES(double)
#undef SIMT_SHUFFLES

inline unsigned __ballot_sync(unsigned mask, int predicate, simt::Site site = simt::Site::here()) {
  return simt::vote(simt::Collective::ballot, mask, predicate != 0, 4, site);
}
inline int __any_sync(unsigned mask, int predicate, simt::Site site = simt::Site::here()) {
  return static_cast<int>(simt::vote(simt::Collective::any, mask, predicate != 0, 4, site));
}
inline int __all_sync(unsigned mask, int predicate, simt::Site site = simt::Site::here()) {
  return static_cast<int>(simt::vote(simt::Collective::all, mask, predicate != 0, 4, site));
}

#define SIMT_MATCH(T, Bits)                                                                             \
  inline unsigned __match_any_sync(unsigned mask, T value, simt::Site site = simt::Site::here()) {      \
    return simt::vote(simt::Collective::match_any, mask, static_cast<Bits>(value), sizeof value, site); \
  }
SIMT_MATCH(int, uint32_t)
SIMT_MATCH(unsigned, uint32_t)
SIMT_MATCH(long, uint64_t)
SIMT_MATCH(unsigned long, uint64_t)
SIMT_MATCH(long long, uint64_t)
SIMT_MATCH(unsigned long long, uint64_t)
#undef SIMT_MATCH

#define SIMT_REDUCE(name, T, kind)                                                                          \
  inline T name(unsigned mask, T value, simt::Site site = simt::Site::here()) {                             \
    return static_cast<T>(simt::vote(simt::Collective::kind, mask, static_cast<uint32_t>(value), 4, site)); \
  }
SIMT_REDUCE(__reduce_add_sync, int, reduce_add)
SIMT_REDUCE(__reduce_add_sync, unsigned, reduce_add)
SIMT_REDUCE(__reduce_min_sync, int, reduce_min_signed)
SIMT_REDUCE(__reduce_min_sync, unsigned, reduce_min)
SIMT_REDUCE(__reduce_max_sync, int, reduce_max_signed)
SIMT_REDUCE(__reduce_max_sync, unsigned, reduce_max)
SIMT_REDUCE(__reduce_and_sync, unsigned, reduce_and)
SIMT_REDUCE(__reduce_or_sync, unsigned, reduce_or)
SIMT_REDUCE(__reduce_xor_sync, unsigned, reduce_xor)
#undef SIMT_REDUCE
