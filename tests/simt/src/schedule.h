// Which thread runs next. Every order is one that a GPU may choose; the random one is replayed by its seed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace simt {

enum class Order : int32_t { forward = 0, reverse = 1, random = 2 };

// From the environment (SIMT_SCHEDULE=forward|reverse|random:<seed>, SIMT_RESIDENT=<blocks>, SIMT_PREEMPT=0|1), until
// one of the simt_set_* functions says otherwise.
struct Settings {
  Order order = Order::forward;
  uint64_t seed = 0;
  uint32_t resident_blocks = 1;
  bool preempt = false;
  std::string error;  // of a value in the environment
};
Settings& settings();

class Random {
 public:
  explicit Random(uint64_t seed) : state_((seed + 1) * 0x9E3779B97F4A7C15u | 1) {}
  uint32_t below(uint32_t n) {  // xorshift64*
    state_ ^= state_ >> 12, state_ ^= state_ << 25, state_ ^= state_ >> 27;
    return static_cast<uint32_t>((state_ * 0x2545F4914F6CDD1Du >> 32) * n >> 32);
  }

 private:
  uint64_t state_;
};

struct Fiber;

// Threads that can run, each at most once. Forward and reverse are first in, first out: they differ in the order in
// which a group (a new block, the threads that leave a barrier) is put in.
class ReadyQueue {
 public:
  ReadyQueue(Order order, uint64_t seed) : order_(order), random_(seed) {}
  void reserve(size_t capacity) { ring_.resize(capacity); }
  void push(Fiber* fiber);
  template <class At>
  void push_group(uint32_t count, At at) {  // at(i): the i-th of the group, or nullptr for none
    for (uint32_t i = 0; i < count; ++i) {
      if (Fiber* const fiber = at(order_ == Order::reverse ? count - 1 - i : i)) push(fiber);
    }
  }
  Fiber* pop();  // nullptr if nobody can run
  bool empty() const { return size_ == 0; }
  Random& random() { return random_; }

 private:
  Order order_;
  Random random_;
  std::vector<Fiber*> ring_;
  size_t head_ = 0, size_ = 0;
};

// The order in which the blocks of a grid begin.
class BlockOrder {
 public:
  BlockOrder(Order order, uint64_t seed, int64_t blocks);
  int64_t at(int64_t i) const;

 private:
  Order order_;
  int64_t blocks_;
  std::vector<int64_t> shuffled_;
};

}  // namespace simt
