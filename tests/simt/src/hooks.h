// Between the runtime and whoever watches it: the race checker registers a table of hooks, the plain builds leave it
// empty. Everything runs on one OS thread; hooks are called by the runtime, never by two fibers at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "../include/simt/site.h"

namespace simt {

// Dense among the threads that are resident at one time: slot of the block * threads per block + index in the block.
// A slot is used again when its block has ended, so an id belongs to one CUDA thread only between the two.
using ThreadId = uint32_t;

struct BlockInfo {
  int64_t index;     // in the grid, x fastest
  ThreadId first;    // its threads are [first, first + threads)
  uint32_t threads;  // a warp is 32 consecutive ones
};

enum class Scope { block, device };

struct Hooks {
  void (*launch_begin)(const char* kernel, int64_t blocks, uint32_t resident_blocks, uint32_t threads_per_block);
  void (*private_range)(const void* begin, const void* end);  // a thread's stack; each, before the launch's first block
  void (*launch_end)();  // after an error, too: blocks that have begun may then never end
  void (*block_begin)(const BlockInfo& block);
  void (*block_end)(const BlockInfo& block);
  void (*switch_to)(ThreadId thread);  // the accesses that follow are this thread's
  void (*exit)(ThreadId thread);
  // All threads of the block have arrived at a barrier and none has left it yet.
  void (*barrier)(const BlockInfo& block);
  // The same for a __syncwarp: `lanes` of warp `warp` of the block. Other collectives do not order memory.
  void (*warp_barrier)(const BlockInfo& block, uint32_t warp, uint32_t lanes);
  void (*fence)(ThreadId thread, Scope scope);
  // Just before an atomicXxx reads and writes [address, address + size), without a switch in between.
  void (*atomic_access)(ThreadId thread, const void* address, size_t size, const Site& site);
  // The block's shared memory lies in [begin, end), after its block_begin; what is no object of it is nobody's.
  void (*arena_range)(const BlockInfo& block, const void* begin, const void* end);
  // Its object `name` is [begin, end), filled with 0xFF; between two lie at least kRedzone bytes.
  void (*shared_range)(const BlockInfo& block, const void* begin, const void* end, const char* name);
};

// The table must outlive every launch, every pointer in it be set. nullptr removes it.
void set_hooks(const Hooks* hooks);

// ---- what the runtime offers to a watcher -------------------------------------------------------------------------

constexpr size_t kRedzone = 128;

struct Indices;
extern __thread const Indices* current;
inline bool in_kernel() { return current != nullptr; }  // false on the host's stack: accesses there are nobody's
ThreadId current_thread();                              // only in a kernel

std::string describe(ThreadId thread);   // "block 3 thread 17", with coordinates where the launch has more dimensions
std::string describe(const Site& site);  // "sweep.cu:44"

// Ends the launch with this error; `what` starts with the kind of error ("race: ..."). The kernel's name is put before
// it. Only in a kernel; destructors of the abandoned threads do not run.
[[noreturn]] void fail(const std::string& what);

// May switch to another thread and back, where the schedule asks for preemption (simt_set_preempt).
void preempt();

}  // namespace simt
