// What the race checker says, and the names it knows for places in the code and in memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "race.h"

namespace simt::race {

// Where an access stands, in 32 bits: a program counter relative to this library, or, where the top bit is set, a Site.
constexpr uint32_t kIsSite = 0x80000000;
void anchor();
inline uint32_t site_of(const void* return_address) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(return_address) - reinterpret_cast<uintptr_t>(&anchor)) &
         ~kIsSite;
}
uint32_t site_of(const Site& site);

// Global memory that kernels may touch. If nothing is registered, any address is in bounds.
struct Bounds {
  std::vector<Range> ranges;
  uint32_t generation = 1;  // advances when `ranges` changes

  const Range* nearest(uintptr_t address) const;
  bool holds(uintptr_t address, size_t size) const;
};
extern Bounds bounds;

enum class Kind { read, write, atomic };

[[noreturn]] void report_race(uintptr_t address, Kind before, const Event& by, Kind now, const Event& me);
[[noreturn]] void report_uninitialised(uintptr_t address, size_t size, const Event& me);
[[noreturn]] void report_out_of_bounds(uintptr_t address, size_t size, Kind now, const Event& me);
[[noreturn]] void report_builtin_atomic(const Event& me);
[[noreturn]] void report_misaligned(uintptr_t address, size_t size, const Event& me);

}  // namespace simt::race
