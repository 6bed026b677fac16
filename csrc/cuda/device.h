// What a kernel here may use, whoever compiles it: nvcc, or g++ with the SIMT runtime of the tests, which executes
// these very sources on the CPU. House rules that follow from it: shared memory only through DLM_SHARED, launches only
// through launch.h, PTX only in intrinsics.h, no __activemask(), no exit of part of a block before a barrier. For
// nvcc: no kernel or device variable in an anonymous namespace, which it names after the path of the source, so that no
// two builds are equal.
#pragma once

#if defined(DLM_SIMT_HEADER)
#include DLM_SIMT_HEADER
#define DLM_NOINLINE __attribute__((noinline))
#else
#include <cuda_runtime.h>

#define DLM_NOINLINE __noinline__
// DLM_SHARED(float, part, [4][32]): a block's own array (or, without dimensions, variable). Not initialised.
#define DLM_SHARED(type, name, ...) __shared__ type name __VA_ARGS__
// The launch's dynamic shared memory as `type* name`.
#define DLM_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char dlm_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(dlm_dynamic_shared)
#endif
