// The float arithmetic that every kernel here is written for: round to nearest, keep subnormals, raise nothing. A
// caller may run another one on its thread (torch.set_flush_denormal, a library built with -ffast-math), where the
// float next to zero is zero.
#pragma once

#if defined(__SSE__)
#include <immintrin.h>
#else
#include <cfenv>
#endif

namespace dlm::cpu {

// While it lives, on its thread.
class DefaultFloats {
 public:
  DefaultFloats(const DefaultFloats&) = delete;
  DefaultFloats& operator=(const DefaultFloats&) = delete;

#if defined(__SSE__)
  DefaultFloats() : before_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~DefaultFloats() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#else
  DefaultFloats() {
    fegetenv(&before_);
    fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloats() { fesetenv(&before_); }

 private:
  fenv_t before_;
#endif
};

}  // namespace dlm::cpu
