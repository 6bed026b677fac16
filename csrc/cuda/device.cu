// Questions to the CUDA runtime.
#include "device.h"

#include "job.h"

#if !defined(DLM_SIMT)
#include <dlfcn.h>
#endif

namespace dlm::cuda {

#if defined(DLM_SIMT)

int current_device() { return 0; }
int64_t multiprocessors() { return 2; }  // so that a few rows are enough to see both split rows and whole ones
int64_t blocks_at_once(bool) { return 4; }
size_t shared_to_hold(int64_t) { return 0; }
uint64_t capture_id(void*) { return 0; }
int32_t driver_version() { return 0; }
bool driver_suffices(int32_t) { return true; }

#else

int current_device() {
  int device = 0;
  cudaGetDevice(&device);
  return device;
}

int64_t attribute(cudaDeviceAttr which) {
  int value = 1;
  cudaDeviceGetAttribute(&value, which, current_device());
  return value;
}

int64_t multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount); }

int64_t blocks_at_once(bool plain) {
  const int64_t most = plain ? kPlainBlocks : kOtherBlocks;
  return max_of<int64_t>(1, min_of(most, attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / kSharedPerBlock));
}

// With what a block has besides, one more of them does not fit.
size_t shared_to_hold(int64_t blocks) {
  return static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / (blocks + 1)) / 16 * 16;
}

uint64_t capture_id(void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  unsigned long long id = 0;
  if (cudaStreamGetCaptureInfo(static_cast<cudaStream_t>(stream), &status, &id) != cudaSuccess) cudaGetLastError();
  return status == cudaStreamCaptureStatusActive ? id : 0;
}

// Not by the runtime, which may initialise CUDA: a process that only imports must stay free to fork.
int32_t driver_version() {
  void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  void* const ask = driver == nullptr ? nullptr : dlsym(driver, "cuDriverGetVersion");
  int version = 0;
  if (ask == nullptr || reinterpret_cast<int (*)(int*)>(ask)(&version) != 0) return 0;
  return version;
}

// A driver runs what any minor version of its own major one, or an older major one, compiled.
bool driver_suffices(int32_t version) { return version == 0 || version / 1000 >= CUDART_VERSION / 1000; }

#endif

}  // namespace dlm::cuda
