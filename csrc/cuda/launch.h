// The only way a kernel is launched: on the caller's stream, checked, under its name.
#pragma once

#include <stdexcept>
#include <string>

#include "device.h"

namespace dlm::cuda {

[[noreturn]] inline void launch_failed(const char* name, const std::string& why) {
  throw std::runtime_error("kernel " + std::string(name) + ": " + why);
}

#if defined(DLM_SIMT)

template <class... Params>
void launch(const char* name, void (*kernel)(Params...), int64_t blocks, int threads, size_t dynamic_shared, void*,
            const Params&... args) {
  if (blocks == 0) return;
  const auto body = [&] { kernel(args...); };
  const char* const error = simt::launch(
      name, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)), dynamic_shared,
      [](void* context) { (*static_cast<const decltype(body)*>(context))(); },
      const_cast<void*>(static_cast<const void*>(&body)));
  if (error != nullptr) throw std::runtime_error("kernel " + std::string(error));  // begins with the name
}

#else

// The architectures of this build, for the message when a device is none of them: CMakeLists.txt.
#ifndef DLM_CUDA_ARCHITECTURES
#define DLM_CUDA_ARCHITECTURES "unknown"
#endif

inline std::string explain(cudaError_t error) {
  std::string text = cudaGetErrorString(error);
  if (error != cudaErrorNoKernelImageForDevice && error != cudaErrorUnsupportedPtxVersion) return text;
  int device = 0, major = 0, minor = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return text + " (built for " DLM_CUDA_ARCHITECTURES ", this device is sm_" + std::to_string(major) +
         std::to_string(minor) + ")";
}

template <class... Params>
void launch(const char* name, void (*kernel)(Params...), int64_t blocks, int threads, size_t dynamic_shared,
            void* stream, const Params&... args) {
  constexpr size_t kWithoutAsking = 40 << 10;  // 48 KiB with the kernel's own; more must be asked for
  if (blocks == 0) return;
  cudaError_t error = cudaSuccess;
  if (dynamic_shared > kWithoutAsking) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(dynamic_shared));
  }
  if (error == cudaSuccess) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = dynamic_shared;
    config.stream = static_cast<cudaStream_t>(stream);
    error = cudaLaunchKernelEx(&config, kernel, args...);
  }
  if (error == cudaSuccess) return;
  cudaGetLastError();  // reported here: it must not surface in somebody else's check
  launch_failed(name, explain(error));
}

#endif

}  // namespace dlm::cuda
