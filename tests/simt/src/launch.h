// One launch: its resident blocks, their threads, and who runs.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "../include/simt/async.h"
#include "../include/simt/barrier.h"
#include "../include/simt/launch.h"
#include "../include/simt/warp.h"
#include "fiber.h"
#include "hooks.h"
#include "schedule.h"
#include "shared.h"

namespace simt {

constexpr size_t kSharedLimit = 99 * 1024;  // per block, static and dynamic: what every sm from 80 on has

extern const Hooks* hooks;

struct Block;

// What a thread waits for.
struct Wait {
  Site site = {nullptr, 0};
  bool warp = false;  // in a collective; else in a barrier
  Collective kind = Collective::sync;
  int bytes = 0, width = 0;
  uint32_t mask = 0, argument = 0;
  uint64_t value = 0, result = 0;
};

// An asynchronous copy that nobody has waited for yet.
struct PendingCopy {
  AsyncCopy copy;
  uint64_t group;
};

struct Fiber {
  Indices indices;
  Context context;
  Block* block = nullptr;
  ThreadId id = 0;
  uint32_t index = 0;  // in the block
  bool waiting = false;
  Wait wait;
  std::deque<PendingCopy> copies;
  uint64_t groups = 0;  // of copies, closed

  uint32_t lane() const { return index % 32; }
};

struct Warp {
  uint32_t waiting = 0;  // lanes in a collective
  uint32_t exited = 0;   // lanes that have ended or never were
  bool uniform = true;   // all who wait do so in the same call
};

struct Block {
  BlockInfo info;
  Fiber* fibers = nullptr;
  std::vector<Warp> warps;
  SharedArena* arena = nullptr;
  size_t static_shared = 0;
  uint32_t exited = 0;
  bool live = false;

  // The barrier in progress, and what the latest one returned.
  uint32_t arrived = 0, predicates = 0;
  Barrier kind = Barrier::plain;
  const Fiber* first_arrived = nullptr;
  int result = 0;

  Warp& warp_of(const Fiber& fiber) { return warps[fiber.index / 32]; }
};

class Launch {
 public:
  static Launch* running;  // nullptr between launches

  Launch(const char* name, dim3 grid, dim3 block, size_t dynamic_shared, void (*body)(void*), void* context);
  std::string run();  // the error, or empty
  uint32_t resident_blocks() const { return static_cast<uint32_t>(slots_.size()); }

  // For the thread that runs:
  Fiber& fiber() { return *fiber_; }
  void park();   // returns when somebody has put it into the ready queue
  void yield();  // behind all others that can run
  [[noreturn]] void stop(const std::string& error);
  void body() { body_(context_); }
  [[noreturn]] void exit();

  const int64_t blocks;
  const uint32_t threads;  // per block
  const size_t dynamic_shared;
  const bool preempt;
  ReadyQueue ready;
  uint64_t idle = 0;  // atomics and fences in a row that changed nothing

  std::string describe(ThreadId thread) const;
  std::string describe_block(int64_t index) const;

 private:
  void begin_block(Block& slot, int64_t index);
  void end_block(Block& slot);
  void switch_to(Context& from, Fiber* next);
  std::string deadlock() const;

  const char* name_;
  const dim3 grid_, block_;
  void (*body_)(void*);
  void* context_;
  std::vector<Block> slots_;
  std::vector<Fiber> fibers_;
  Context host_;
  Fiber* fiber_ = nullptr;
  std::string error_;
};

const char* name_of(Barrier kind);
const char* name_of(Collective kind);
bool same_site(const Site& a, const Site& b);
std::string hex(uint32_t mask);

// A lane has ended: collectives that waited for it may go on.
void release_collectives(Block& block, uint32_t warp);

}  // namespace simt
