// Copies to shared memory that arrive when they are waited for, and not before: until then the destination holds 0xFF.
#pragma once

#include "site.h"
#include "types.h"

namespace simt {

struct AsyncCopy {
  void* to;
  const void* from;
};

// Of the running thread: into its open group; closes that.
void async_begin(const AsyncCopy& copy, size_t bytes, size_t zero_filled, Site site);
void async_commit();
// The next copy to make of all groups but the last `prior`; false: there is none left.
bool async_due(size_t prior, AsyncCopy* copy);

}  // namespace simt

// The accesses are the kernel's own, compiled with it, so that watchers see them.
inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes, size_t zero_filled = 0,
                                    simt::Site site = simt::Site::here()) {
  simt::async_begin({to, from}, bytes, zero_filled, site);
  *static_cast<uint4*>(to) = make_uint4(~0u, ~0u, ~0u, ~0u);
}
inline void __pipeline_commit() { simt::async_commit(); }
inline void __pipeline_wait_prior(size_t prior) {
  for (simt::AsyncCopy copy; simt::async_due(prior, &copy);) {
    *static_cast<uint4*>(copy.to) = *static_cast<const uint4*>(copy.from);
  }
}
