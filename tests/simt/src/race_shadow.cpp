#include "race_shadow.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace simt::race {

Page* Shadow::new_table() {
  void* table = std::calloc(kPages, sizeof(Page));  // zero pages of the system until they are used
  if (!table) throw std::bad_alloc();
  return static_cast<Page*>(table);
}

// Makes the cells small enough for an access whose address and size have these `bits`. A smaller cell inherits what
// its bytes have seen.
void Shadow::refine(Page& page, uintptr_t bits) {
  const int shift = std::min(4, __builtin_ctzll(bits));
  const size_t count = kPageBytes >> shift;
  auto* cells = static_cast<Cell*>(std::calloc(count, sizeof(Cell)));
  if (!cells) throw std::bad_alloc();
  if (page.cells) {
    for (size_t i = 0; i < count; ++i) cells[i] = page.cells[i >> (page.shift - shift)];
    bytes_ -= (kPageBytes >> page.shift) * sizeof(Cell);
    std::free(page.cells);
  } else {
    used_.push_back(&page);
  }
  bytes_ += count * sizeof(Cell);
  page.cells = cells;
  page.shift = static_cast<uint8_t>(shift);
}

void Shadow::clear() {
  for (Page* page : used_) {
    std::free(page->cells);
    page->cells = nullptr;
  }
  used_.clear();
  bytes_ = 0;
}

}  // namespace simt::race
