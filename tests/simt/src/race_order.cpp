// The hooks: who is past for whom.
#include <map>
#include <utility>

#include "race.h"
#include "race_report.h"
#include "schedule.h"

namespace simt::race {

Launch launch;
Shadow shadow;
__thread Thread* current = nullptr;

namespace {

constexpr size_t kShadowLimit = size_t{1} << 30;
constexpr EventId kLastEvent = EventId{1} << 31;
constexpr size_t kMemory = size_t{1} << 21;  // events that a launch looks back on, if blocks run one after another

std::vector<Block> blocks;  // by slot
int live_blocks = 0;
std::vector<Thread> threads;  // by ThreadId

// What atomics on an address have published: to the whole device under block -1, within a block under its index.
std::map<std::pair<uintptr_t, int64_t>, Past> published;

int64_t reach(const Thread& me, int scope) { return scope == static_cast<int>(Scope::block) ? me.block->index : -1; }

Block& block_of(const BlockInfo& info) { return blocks[info.first / launch.threads]; }

// What was so far is over.
void forget() {
  launch.first_event += static_cast<EventId>(launch.events.size());
  launch.events.clear();
}

void launch_begin(const char*, int64_t, uint32_t resident_blocks, uint32_t threads_per_block) {
  launch.threads = threads_per_block;
  launch.preempt = settings().preempt;
  launch.host_stack = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  forget();
  live_blocks = 0;
  if (launch.first_event > kLastEvent || shadow.bytes() > kShadowLimit) {
    shadow.clear();
    launch.first_event = 1;
  }
  blocks.assign(resident_blocks, {});
  threads.assign(size_t{resident_blocks} * threads_per_block, {});
  published.clear();
}

void launch_end() { current = nullptr; }

void block_begin(const BlockInfo& info) {
  if (live_blocks++ == 0 && launch.events.size() > kMemory) forget();
  Block& block = block_of(info);
  block.index = info.index;
  block.first = static_cast<uint32_t>(info.index * info.threads);
  block.shared.clear();
  for (uint32_t i = 0; i < info.threads; ++i) {
    Thread& thread = threads[info.first + i] = {};
    thread.id = block.first + i;
    thread.time = 1;
    thread.block = &block;
  }
}

void block_end(const BlockInfo&) {
  current = nullptr;
  --live_blocks;
}

void switch_to(ThreadId thread) { current = &threads[thread]; }

void exit(ThreadId) { current = nullptr; }

// Threads [first, first + count) have met: what one did is past for all.
void meet(Thread* first, uint32_t count, uint32_t Thread::* known) {
  Past past;
  uint32_t time = 0;
  for (uint32_t i = 0; i < count; ++i) {
    past = join(past, first[i].past);
    time = std::max(time, first[i].time);
  }
  const Block& block = *first->block;
  if (past && count == launch.threads) past = join(past, {{all_of(block.index), time}});  // less what that includes
  for (uint32_t i = 0; i < count; ++i) {
    first[i].past = past;
    first[i].*known = time;
    first[i].time = time + 1;
  }
}

void barrier(const BlockInfo& info) { meet(&threads[info.first], info.threads, &Thread::all); }

void warp_barrier(const BlockInfo& info, uint32_t warp, uint32_t lanes) {
  Thread* const first = &threads[info.first + 32 * warp];
  const uint32_t count = std::min<uint32_t>(32, info.threads - 32 * warp);
  if (lanes == ~0u >> (32 - count)) return meet(first, count, &Thread::warp);
  Past past;
  std::vector<ClockEntry> times;
  for (uint32_t lane = 0; lane < count; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    past = join(past, first[lane].past);
    times.push_back({one_of(info.index, 32 * warp + lane), first[lane].time});
  }
  past = join(past, std::move(times));
  for (uint32_t lane = 0; lane < count; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    first[lane].past = past;
    ++first[lane].time;
  }
}

void fence(ThreadId thread, Scope scope) {
  Thread& me = threads[thread];
  const int reached = static_cast<int>(scope);
  for (int i = 0; i <= reached; ++i) me.past = join(me.past, std::exchange(me.pending[i], nullptr));
  const uint32_t index = me.id - me.block->first, warp = index / 32 * 32;
  std::vector<ClockEntry> own = {{all_of(me.block->index), me.all}};
  for (uint32_t i = warp; i < std::min(warp + 32, launch.threads); ++i) {
    const uint32_t known = i == index ? me.time : me.warp;
    if (known > me.all) own.push_back({one_of(me.block->index, i), known});
  }
  const Past now = join(me.past, std::move(own));
  for (int i = 0; i <= reached; ++i) me.released[i] = now;
  ++me.time;
}

void atomic_access(ThreadId thread, const void* address, size_t size, const Site& site) {
  check_atomic(address, size, site_of(site));
  acquire(threads[thread], reinterpret_cast<uintptr_t>(address));
  release(threads[thread], reinterpret_cast<uintptr_t>(address), true);
}

void shared_range(const BlockInfo& info, const void* begin, const void* end, const char* name) {
  block_of(info).shared.push_back({reinterpret_cast<uintptr_t>(begin), reinterpret_cast<uintptr_t>(end), name});
}

void arena_range(const BlockInfo& info, const void* begin, const void* end) {
  const Range arena{reinterpret_cast<uintptr_t>(begin), reinterpret_cast<uintptr_t>(end), "shared memory"};
  shadow.set_memory(arena.begin, arena.end, Memory::shared);
  block_of(info).arena = arena;
}

// Of pooled stacks, so it comes again at the next launch.
void private_range(const void* begin, const void* end) {
  if (shadow.page(reinterpret_cast<uintptr_t>(begin)).memory == Memory::untracked) return;
  shadow.set_memory(reinterpret_cast<uintptr_t>(begin), reinterpret_cast<uintptr_t>(end), Memory::untracked);
}

constexpr Hooks kHooks = {launch_begin, private_range, launch_end, block_begin,   block_end,   switch_to,   exit,
                          barrier,      warp_barrier,  fence,      atomic_access, arena_range, shared_range};

const bool registered = (set_hooks(&kHooks), true);

}  // namespace

void acquire(Thread& me, uintptr_t address) {
  for (int scope = 0; scope < kScopes && !published.empty(); ++scope) {
    const auto at = published.find({address, reach(me, scope)});
    if (at != published.end()) me.pending[scope] = join(me.pending[scope], at->second);
  }
}

void release(Thread& me, uintptr_t address, bool continues) {
  for (int scope = 0; scope < kScopes; ++scope) {
    const std::pair<uintptr_t, int64_t> key(address, reach(me, scope));
    if (me.released[scope]) {
      Past& past = published[key];
      past = continues ? join(past, me.released[scope]) : me.released[scope];
    } else if (!continues) {
      published.erase(key);
    }
  }
}

}  // namespace simt::race
