// Barriers of the block and memory fences.
#pragma once

#include "site.h"
#include "types.h"

namespace simt {

enum class Barrier : uint8_t { plain, count, all, any };
int barrier(Barrier kind, bool predicate, Site site);

void fence_block(Site site);
void fence_device(Site site);

}  // namespace simt

inline void __syncthreads(simt::Site site = simt::Site::here()) { simt::barrier(simt::Barrier::plain, false, site); }
inline int __syncthreads_count(int predicate, simt::Site site = simt::Site::here()) {
  return simt::barrier(simt::Barrier::count, predicate != 0, site);
}
inline int __syncthreads_and(int predicate, simt::Site site = simt::Site::here()) {
  return simt::barrier(simt::Barrier::all, predicate != 0, site);
}
inline int __syncthreads_or(int predicate, simt::Site site = simt::Site::here()) {
  return simt::barrier(simt::Barrier::any, predicate != 0, site);
}

inline void __threadfence(simt::Site site = simt::Site::here()) { simt::fence_device(site); }
inline void __threadfence_block(simt::Site site = simt::Site::here()) { simt::fence_block(site); }
