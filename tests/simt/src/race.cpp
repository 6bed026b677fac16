// The callbacks that g++ -fsanitize=thread puts before every load and store of the kernels; libtsan is not linked. The
// runtime's own objects are compiled without it.
#include "race.h"

#include <dlfcn.h>

#include <algorithm>

#include "race_report.h"

namespace simt::race {

namespace {

constexpr uintptr_t kHostFrames = 64 * 1024;  // of launch() and its callers

Kind kind_of(const Event& event, Kind plain) { return event.atomic ? Kind::atomic : plain; }

[[gnu::noinline]] EventId new_event(Thread& me, Thread::Recent& recent, uint32_t site, bool atomic) {
  launch.events.push_back({me.id, me.time, site, atomic});
  const EventId id = launch.first_event + static_cast<EventId>(launch.events.size() - 1);
  recent = {site, me.time, id};
  return id;
}

EventId event_of(Thread& me, uint32_t site, bool atomic) {
  Thread::Recent& recent = me.recent[(site * 0x9E3779B1u) >> 28];
  return recent.site == site && recent.time == me.time ? recent.event : new_event(me, recent, site, atomic);
}

bool is_live(EventId id) { return id >= launch.first_event; }  // of this launch

// In a shared cell lies what an earlier block of the same slot did.
bool is_over(EventId before, const Thread& me, Memory memory) {
  if (!is_live(before)) return true;
  const Event& event = launch.event(before);
  return is_past(event, me) || (memory == Memory::shared && !same_block(event, me));
}

void check_order(EventId before, Kind kind, EventId now, Kind kind_now, const Thread& me, Memory memory,
                 uintptr_t address) {
  if (is_over(before, me, memory)) return;
  const Event &event = launch.event(before), &event_now = launch.event(now);
  if (event.atomic && event_now.atomic) return;
  report_race(address, kind_of(event, kind), event, kind_of(event_now, kind_now), event_now);
}

void check_read(Cell& cell, EventId now, const Thread& me, Memory memory, uintptr_t address) {
  if (cell.reads[0] == now || cell.reads[1] == now) return;
  check_order(cell.write, Kind::write, now, Kind::read, me, memory, address);
  // Of several concurrent readers the first and the latest are kept: a write that one of them makes meets the other.
  cell.reads[is_over(cell.reads[0], me, memory) ? 0 : 1] = now;
}

void check_write(Cell& cell, EventId now, const Thread& me, Memory memory, uintptr_t address) {
  if (cell.write != now) check_order(cell.write, Kind::write, now, Kind::write, me, memory, address);
  for (const EventId read : cell.reads) check_order(read, Kind::read, now, Kind::write, me, memory, address);
  cell = {now, {}};
}

// The launch's arguments on the stack and constants of a loaded library need no registration.
bool is_of_host(uintptr_t address) {
  Dl_info library;
  return address - launch.host_stack < kHostFrames || dladdr(reinterpret_cast<void*>(address), &library) != 0;
}

[[gnu::noinline]] void check_global(Page& page, uintptr_t address, size_t size, Kind kind, EventId now) {
  if (bounds.holds(address & ~(kPageBytes - 1), kPageBytes)) {
    page.in_bounds = bounds.generation;
  } else if (!bounds.holds(address, size) && !is_of_host(address)) {
    report_out_of_bounds(address, size, kind, launch.event(now));
  }
}

// Shared memory has objects and no contents at the start of a block.
void check_shared(const Cell* begin, const Cell* end, uintptr_t address, size_t size, bool reads, Kind kind,
                  EventId now, const Thread& me) {
  const auto holds = [&](const Range& range) { return range.holds(address, size); };
  const std::vector<Range>& objects = me.block->shared;
  if (std::none_of(objects.begin(), objects.end(), holds)) {
    report_out_of_bounds(address, size, kind, launch.event(now));
  }
  const auto written = [&](const Cell& cell) {
    return is_live(cell.write) && same_block(launch.event(cell.write), me);
  };
  // A structure is copied with its padding, so one written cell is enough.
  if (reads && std::none_of(begin, end, written)) report_uninitialised(address, size, launch.event(now));
}

[[gnu::always_inline]] inline void check(uintptr_t address, size_t size, uint32_t site, bool reads, bool writes,
                                         bool atomic) {
  if (!current) return;
  if (launch.preempt) preempt();
  Thread& me = *current;
  const EventId now = event_of(me, site, atomic);
  const Kind kind = atomic ? Kind::atomic : writes ? Kind::write : Kind::read;
  if (address + size > Shadow::kAddresses) report_out_of_bounds(address, size, kind, launch.event(now));
  while (size > 0) {
    const size_t piece = std::min<size_t>(size, kPageBytes - (address & (kPageBytes - 1)));
    Page& page = shadow.page(address);
    if (page.memory == Memory::untracked) return;
    Cell* cell = shadow.cell(page, address, piece);
    Cell* const end = cell + (piece >> page.shift);
    if (page.memory == Memory::shared) {
      check_shared(cell, end, address, piece, reads, kind, now, me);
    } else if (page.in_bounds != bounds.generation) {
      check_global(page, address, piece, kind, now);
    }
    for (; cell != end; ++cell) {
      if (writes) {
        check_write(*cell, now, me, page.memory, address);
      } else {
        check_read(*cell, now, me, page.memory, address);
      }
    }
    address += piece;
    size -= piece;
  }
}

[[gnu::always_inline]] inline void check_aligned(uintptr_t address, size_t size, uint32_t site, bool reads,
                                                 bool writes) {
  if (current && address % size != 0) {
    report_misaligned(address, size, launch.event(event_of(*current, site, false)));
  }
  check(address, size, site, reads, writes, false);
}

}  // namespace

void check_atomic(const void* address, size_t size, uint32_t site) {
  check(reinterpret_cast<uintptr_t>(address), size, site, true, true, true);
}

namespace {

// Volatile accesses are relaxed atomics of their own.
void check_volatile(uintptr_t address, size_t size, uint32_t site, bool writes) {
  if (!current) return;
  check(address, size, site, !writes, writes, true);
  if (writes) {
    release(*current, address, false);
  } else {
    acquire(*current, address);
  }
}

// Kernels have atomicAdd() and its like. The compiler's own atomics come from the host code beside them.
void refuse_atomic(uint32_t site) {
  if (current) report_builtin_atomic(launch.event(event_of(*current, site, true)));
}

}  // namespace
}  // namespace simt::race

#define ADDRESS reinterpret_cast<uintptr_t>(address)
#define SITE simt::race::site_of(__builtin_return_address(0))

#define PLAIN(bytes)                                                                                                 \
  void __tsan_read##bytes(void* address) { simt::race::check_aligned(ADDRESS, bytes, SITE, true, false); }           \
  void __tsan_write##bytes(void* address) { simt::race::check_aligned(ADDRESS, bytes, SITE, false, true); }          \
  void __tsan_unaligned_read##bytes(void* address) { simt::race::check(ADDRESS, bytes, SITE, true, false, false); }  \
  void __tsan_unaligned_write##bytes(void* address) { simt::race::check(ADDRESS, bytes, SITE, false, true, false); } \
  void __tsan_volatile_read##bytes(void* address) { simt::race::check_volatile(ADDRESS, bytes, SITE, false); }       \
  void __tsan_volatile_write##bytes(void* address) { simt::race::check_volatile(ADDRESS, bytes, SITE, true); }

#define RMW(bits, T, name)                                            \
  T __tsan_atomic##bits##_##name(volatile T* address, T value, int) { \
    simt::race::refuse_atomic(SITE);                                  \
    return __atomic_##name(address, value, __ATOMIC_SEQ_CST);         \
  }
#define CAS(bits, T, name)                                                                                   \
  int __tsan_atomic##bits##_compare_exchange_##name(volatile T* address, T* expected, T value, int, int) {   \
    simt::race::refuse_atomic(SITE);                                                                         \
    return __atomic_compare_exchange_n(address, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }
#define ATOMICS(bits, T)                                                \
  T __tsan_atomic##bits##_load(const volatile T* address, int) {        \
    simt::race::refuse_atomic(SITE);                                    \
    return __atomic_load_n(address, __ATOMIC_SEQ_CST);                  \
  }                                                                     \
  void __tsan_atomic##bits##_store(volatile T* address, T value, int) { \
    simt::race::refuse_atomic(SITE);                                    \
    __atomic_store_n(address, value, __ATOMIC_SEQ_CST);                 \
  }                                                                     \
  T __tsan_atomic##bits##_exchange(volatile T* address, T value, int) { \
    simt::race::refuse_atomic(SITE);                                    \
    return __atomic_exchange_n(address, value, __ATOMIC_SEQ_CST);       \
  }                                                                     \
  RMW(bits, T, fetch_add)                                               \
  RMW(bits, T, fetch_sub)                                               \
  RMW(bits, T, fetch_and)                                               \
  RMW(bits, T, fetch_or)                                                \
  RMW(bits, T, fetch_xor)                                               \
  RMW(bits, T, fetch_nand)                                              \
  CAS(bits, T, strong)                                                  \
  CAS(bits, T, weak)

extern "C" {
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)
ATOMICS(8, uint8_t)
ATOMICS(16, uint16_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)

void __tsan_read_range(void* address, size_t size) { simt::race::check(ADDRESS, size, SITE, true, false, false); }
void __tsan_write_range(void* address, size_t size) { simt::race::check(ADDRESS, size, SITE, false, true, false); }
void __tsan_atomic_thread_fence(int) {
  simt::race::refuse_atomic(SITE);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
void __tsan_atomic_signal_fence(int) {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
