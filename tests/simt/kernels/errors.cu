// One mistake each. The place that the report must name is marked with // <- and the function's name.
#include <stdexcept>

#include "run.h"

EXPORT deadlock() {
  return run("deadlock", 1, 64, 0, [] {
    if (threadIdx.x >= 16) {
      __syncthreads();  // <- deadlock
    } else {
      __shfl_xor_sync(0xffffffff, 1, 1);  // <- deadlock, of 16 threads
    }
  });
}

EXPORT deadlock_of_masks() {
  return run("deadlock_of_masks", 1, 32, 0, [] {
    const unsigned t = threadIdx.x;
    if (t < 16) __syncwarp(t < 8 ? 0x800000ff : 0x8000ff00);  // <- deadlock_of_masks
    __syncthreads();
  });
}

EXPORT divergent_barrier() {
  return run("divergent_barrier", 1, 64, 0, [] {
    if (threadIdx.x % 2 == 0) {
      __syncthreads();  // <- divergent_barrier, even
    } else {
      __syncthreads();  // <- divergent_barrier, odd
    }
  });
}

EXPORT divergent_form() {
  return run("divergent_form", 1, 64, 0, [] { threadIdx.x < 32 ? __syncthreads_and(1) : __syncthreads_or(1); });
}

EXPORT partial_exit() {
  return run("partial_exit", 1, 64, 0, [] {
    if (threadIdx.x == 5) return;
    __syncthreads();  // <- partial_exit
  });
}

EXPORT first_exits() {
  return run("first_exits", 1, 64, 0, [] {
    if (threadIdx.x == 0) return;
    __syncthreads();  // <- first_exits
  });
}

EXPORT not_in_mask() {
  return run("not_in_mask", 1, 32, 0, [] {
    __syncwarp(0x7fffffff);  // <- not_in_mask
  });
}

EXPORT masks_differ() {
  return run("masks_differ", 1, 32, 0, [] {
    __ballot_sync(threadIdx.x == 3 ? 0xffffffff : 0x0fffffff | 1u << threadIdx.x, 1);  // <- masks_differ
  });
}

EXPORT operations_differ() {
  return run("operations_differ", 1, 32, 0, [] {
    if (threadIdx.x == 0) {
      __any_sync(0xffffffff, 1);
    } else {
      __all_sync(0xffffffff, 1);  // <- operations_differ
    }
  });
}

EXPORT types_differ() {
  return run("types_differ", 1, 32, 0, [] {
    if (threadIdx.x == 0) {
      __shfl_sync(0xffffffff, 1.0, 0);
    } else {
      __shfl_sync(0xffffffff, 1.0f, 0);  // <- types_differ
    }
  });
}

EXPORT absent_source() {
  return run("absent_source", 1, 32, 0, [] {
    if (threadIdx.x < 16) __shfl_down_sync(0x0000ffff, 1, 1);  // <- absent_source
  });
}

EXPORT ended_source() {
  return run("ended_source", 1, 48, 0, [] {
    if (threadIdx.x >= 32) __shfl_xor_sync(0xffffffff, 1, 16);  // <- ended_source
  });
}

EXPORT bad_width() {
  return run("bad_width", 1, 32, 0, [] {
    __shfl_sync(0xffffffff, 1, 0, 12);  // <- bad_width
  });
}

EXPORT livelock() {
  return run("livelock", 2, 32, 0, [] {
    static unsigned flag;
    if (blockIdx.x == 1) atomicExch(&flag, 1u);
    while (atomicAdd(&flag, 0u) != 2) {  // <- livelock
    }
  });
}

EXPORT misaligned_atomic() {
  return run("misaligned_atomic", 1, 1, 0, [] {
    alignas(8) static char memory[16];
    atomicAdd(reinterpret_cast<unsigned*>(memory + 2), 1u);  // <- misaligned_atomic
  });
}

EXPORT too_much_shared() {
  return run("too_much_shared", 1, 1, 0, [] {
    DLM_SHARED(float, half, [6 * 1024]);
    DLM_SHARED(float, rest, [6 * 1024 + 1]);
    half[0] = rest[0] = 0;
  });
}

EXPORT shared_overrun() {
  return run("shared_overrun", 3, 32, 0, [] {
    DLM_SHARED(int, row, [10]);
    int* const at = row;
    if (threadIdx.x <= (blockIdx.x == 1 ? 10 : 9)) at[threadIdx.x] = 1;  // <- shared_overrun
  });
}

EXPORT dynamic_overrun() {
  return run("dynamic_overrun", 1, 32, 31, [] {
    DLM_DYNAMIC_SHARED(char, tail);
    tail[threadIdx.x] = 1;  // <- dynamic_overrun
  });
}

EXPORT unsupported_selector() {
  return run("unsupported_selector", 1, 1, 0, [] {
    __byte_perm(1, 2, 0x8000);  // <- unsupported_selector
  });
}

EXPORT thrown() {
  return run("thrown", 1, 64, 0, [] {
    if (threadIdx.x == 40) throw std::runtime_error("forty");
    __syncthreads();
  });
}

// Leaves frames of small arrays behind on every stack, where touch_stacks() then has one large array.
EXPORT abandoned_frames() {
  return run("abandoned_frames", 1, 64, 0, [] {
    volatile char one[3] = {}, two[5] = {}, three[40] = {};
    one[threadIdx.x % 3] = two[threadIdx.x % 5] = three[threadIdx.x % 40] = 1;
    if (threadIdx.x != 63) __syncthreads();
    one[0] = two[0] + three[0] + one[1];
  });
}

EXPORT touch_stacks() {
  return run("touch_stacks", 1, 64, 0, [] {
    volatile char large[4096];
    for (volatile char& byte : large) byte = 1;
  });
}

EXPORT nested_launch() {
  return run("nested_launch", 1, 1, 0, [] { run("inner", 1, 1, 0, [] {}); });
}

EXPORT block_too_large() {
  return run("block_too_large", 1, dim3(64, 32), 0, [] {});
}

EXPORT empty_grid() {
  return run("empty_grid", 0, 32, 0, [] {});
}
