// Stacks and the switch between them: own assembly on x86-64 Linux, ucontext elsewhere (1.4 to 6 times slower).
#pragma once

#include <cstddef>
#include <vector>

#if !defined(__x86_64__) || !defined(__linux__)
#define SIMT_UCONTEXT
#endif
#if defined(SIMT_UCONTEXT)
#include <ucontext.h>
#endif

namespace simt {

struct Stack {
  char* low = nullptr;
  size_t size = 0;
};

// One flow of control: a fiber once start() has given it a stack and a function, the host's own otherwise.
class Context {
 public:
  void start(const Stack& stack, void (*entry)());  // entry never returns, and calls entered() first
  static void switch_between(Context& from, Context& to);
  void entered();

 private:
#if defined(SIMT_UCONTEXT)
  ucontext_t saved_;
#else
  void* stack_pointer_ = nullptr;
#endif
  Stack stack_;
  void* fake_stack_ = nullptr;  // AddressSanitizer's
};

// Stacks with a guard page below, mapped once and used again by every launch.
class StackPool {
 public:
  static StackPool& instance();
  const Stack& at(size_t i);
  void forget_frames();  // after frames were abandoned: AddressSanitizer must not take them for live ones

 private:
  std::vector<Stack> stacks_;
};

}  // namespace simt
