// Threads for the CPU backend: torch's intra-op pool, so that set_num_threads holds and no second pool fights its
// spinning threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "../api.h"

namespace dlm::torch_ops {

struct Pool : dlm_executor {
  Pool() {
    threads = static_cast<int32_t>(torch::stable::get_num_threads());
    self = nullptr;
    run = [](void*, int32_t workers, void (*work)(void*, int32_t), void* context) {
      torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) work(context, static_cast<int32_t>(i));
      });
    };
  }
};

}  // namespace dlm::torch_ops
