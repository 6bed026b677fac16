// Arrival counters, all 0 between launches: they reset themselves, so they are taken from one zero-initialised array
// and never cleared, allocated or freed.
#pragma once

#include <cstdint>

namespace dlm::cuda {

// `n` counters that calls on this stream share, as they follow each other. What is captured into a CUDA graph gets its
// own: the graph may be replayed on any stream. Throws std::runtime_error if the device cannot be asked.
uint32_t* counters_for(void* stream, int64_t n);

// Most that one call may ask for.
constexpr int64_t kMaxCounters = 1 << 17;

// Whether every counter of the current device is 0, once all its work is done. For tests: it waits.
bool counters_at_rest();

}  // namespace dlm::cuda
