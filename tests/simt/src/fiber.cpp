#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#include "asan.h"

#if !defined(SIMT_UCONTEXT)
// simt_switch(void** save, void* load): pushes what the ABI lets a caller rely on, changes stacks, pops the same.
// The rounding mode and the x87 control word are shared by all fibers.
extern "C" void simt_switch(void** save, void* load);
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, .-simt_switch
)");
#endif

namespace simt {
namespace {

// Of kernels, which keep small arrays; room for AddressSanitizer's larger frames and for printf while debugging.
constexpr size_t kStackSize = 256 * 1024;

Context* left = nullptr;  // by the latest switch

}  // namespace

void Context::start(const Stack& stack, void (*entry)()) {
  stack_ = stack;
  fake_stack_ = nullptr;
#if defined(SIMT_UCONTEXT)
  getcontext(&saved_);
  saved_.uc_stack.ss_sp = stack.low;
  saved_.uc_stack.ss_size = stack.size;
  saved_.uc_link = nullptr;
  makecontext(&saved_, entry, 0);
#else
  // As if entry had been called by nobody and had called simt_switch at its first instruction.
  void** top = reinterpret_cast<void**>(stack.low + stack.size);
  *--top = nullptr;  // entry's return address: the end of every backtrace
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  stack_pointer_ = top;
#endif
}

void Context::switch_between(Context& from, Context& to) {
  asan::start_switch(&from.fake_stack_, to.stack_.low, to.stack_.size);
  left = &from;
#if defined(SIMT_UCONTEXT)
  swapcontext(&from.saved_, &to.saved_);
#else
  simt_switch(&from.stack_pointer_, to.stack_pointer_);
#endif
  from.entered();
}

// Also tells the bounds of the host's stack, which nobody else knows.
void Context::entered() { asan::finish_switch(fake_stack_, &left->stack_.low, &left->stack_.size); }

StackPool& StackPool::instance() {
  static StackPool pool;
  return pool;
}

const Stack& StackPool::at(size_t i) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  while (stacks_.size() <= i) {
    void* const base = mmap(nullptr, page + kStackSize, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (base == MAP_FAILED || mprotect(base, page, PROT_NONE) != 0) throw std::bad_alloc();
    // Stacks at the same distance would fall into the same sets of the caches.
    const size_t colour = stacks_.size() % 32 * 128;
    stacks_.push_back({static_cast<char*>(base) + page, kStackSize - colour});
  }
  return stacks_[i];
}

void StackPool::forget_frames() {
  for (const Stack& stack : stacks_) asan::unpoison(stack.low, stack.size);
}

}  // namespace simt
