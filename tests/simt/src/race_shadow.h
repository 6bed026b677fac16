// What the race checker remembers about memory: per cell the last write and two reads, as numbers of events. A cell is
// as many bytes as the page's narrowest access so far, so rows that are only read by 16-byte loads cost one cell per
// load, and a page of flags gets one cell per byte. Every access covers whole cells, so no two bytes are confused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace simt::race {

// The accesses that one instruction of one thread makes between two of its synchronisations are one event. Numbers grow
// from launch to launch; below the launch's first one lies what is over, and 0, which is nothing at all.
using EventId = uint32_t;

struct Cell {
  EventId write;
  EventId reads[2];
};

enum class Memory : uint8_t { global, shared, untracked };

constexpr int kPageBits = 12;
constexpr uintptr_t kPageBytes = uintptr_t{1} << kPageBits;

struct Page {
  Cell* cells;         // nullptr until the first access
  uint32_t in_bounds;  // the generation of registered ranges in which the whole page was found to be in bounds
  uint8_t shift;       // log2 of the bytes of a cell
  Memory memory;
};

class Shadow {
 public:
  static constexpr uintptr_t kAddresses = uintptr_t{1} << 47;  // user space of x86-64

  Page& page(uintptr_t address) {
    Page*& table = tables_[address >> kTableBits];
    if (!table) table = new_table();
    return table[(address >> kPageBits) & (kPages - 1)];
  }

  // The cell of `address` in its page, for an access of `size` bytes that stays inside the page.
  Cell* cell(Page& page, uintptr_t address, size_t size) {
    const uintptr_t bits = address | size;
    if (!page.cells || bits & ((uintptr_t{1} << page.shift) - 1)) refine(page, bits);
    return page.cells + ((address & (kPageBytes - 1)) >> page.shift);
  }

  void set_memory(uintptr_t begin, uintptr_t end, Memory memory) {  // of the pages that the range touches
    for (uintptr_t at = begin & ~(kPageBytes - 1); at < end; at += kPageBytes) page(at).memory = memory;
  }

  size_t bytes() const { return bytes_; }
  void clear();  // forgets every access

 private:
  static constexpr int kTableBits = 30;
  static constexpr uintptr_t kPages = uintptr_t{1} << (kTableBits - kPageBits);

  static Page* new_table();
  void refine(Page& page, uintptr_t bits);

  Page* tables_[kAddresses >> kTableBits] = {};
  std::vector<Page*> used_;
  size_t bytes_ = 0;
};

}  // namespace simt::race
