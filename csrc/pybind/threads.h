// Threads for one call: NumPy has no pool to borrow, and a thread that ends with its call does not mind a fork.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

#include "../ops.h"

namespace dlm::array {

inline std::atomic<int32_t> most_threads{1};

struct Threads : dlm_executor {
  explicit Threads(const Need& need) {
    constexpr int64_t kLogits = 1 << 17;  // swept in about the time that starting a thread takes
    threads = static_cast<int32_t>(
        min_of<int64_t>(most_threads.load(std::memory_order_relaxed), 1 + need.rows * need.vocab / kLogits));
    self = nullptr;
    run = [](void*, int32_t workers, void (*work)(void*, int32_t), void* context) {
      std::vector<std::thread> others;
      for (int32_t i = 1; i < workers; ++i) others.emplace_back(work, context, i);
      work(context, 0);
      for (std::thread& t : others) t.join();
    };
  }
};

}  // namespace dlm::array
