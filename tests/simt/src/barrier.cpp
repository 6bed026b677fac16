// Barriers of a block, fences, and the books that atomics keep.
#include "../include/simt/barrier.h"

#include "../include/simt/atomic.h"
#include "launch.h"

namespace simt {
namespace {

// In a row, of the whole launch and without any change to memory: nobody works any more.
constexpr uint64_t kLivelock = 1 << 22;
// After so many the thread lets others run: a loop that waits for another thread gets to see it.
constexpr uint64_t kPatience = 8;

void idle(Site site) {
  Launch& launch = *Launch::running;
  if (++launch.idle % kPatience != 0) return;
  if (launch.idle >= kLivelock) {
    fail("livelock: atomics and fences change nothing any more, " + describe(current_thread()) + " at " +
         describe(site) + "; a grid-wide wait needs its blocks resident (" + std::to_string(launch.resident_blocks()) +
         " of " + std::to_string(launch.blocks) + " are)");
  }
  launch.yield();
}

void fence(Scope scope, Site site) {
  if (hooks != nullptr) hooks->fence(current_thread(), scope);
  idle(site);
}

}  // namespace

const char* name_of(Barrier kind) {
  static const char* const names[] = {"__syncthreads", "__syncthreads_count", "__syncthreads_and", "__syncthreads_or"};
  return names[static_cast<int>(kind)];
}

int barrier(Barrier kind, bool predicate, Site site) {
  Launch& launch = *Launch::running;
  Fiber& self = launch.fiber();
  Block& block = *self.block;
  self.wait = {};
  self.wait.site = site;
  if (block.exited > 0) {
    fail("barrier after a partial exit: " + describe(self.id) + " in " + name_of(kind) + " at " + describe(site) +
         ", " + std::to_string(block.exited) + " threads of its block have ended");
  }
  if (block.arrived == 0) {
    block.first_arrived = &self;
    block.kind = kind;
  } else if (block.kind != kind || !same_site(block.first_arrived->wait.site, site)) {
    fail("divergent barrier: " + describe(self.id) + " in " + name_of(kind) + " at " + describe(site) + ", " +
         describe(block.first_arrived->id) + " in " + name_of(block.kind) + " at " +
         describe(block.first_arrived->wait.site));
  }
  self.waiting = true;
  block.predicates += predicate;
  if (++block.arrived == block.info.threads) {
    const int count = static_cast<int>(block.predicates);
    block.result = kind == Barrier::count ? count
                   : kind == Barrier::all ? count == static_cast<int>(block.arrived)
                                          : count > 0;
    block.arrived = block.predicates = 0;
    launch.idle = 0;
    if (hooks != nullptr) hooks->barrier(block.info);
    launch.ready.push_group(block.info.threads, [&](uint32_t t) {
      block.fibers[t].waiting = false;
      return &block.fibers[t];
    });
  }
  launch.park();
  return block.result;  // the next barrier waits for this thread, so it is still this one's
}

void fence_block(Site site) { fence(Scope::block, site); }
void fence_device(Site site) { fence(Scope::device, site); }

void atomic_begin(const void* address, size_t size, Site site) {
  const ThreadId thread = current_thread();
  if (reinterpret_cast<uintptr_t>(address) % size != 0) {
    fail("misaligned atomic: " + describe(thread) + " at " + describe(site));
  }
  if (hooks != nullptr) hooks->atomic_access(thread, address, size, site);
}

void atomic_end(bool changed, Site site) {
  if (changed) {
    Launch::running->idle = 0;
  } else {
    idle(site);
  }
}

}  // namespace simt
