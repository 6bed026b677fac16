// The race checker: what it knows of each CUDA thread, and how barriers, fences and atomics order them.
//
// Happens-before after FastTrack: a thread's `time` advances whenever others may learn of what it did; an access is
// ordered before another if the second thread's past holds the first one's (thread, time). Barriers and __syncwarp join
// pasts. Across blocks the rules are those of C++ fences: a fence followed by an atomic releases, an atomic followed by
// a fence acquires, both in the same thread. Shuffles and ballots order nothing. Launches are ordered by the stream.
//
// Not seen: what memcpy() calls touch; a third concurrent reader of a cell; a vector load that the compiler splits into
// its members, as one load; in a very long launch, blocks that ended millions of events ago.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "hooks.h"
#include "race_clock.h"
#include "race_shadow.h"

namespace simt::race {

struct Range {
  uintptr_t begin, end;
  std::string name;
  bool holds(uintptr_t address, size_t size) const { return address >= begin && address + size <= end; }
};

struct Block {
  int64_t index = -1;
  uint32_t first = 0;  // its threads in the grid are [first, first + launch.threads)
  Range arena{};
  std::vector<Range> shared;  // its objects
};

constexpr int kScopes = 2;  // of fences: Scope::block, Scope::device

struct Thread {
  uint32_t id = 0;    // in the grid: block * threads per block + index in the block
  uint32_t time = 0;  // of its next access
  uint32_t all = 0;   // what its block did up to this time is past
  uint32_t warp = 0;  // what its warp did up to this time is past
  Block* block = nullptr;
  Past past;               // what else is
  Past released[kScopes];  // its past at the last fence, which its next atomic publishes
  Past pending[kScopes];   // what its atomics since then have seen published, which its next fence acquires

  struct Recent {
    uint32_t site, time;
    EventId event;
  };
  Recent recent[16] = {};  // its latest events, by a hash of the site
};

struct Event {
  uint32_t thread, time;  // as in Thread
  uint32_t site;          // see race_report.h
  bool atomic;
};

struct Launch {
  uint32_t threads = 1;  // per block
  bool preempt = false;
  uintptr_t host_stack = 0;  // where it stood
  EventId first_event = 1;   // of this launch
  std::vector<Event> events;

  const Event& event(EventId id) const { return events[id - first_event]; }
};

extern Launch launch;
extern Shadow shadow;
extern __thread Thread* current;  // whose accesses follow; nullptr outside kernels

inline bool same_block(const Event& event, const Thread& me) { return event.thread - me.block->first < launch.threads; }

inline bool covers(const Past& past, const Event& event) {
  return past && covers(past, event.thread / launch.threads, event.thread % launch.threads, event.time);
}

inline bool is_past(const Event& event, const Thread& me) {
  if (event.thread == me.id) return true;
  if (same_block(event, me)) {
    if (event.time <= me.all) return true;
    const uint32_t first = me.block->first;
    if (event.time <= me.warp && (event.thread - first) / 32 == (me.id - first) / 32) return true;
  }
  return covers(me.past, event);
}

// race_order.cpp: what a relaxed atomic on `address` does to the order, as far as it loads and as far as it stores; a
// read-modify-write `continues` the release that it found there.
void acquire(Thread& me, uintptr_t address);
void release(Thread& me, uintptr_t address, bool continues);

// race.cpp: what any access is checked for, before a read-modify-write.
void check_atomic(const void* address, size_t size, uint32_t site);

}  // namespace simt::race
