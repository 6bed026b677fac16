// Shared memory, from an arena of the block. In a device function, as `__shared__ float part[4][32];` and
// `extern __shared__ float tile[];` would stand:
//   DLM_SHARED(float, part, [4][32]);    DLM_SHARED(int, flag);    DLM_DYNAMIC_SHARED(float, tile);
#pragma once

#include <type_traits>

#include "types.h"

namespace simt {

// The same object for every thread of the block, by the address of a static that the declaration owns.
void* shared_object(const void* key, const char* name, size_t size, size_t alignment);
void* dynamic_shared(const char* name);

template <class T>
T& shared(const void* key, const char* name) {
  static_assert(std::is_trivially_default_constructible_v<T>, "shared memory runs no constructors");
  return *static_cast<T*>(shared_object(key, name, sizeof(T), alignof(T)));
}

}  // namespace simt

#define DLM_SHARED(type, name, ...)             \
  typedef type simt_type_of_##name __VA_ARGS__; \
  static char simt_key_of_##name;               \
  simt_type_of_##name& name = simt::shared<simt_type_of_##name>(&simt_key_of_##name, #name)

#define DLM_DYNAMIC_SHARED(type, name)                                                \
  static_assert(alignof(type) <= 16, "dynamic shared memory is aligned to 16 bytes"); \
  type* const name = static_cast<type*>(simt::dynamic_shared(#name))
