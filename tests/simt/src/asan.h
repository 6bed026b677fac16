// What AddressSanitizer must be told: which stack is in use, and which memory is nobody's. Nothing in the other builds.
#pragma once

#include <cstddef>

#if defined(SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt::asan {

#if defined(SIMT_ASAN)
constexpr bool kEnabled = true;
inline void start_switch(void** fake_stack, const char* low, size_t size) {
  __sanitizer_start_switch_fiber(fake_stack, low, size);
}
inline void finish_switch(void* fake_stack, char** low, size_t* size) {
  const void* bottom = nullptr;
  __sanitizer_finish_switch_fiber(fake_stack, &bottom, size);
  *low = static_cast<char*>(const_cast<void*>(bottom));
}
inline void poison(const char* begin, size_t size) { __asan_poison_memory_region(begin, size); }
inline void unpoison(const char* begin, size_t size) { __asan_unpoison_memory_region(begin, size); }
#else
constexpr bool kEnabled = false;
inline void start_switch(void**, const char*, size_t) {}
inline void finish_switch(void*, char**, size_t*) {}
inline void poison(const char*, size_t) {}
inline void unpoison(const char*, size_t) {}
#endif

}  // namespace simt::asan
