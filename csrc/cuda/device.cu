// Questions to the CUDA runtime.
#include "device.h"

#include "job.h"

namespace dlm::cuda {

#if defined(DLM_SIMT)

int current_device() { return 0; }
int multiprocessors() { return 2; }  // so that a few rows are enough to see both split rows and whole ones
uint64_t capture_id(void*) { return 0; }

#else

int current_device() {
  int device = 0;
  cudaGetDevice(&device);
  return device;
}

int multiprocessors() {
  int count = 1;
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, current_device());
  return count;
}

uint64_t capture_id(void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  unsigned long long id = 0;
  if (cudaStreamGetCaptureInfo(static_cast<cudaStream_t>(stream), &status, &id) != cudaSuccess) cudaGetLastError();
  return status == cudaStreamCaptureStatusActive ? id : 0;
}

#endif

}  // namespace dlm::cuda
