#include "launch.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <stdexcept>

#include "../include/simt/intrinsics.h"

namespace simt {

const Hooks* hooks = nullptr;
__thread const Indices* current = nullptr;
Launch* Launch::running = nullptr;

namespace {

thread_local std::string last_error;

int64_t volume(dim3 d) { return static_cast<int64_t>(d.x) * d.y * d.z; }

uint3 unflatten(int64_t index, dim3 shape) {
  return {static_cast<unsigned>(index % shape.x), static_cast<unsigned>(index / shape.x % shape.y),
          static_cast<unsigned>(index / shape.x / shape.y)};
}

std::string coordinates(int64_t index, dim3 shape) {
  if (shape.y == 1 && shape.z == 1) return std::to_string(index);
  const uint3 at = unflatten(index, shape);
  return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
}

SharedArena& arena_of_slot(size_t slot) {
  static std::deque<SharedArena> arenas;
  while (arenas.size() <= slot) arenas.emplace_back();
  return arenas[slot];
}

[[noreturn]] void run_thread() {
  Launch& launch = *Launch::running;
  launch.fiber().context.entered();
  std::string thrown;
  try {
    launch.body();
  } catch (const std::exception& e) {
    thrown = e.what();
    if (thrown.empty()) thrown = "no text";
  } catch (...) {
    thrown = "no std::exception";
  }
  if (!thrown.empty()) fail("exception: " + thrown + "; thrown by " + describe(launch.fiber().id));
  launch.exit();
}

// Empty, or why CUDA would not launch it.
std::string check(dim3 grid, dim3 block, size_t dynamic_shared) {
  const auto out_of = [](unsigned v, unsigned limit) { return v < 1 || v > limit; };
  if (out_of(grid.x, 0x7fffffff) || out_of(grid.y, 65535) || out_of(grid.z, 65535)) {
    return "launch: the grid must lie in [1, 2147483647] x [1, 65535] x [1, 65535], got " + std::to_string(grid.x) +
           " x " + std::to_string(grid.y) + " x " + std::to_string(grid.z);
  }
  if (out_of(block.x, 1024) || out_of(block.y, 1024) || out_of(block.z, 64) || volume(block) > 1024) {
    return "launch: a block has 1 to 1024 threads, got " + std::to_string(block.x) + " x " + std::to_string(block.y) +
           " x " + std::to_string(block.z);
  }
  if (dynamic_shared > kSharedLimit) {
    return "launch: a block has " + std::to_string(kSharedLimit) + " bytes of shared memory, got " +
           std::to_string(dynamic_shared);
  }
  return settings().error;
}

}  // namespace

Launch::Launch(const char* name, dim3 grid, dim3 block, size_t dynamic_shared, void (*body)(void*), void* context)
    : blocks(volume(grid)),
      threads(static_cast<uint32_t>(volume(block))),
      dynamic_shared(dynamic_shared),
      preempt(settings().preempt),
      ready(settings().order, settings().seed),
      name_(name),
      grid_(grid),
      block_(block),
      body_(body),
      context_(context),
      slots_(static_cast<size_t>(std::min<int64_t>(settings().resident_blocks, blocks))),
      fibers_(slots_.size() * threads) {
  ready.reserve(fibers_.size());
  for (size_t i = 0; i < fibers_.size(); ++i) {
    Fiber& fiber = fibers_[i];
    fiber.block = &slots_[i / threads];
    fiber.id = static_cast<ThreadId>(i);
    fiber.index = static_cast<uint32_t>(i % threads);
    fiber.indices.thread = unflatten(fiber.index, block);
    fiber.indices.block_dim = block;
    fiber.indices.grid_dim = grid;
  }
  for (size_t i = 0; i < slots_.size(); ++i) {
    slots_[i].fibers = &fibers_[i * threads];
    slots_[i].info.first = slots_[i].fibers->id;
    slots_[i].info.threads = threads;
    slots_[i].arena = &arena_of_slot(i);
    slots_[i].warps.resize((threads + 31) / 32);
  }
}

std::string Launch::run() {
  const BlockOrder order(settings().order, settings().seed, blocks);
  for (size_t i = 0; hooks != nullptr && i < fibers_.size(); ++i) {
    const Stack& stack = StackPool::instance().at(i);
    hooks->private_range(stack.low, stack.low + stack.size);
  }
  int64_t begun = 0;
  for (Block& slot : slots_) begin_block(slot, order.at(begun++));
  int64_t live = begun;
  // A thread comes back here when its block has ended, when nobody else can run, or with an error.
  while (Fiber* const next = ready.pop()) {
    switch_to(host_, next);
    if (!error_.empty()) return error_;
    for (Block& slot : slots_) {
      if (!slot.live || slot.exited < threads) continue;
      end_block(slot);
      if (!error_.empty()) return error_;
      --live;
      if (begun < blocks) begin_block(slot, order.at(begun++)), ++live;
    }
  }
  return live == 0 ? "" : std::string(name_) + ": " + deadlock();
}

void Launch::begin_block(Block& slot, int64_t index) {
  slot.info.index = index;
  slot.live = true;
  slot.exited = slot.arrived = slot.predicates = 0;
  slot.static_shared = 0;
  slot.arena->begin_block();
  for (size_t w = 0; w < slot.warps.size(); ++w) {
    const uint32_t lanes = std::min<uint32_t>(32, threads - static_cast<uint32_t>(w) * 32);
    slot.warps[w] = {0, lanes == 32 ? 0 : ~0u << lanes, true};
  }
  for (uint32_t t = 0; t < threads; ++t) {
    Fiber& fiber = slot.fibers[t];
    fiber.indices.block = unflatten(index, grid_);
    fiber.waiting = false;
    fiber.copies.clear();
    fiber.groups = 0;
    fiber.context.start(StackPool::instance().at(fiber.id), run_thread);
  }
  if (hooks != nullptr) {
    hooks->block_begin(slot.info);
    hooks->arena_range(slot.info, slot.arena->begin(), slot.arena->end());
  }
  ready.push_group(threads, [&](uint32_t t) { return &slot.fibers[t]; });
}

void Launch::end_block(Block& slot) {
  slot.live = false;
  if (hooks != nullptr) hooks->block_end(slot.info);
  const std::string damage = slot.arena->damage();
  if (!damage.empty()) {
    error_ = std::string(name_) + ": out of bounds: block " + describe_block(slot.info.index) +
             " has written to shared memory " + damage;
  }
}

void Launch::switch_to(Context& from, Fiber* next) {
  fiber_ = next;
  current = next == nullptr ? nullptr : &next->indices;
  if (next != nullptr && hooks != nullptr) hooks->switch_to(next->id);
  Context::switch_between(from, next == nullptr ? host_ : next->context);
}

void Launch::park() {
  Fiber& self = *fiber_;
  Fiber* const next = ready.pop();
  if (next != &self) switch_to(self.context, next);
}

void Launch::yield() {
  if (ready.empty()) return;
  ready.push(fiber_);
  park();
}

void Launch::stop(const std::string& error) {
  error_ = std::string(name_) + ": " + error;
  switch_to(fiber_->context, nullptr);
  __builtin_unreachable();
}

void Launch::exit() {
  Fiber& self = *fiber_;
  Block& block = *self.block;
  idle = 0;
  if (!self.copies.empty()) fail("async copy: " + simt::describe(self.id) + " has ended before its copies");
  if (hooks != nullptr) hooks->exit(self.id);
  ++block.exited;
  if (block.arrived > 0) {
    const Site& site = block.first_arrived->wait.site;
    fail("barrier after a partial exit: " + simt::describe(self.id) + " has ended, " + std::to_string(block.arrived) +
         " threads of its block wait in " + name_of(block.kind) + " at " + simt::describe(site));
  }
  block.warp_of(self).exited |= 1u << self.lane();
  release_collectives(block, self.index / 32);
  switch_to(self.context, block.exited == threads ? nullptr : ready.pop());
  __builtin_unreachable();
}

std::string Launch::describe_block(int64_t index) const { return coordinates(index, grid_); }

std::string Launch::describe(ThreadId thread) const {
  const Fiber& fiber = fibers_[thread];
  return "block " + describe_block(fiber.block->info.index) + " thread " + coordinates(fiber.index, block_);
}

// Who waits where: threads of one block at one place are told together.
std::string Launch::deadlock() const {
  std::string text = "deadlock:";
  std::vector<bool> told(fibers_.size());
  int groups = 0;
  for (size_t i = 0; i < fibers_.size(); ++i) {
    const Fiber& first = fibers_[i];
    if (!first.waiting || told[i]) continue;
    const Wait& wait = first.wait;
    size_t count = 0;
    for (size_t j = i; j < (i / threads + 1) * threads; ++j) {
      const Wait& other = fibers_[j].wait;
      if (!fibers_[j].waiting || other.warp != wait.warp || !same_site(other.site, wait.site)) continue;
      if (wait.warp && (other.mask != wait.mask || fibers_[j].index / 32 != first.index / 32)) continue;
      told[j] = true;
      ++count;
    }
    if (++groups > 6) continue;
    text += (groups == 1 ? " " : "; ") + std::to_string(count) + " threads of block " +
            describe_block(first.block->info.index) + " in ";
    if (wait.warp) {
      text += std::string(name_of(wait.kind)) + " with mask " + hex(wait.mask) + " of warp " +
              std::to_string(first.index / 32);
    } else {
      text += name_of(first.block->kind);
    }
    text += " at " + simt::describe(wait.site);
  }
  if (groups > 6) text += "; and " + std::to_string(groups - 6) + " more groups";
  return text;
}

// ---- what kernels and hooks call ----------------------------------------------------------------------------------

void set_hooks(const Hooks* table) { hooks = table; }
ThreadId current_thread() { return Launch::running->fiber().id; }
std::string describe(ThreadId thread) { return Launch::running->describe(thread); }

std::string describe(const Site& site) {
  const char* const slash = std::strrchr(site.file, '/');
  return std::string(slash == nullptr ? site.file : slash + 1) + ":" + std::to_string(site.line);
}

bool same_site(const Site& a, const Site& b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

std::string hex(uint32_t mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

void fail(const std::string& what) { Launch::running->stop(what); }

void unsupported(const char* what, Site site) {
  const std::string text = std::string("unsupported: ") + what + " at " + describe(site);
  if (!in_kernel()) throw std::runtime_error(text);
  fail(text + "; " + describe(current_thread()));
}

void preempt() {
  Launch* const launch = Launch::running;
  if (!in_kernel() || !launch->preempt || launch->ready.random().below(16) != 0) return;
  launch->yield();
}

const char* launch(const char* name, dim3 grid, dim3 block, size_t dynamic_shared, void (*body)(void*), void* context) {
  if (in_kernel()) fail(std::string("launch: ") + name + " from within a kernel");
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  last_error = check(grid, block, dynamic_shared);
  if (!last_error.empty()) {
    last_error = std::string(name) + ": " + last_error;
    return last_error.c_str();
  }
  Launch launch(name, grid, block, dynamic_shared, body, context);
  Launch::running = &launch;
  if (hooks != nullptr) hooks->launch_begin(name, launch.blocks, launch.resident_blocks(), launch.threads);
  last_error = launch.run();
  if (hooks != nullptr) hooks->launch_end();
  Launch::running = nullptr;
  if (last_error.empty()) return nullptr;
  StackPool::instance().forget_frames();
  return last_error.c_str();
}

}  // namespace simt

// Of this OS thread's latest launch; empty if it went well.
extern "C" __attribute__((visibility("default"))) const char* simt_last_error() { return simt::last_error.c_str(); }

#if defined(SIMT_COVERAGE)
extern "C" {
void __gcov_dump();
void __gcov_reset();
// Adds to the .gcda files what has run since the last time.
__attribute__((visibility("default"))) void simt_dump_coverage() {
  __gcov_dump();
  __gcov_reset();
}
}
#endif
