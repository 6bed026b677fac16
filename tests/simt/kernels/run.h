// A kernel behind a C function, for ctypes: EXPORT name(...) { return run("name", grid, block, shared, lambda); }
#pragma once

#include DLM_SIMT_HEADER

#define EXPORT extern "C" __attribute__((visibility("default"))) const char*

// Every CUDA thread calls body(). The error, or nullptr.
template <class Body>
const char* run(const char* name, dim3 grid, dim3 block, size_t dynamic_shared, const Body& body) {
  return simt::launch(
      name, grid, block, dynamic_shared, [](void* context) { (*static_cast<const Body*>(context))(); },
      const_cast<void*>(static_cast<const void*>(&body)));
}
