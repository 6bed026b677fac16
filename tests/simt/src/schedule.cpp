#include "schedule.h"

#include <cstdlib>
#include <cstring>
#include <utility>

namespace simt {
namespace {

// True if all of the text is a number.
bool parse(const char* text, uint64_t* out) {
  char* end = nullptr;
  *out = std::strtoull(text, &end, 10);
  return *text >= '0' && *text <= '9' && *end == '\0';
}

Settings from_environment() {
  Settings s;
  uint64_t number = 0;
  if (const char* const text = std::getenv("SIMT_SCHEDULE")) {
    if (std::strcmp(text, "reverse") == 0) {
      s.order = Order::reverse;
    } else if (std::strncmp(text, "random:", 7) == 0 && parse(text + 7, &s.seed)) {
      s.order = Order::random;
    } else if (std::strcmp(text, "forward") != 0) {
      s.error = std::string("SIMT_SCHEDULE: must be forward, reverse or random:<seed>, got ") + text;
    }
  }
  if (const char* const text = std::getenv("SIMT_RESIDENT")) {
    if (!parse(text, &number) || number < 1 || number > 1024) {
      s.error = std::string("SIMT_RESIDENT: must be a number of blocks in [1, 1024], got ") + text;
    }
    s.resident_blocks = static_cast<uint32_t>(number);
  }
  if (const char* const text = std::getenv("SIMT_PREEMPT")) {
    if (!parse(text, &number) || number > 1) s.error = std::string("SIMT_PREEMPT: must be 0 or 1, got ") + text;
    s.preempt = number != 0;
  }
  return s;
}

}  // namespace

Settings& settings() {
  static Settings s = from_environment();
  return s;
}

void ReadyQueue::push(Fiber* fiber) {
  const size_t at = head_ + size_++;
  ring_[at < ring_.size() ? at : at - ring_.size()] = fiber;
}

Fiber* ReadyQueue::pop() {
  if (size_ == 0) return nullptr;
  if (order_ == Order::random) {
    const size_t at = head_ + random_.below(static_cast<uint32_t>(size_));
    std::swap(ring_[head_], ring_[at < ring_.size() ? at : at - ring_.size()]);
  }
  Fiber* const fiber = ring_[head_];
  if (++head_ == ring_.size()) head_ = 0;
  --size_;
  return fiber;
}

BlockOrder::BlockOrder(Order order, uint64_t seed, int64_t blocks) : order_(order), blocks_(blocks) {
  if (order != Order::random) return;
  Random random(~seed);
  for (int64_t i = 0; i < blocks; ++i) {
    shuffled_.push_back(i);
    std::swap(shuffled_.back(), shuffled_[random.below(static_cast<uint32_t>(i + 1))]);
  }
}

int64_t BlockOrder::at(int64_t i) const {
  if (order_ == Order::random) return shuffled_[static_cast<size_t>(i)];
  return order_ == Order::forward ? i : blocks_ - 1 - i;
}

}  // namespace simt

extern "C" {
__attribute__((visibility("default"))) void simt_set_schedule(int32_t order, uint64_t seed) {
  simt::settings().order = static_cast<simt::Order>(order);
  simt::settings().seed = seed;
}
__attribute__((visibility("default"))) void simt_set_resident_blocks(int32_t blocks) {
  simt::settings().resident_blocks = static_cast<uint32_t>(blocks < 1 ? 1 : blocks);
}
__attribute__((visibility("default"))) void simt_set_preempt(bool on) { simt::settings().preempt = on; }
}
