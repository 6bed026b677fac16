#include "../include/simt/warp.h"

#include <algorithm>

#include "launch.h"

namespace simt {
namespace {

std::string place(const Fiber& fiber) {
  return describe(fiber.id) + " in " + name_of(fiber.wait.kind) + " with mask " + hex(fiber.wait.mask) + " at " +
         describe(fiber.wait.site);
}

bool same_call(const Wait& a, const Wait& b) { return a.kind == b.kind && a.bytes == b.bytes && a.mask == b.mask; }

bool is_shuffle(Collective kind) { return kind >= Collective::shfl && kind <= Collective::shfl_xor; }

// PTX's shfl.sync: the source lane, or the lane itself where that would leave its segment of `width` lanes.
uint32_t source_lane(const Wait& wait, uint32_t lane) {
  const uint32_t width = static_cast<uint32_t>(wait.width), first = lane & ~(width - 1), last = first | (width - 1);
  const uint32_t argument = wait.argument & 31;
  switch (wait.kind) {
    case Collective::shfl: return first | (argument & (width - 1));
    case Collective::shfl_up: return lane < first + argument ? lane : lane - argument;
    case Collective::shfl_down: return lane + argument > last ? lane : lane + argument;
    default: return (lane ^ argument) > last ? lane : lane ^ argument;  // an earlier segment may be read
  }
}

template <class T, class Combine>
uint64_t reduce(const Fiber* lanes, uint32_t participants, Combine combine) {
  T all = static_cast<T>(lanes[__builtin_ctz(participants)].wait.value);
  for (uint32_t rest = participants & (participants - 1); rest != 0; rest &= rest - 1) {
    all = combine(all, static_cast<T>(lanes[__builtin_ctz(rest)].wait.value));
  }
  return static_cast<uint32_t>(all);
}

// What lane `lane` gets; called once for all lanes where they get the same.
uint64_t result_of(const Fiber* lanes, uint32_t participants, uint32_t lane) {
  const Wait& wait = lanes[lane].wait;
  if (is_shuffle(wait.kind)) {
    const uint32_t source = source_lane(wait, lane);
    if ((participants >> source & 1) == 0) {
      fail("shuffle from lane " + std::to_string(source) + ", which takes no part: " + place(lanes[lane]));
    }
    return lanes[source].wait.value;
  }
  uint32_t equal = 0;  // lanes with the same operand as this one, and lanes with one that is not 0
  uint32_t nonzero = 0;
  for (uint32_t rest = participants; rest != 0; rest &= rest - 1) {
    const uint32_t other = static_cast<uint32_t>(__builtin_ctz(rest));
    equal |= static_cast<uint32_t>(lanes[other].wait.value == wait.value) << other;
    nonzero |= static_cast<uint32_t>(lanes[other].wait.value != 0) << other;
  }
  const auto fold = [&](auto combine) { return reduce<uint32_t>(lanes, participants, combine); };
  const auto fold_signed = [&](auto combine) { return reduce<int32_t>(lanes, participants, combine); };
  switch (wait.kind) {
    case Collective::ballot: return nonzero;
    case Collective::any: return nonzero != 0;
    case Collective::all: return nonzero == participants;
    case Collective::match_any: return equal;
    case Collective::reduce_add: return fold([](uint32_t a, uint32_t b) { return a + b; });
    case Collective::reduce_min: return fold([](uint32_t a, uint32_t b) { return std::min(a, b); });
    case Collective::reduce_max: return fold([](uint32_t a, uint32_t b) { return std::max(a, b); });
    case Collective::reduce_min_signed: return fold_signed([](int32_t a, int32_t b) { return std::min(a, b); });
    case Collective::reduce_max_signed: return fold_signed([](int32_t a, int32_t b) { return std::max(a, b); });
    case Collective::reduce_and: return fold([](uint32_t a, uint32_t b) { return a & b; });
    case Collective::reduce_or: return fold([](uint32_t a, uint32_t b) { return a | b; });
    case Collective::reduce_xor: return fold([](uint32_t a, uint32_t b) { return a ^ b; });
    default: return 0;
  }
}

// If all lanes of `call` that are still there have arrived with it: computes what each gets and lets them go.
void complete(Block& block, uint32_t warp_index, const Wait& call) {
  Warp& warp = block.warps[warp_index];
  Fiber* const lanes = block.fibers + warp_index * 32;
  const uint32_t participants = call.mask & ~warp.exited;
  if ((participants & ~warp.waiting) != 0) return;
  for (uint32_t rest = warp.uniform ? 0 : participants; rest != 0; rest &= rest - 1) {
    if (!same_call(lanes[__builtin_ctz(rest)].wait, call)) return;
  }
  const bool per_lane = is_shuffle(call.kind) || call.kind == Collective::match_any;
  const uint64_t common = per_lane ? 0 : result_of(lanes, participants, __builtin_ctz(participants));
  for (uint32_t rest = participants; rest != 0; rest &= rest - 1) {
    const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
    lanes[lane].wait.result = per_lane ? result_of(lanes, participants, lane) : common;
    lanes[lane].waiting = false;
  }
  warp.waiting &= ~participants;
  Launch& launch = *Launch::running;
  launch.idle = 0;
  if (call.kind == Collective::sync && hooks != nullptr) hooks->warp_barrier(block.info, warp_index, participants);
  launch.ready.push_group(32, [&](uint32_t lane) { return (participants >> lane & 1) != 0 ? &lanes[lane] : nullptr; });
}

// Two lanes that wait for each other in different calls will wait for ever.
void check(const Block& block, const Fiber& self, Warp& warp) {
  const Wait& wait = self.wait;
  if ((wait.mask >> self.lane() & 1) == 0) fail("lane not in its own mask: " + place(self));
  if (is_shuffle(wait.kind) && (wait.width < 1 || wait.width > 32 || (wait.width & (wait.width - 1)) != 0)) {
    fail("shuffle of width " + std::to_string(wait.width) + ", not a power of two up to 32: " + place(self));
  }
  const Fiber* const lanes = block.fibers + (self.index - self.lane());
  warp.uniform = warp.waiting == 0 || (warp.uniform && same_call(lanes[__builtin_ctz(warp.waiting)].wait, wait));
  if (warp.uniform) return;
  for (uint32_t rest = wait.mask & warp.waiting; rest != 0; rest &= rest - 1) {
    const Fiber& other = lanes[__builtin_ctz(rest)];
    if ((other.wait.mask >> self.lane() & 1) != 0 && !same_call(other.wait, wait)) {
      fail("divergent collective: " + place(self) + ", " + place(other));
    }
  }
}

}  // namespace

const char* name_of(Collective kind) {
  static const char* const names[] = {
      "__syncwarp",        "__shfl_sync",       "__shfl_up_sync",    "__shfl_down_sync",  "__shfl_xor_sync",
      "__ballot_sync",     "__any_sync",        "__all_sync",        "__match_any_sync",  "__reduce_add_sync",
      "__reduce_min_sync", "__reduce_max_sync", "__reduce_min_sync", "__reduce_max_sync", "__reduce_and_sync",
      "__reduce_or_sync",  "__reduce_xor_sync"};
  return names[static_cast<int>(kind)];
}

uint64_t collective(Collective kind, unsigned mask, uint64_t value, int bytes, unsigned argument, int width,
                    Site site) {
  Launch& launch = *Launch::running;
  Fiber& self = launch.fiber();
  Warp& warp = self.block->warp_of(self);
  self.wait = {site, true, kind, bytes, width, mask, argument, value, 0};
  check(*self.block, self, warp);
  self.waiting = true;
  warp.waiting |= 1u << self.lane();
  complete(*self.block, self.index / 32, self.wait);
  launch.park();
  return self.wait.result;
}

void release_collectives(Block& block, uint32_t warp) {
  for (uint32_t rest = block.warps[warp].waiting; rest != 0; rest &= rest - 1) {
    const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
    if ((block.warps[warp].waiting >> lane & 1) != 0) complete(block, warp, block.fibers[warp * 32 + lane].wait);
  }
}

}  // namespace simt
