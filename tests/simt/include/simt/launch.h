// Launching a kernel, and where a thread finds itself in the launch.
#pragma once

#include "types.h"

namespace simt {

// Runs body(context) once for every CUDA thread of the grid, and returns when all have ended. nullptr, or what went
// wrong: text that stays valid until this OS thread's next launch.
const char* launch(const char* name, dim3 grid, dim3 block, size_t dynamic_shared, void (*body)(void*), void* context);

struct Indices {
  uint3 thread, block;
  dim3 block_dim, grid_dim;
};
extern __thread const Indices* current;  // of the running CUDA thread; nullptr on the host

SIMT_MACHINE inline uint3 thread_index() { return current->thread; }
SIMT_MACHINE inline uint3 block_index() { return current->block; }
SIMT_MACHINE inline dim3 block_dim() { return current->block_dim; }
SIMT_MACHINE inline dim3 grid_dim() { return current->grid_dim; }

}  // namespace simt

#define threadIdx (simt::thread_index())
#define blockIdx (simt::block_index())
#define blockDim (simt::block_dim())
#define gridDim (simt::grid_dim())

constexpr int warpSize = 32;
