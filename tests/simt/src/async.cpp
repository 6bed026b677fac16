#include "../include/simt/async.h"

#include "launch.h"

namespace simt {

void async_begin(const AsyncCopy& copy, size_t bytes, size_t zero_filled, Site site) {
  const auto refuse = [&](const std::string& why) {
    fail("async copy: " + why + " at " + describe(site) + "; " + describe(current_thread()));
  };
  if (bytes != sizeof(uint4) || zero_filled != 0) refuse("only of 16 whole bytes, got " + std::to_string(bytes));
  const auto misaligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % sizeof(uint4) != 0; };
  if (misaligned(copy.to) || misaligned(copy.from)) refuse("misaligned");
  Fiber& self = Launch::running->fiber();
  self.copies.push_back({copy, self.groups});
}

void async_commit() { ++Launch::running->fiber().groups; }

bool async_due(size_t prior, AsyncCopy* copy) {
  Fiber& self = Launch::running->fiber();
  if (self.copies.empty() || self.copies.front().group + prior >= self.groups) return false;
  *copy = self.copies.front().copy;
  self.copies.pop_front();
  return true;
}

}  // namespace simt
