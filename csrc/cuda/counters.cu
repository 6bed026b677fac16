#include "counters.h"

#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "job.h"
#include "launch.h"

namespace dlm::cuda {

constexpr int64_t kPool = 1 << 20;  // 4 MiB of each device

__device__ alignas(8) uint32_t pool[kPool];  // some of them are halves of larger ones

namespace {

#if defined(DLM_SIMT)

uint32_t* pool_of(int) { return pool; }
void read_pool(std::vector<uint32_t>* out) { out->assign(pool, pool + kPool); }

#else

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  launch_failed("counters", explain(error));
}

uint32_t* pool_of(int device) {
  static std::map<int, void*> known;
  void*& address = known[device];
  if (address == nullptr) {
    // The first question may load this library's code onto the device, which a capture elsewhere must not forbid.
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    check(cudaThreadExchangeStreamCaptureMode(&mode));
    const cudaError_t error = cudaGetSymbolAddress(&address, pool);
    check(cudaThreadExchangeStreamCaptureMode(&mode));
    check(error);
  }
  return static_cast<uint32_t*>(address);
}

void read_pool(std::vector<uint32_t>* out) {
  out->resize(kPool);
  check(cudaMemcpyFromSymbol(out->data(), pool, kPool * sizeof(uint32_t)));
}

#endif

struct Slice {
  int64_t begin = 0, size = 0;
};

}  // namespace

uint32_t* counters_for(void* stream, int64_t n) {
  static std::mutex mutex;
  static std::map<std::tuple<int, void*, uint64_t>, Slice> slices;  // by device, stream, capture
  static std::map<int, int64_t> used;                               // by device
  const std::lock_guard<std::mutex> lock(mutex);
  const int device = current_device();
  Slice& slice = slices[{device, stream, capture_id(stream)}];
  if (slice.size < n) {
    const int64_t size = (n + 1023) / 1024 * 1024;
    int64_t& next = used[device];
    // Round and round: after a thousand graphs the first ones' counters are shared with the next, which matters only to
    // graphs that run at the same time.
    if (next + size > kPool) next = 0;
    slice = {next, size};
    next += size;
  }
  return pool_of(device) + slice.begin;
}

bool counters_at_rest() {
  std::vector<uint32_t> all;
  read_pool(&all);
  for (uint32_t counter : all) {
    if (counter != 0) return false;
  }
  return true;
}

}  // namespace dlm::cuda
