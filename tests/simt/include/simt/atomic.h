// Atomics: plain read-modify-write, since no other thread runs in between. Compiled with the kernel, so that
// AddressSanitizer sees the access.
#pragma once

#include <cstring>

#include "site.h"
#include "types.h"

namespace simt {

// Around every atomic. `changed` tells waiting from working: a launch in which only the former happens is a livelock.
void atomic_begin(const void* address, size_t size, Site site);
void atomic_end(bool changed, Site site);

// noinline: a sanitized caller must not make it its own. `update` keeps no state, which would be an access as well.
template <class T, class Update>
SIMT_MACHINE __attribute__((noinline)) T atomic_update(T* address, T compare, T value, Site site, Update update) {
  atomic_begin(address, sizeof(T), site);
  const T old = *address, now = update(old, compare, value);
  *address = now;
  atomic_end(std::memcmp(&old, &now, sizeof(T)) != 0, site);
  return old;
}

}  // namespace simt

// clang-format off
#define SIMT_ATOMIC(name, T, expression)                                                   \
  inline T name(T* address, T value, simt::Site site = simt::Site::here()) {               \
    return simt::atomic_update(address, static_cast<T>(0), value, site,                                  \
                               [](T old, T, T value) -> T { return expression; });         \
  }
SIMT_ATOMIC(atomicAdd, int, static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value)))  // wraps
SIMT_ATOMIC(atomicAdd, unsigned, old + value)
SIMT_ATOMIC(atomicAdd, unsigned long long, old + value)
SIMT_ATOMIC(atomicAdd, float, old + value)
SIMT_ATOMIC(atomicAdd, double, old + value)
SIMT_ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
SIMT_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)
SIMT_ATOMIC(atomicMin, int, value < old ? value : old)
SIMT_ATOMIC(atomicMin, unsigned, value < old ? value : old)
SIMT_ATOMIC(atomicMin, long long, value < old ? value : old)
SIMT_ATOMIC(atomicMin, unsigned long long, value < old ? value : old)
SIMT_ATOMIC(atomicMax, int, value > old ? value : old)
SIMT_ATOMIC(atomicMax, unsigned, value > old ? value : old)
SIMT_ATOMIC(atomicMax, long long, value > old ? value : old)
SIMT_ATOMIC(atomicMax, unsigned long long, value > old ? value : old)
SIMT_ATOMIC(atomicExch, int, (static_cast<void>(old), value))
SIMT_ATOMIC(atomicExch, unsigned, (static_cast<void>(old), value))
SIMT_ATOMIC(atomicExch, unsigned long long, (static_cast<void>(old), value))
SIMT_ATOMIC(atomicExch, float, (static_cast<void>(old), value))
SIMT_ATOMIC(atomicAnd, int, old & value)
SIMT_ATOMIC(atomicAnd, unsigned, old & value)
SIMT_ATOMIC(atomicAnd, unsigned long long, old & value)
SIMT_ATOMIC(atomicOr, int, old | value)
SIMT_ATOMIC(atomicOr, unsigned, old | value)
SIMT_ATOMIC(atomicOr, unsigned long long, old | value)
#undef SIMT_ATOMIC

#define SIMT_CAS(T)                                                                        \
  inline T atomicCAS(T* address, T compare, T value, simt::Site site = simt::Site::here()) { \
    return simt::atomic_update(address, compare, value, site,                              \
                               [](T old, T compare, T value) -> T { return old == compare ? value : old; }); \
  }
SIMT_CAS(int)
SIMT_CAS(unsigned)
SIMT_CAS(unsigned long long)
#undef SIMT_CAS
// clang-format on
