// Vector clocks of a grid. A grid has too many threads for one entry each; but what a thread learns about another block
// it learns through a barrier of that block, so "all of block 3 up to time 7, its thread 0 up to time 9" is the usual
// form of a past, and that is how it is stored.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

namespace simt::race {

struct ClockEntry {
  uint64_t key;   // all_of or one_of
  uint32_t time;  // what these threads did up to this time, inclusive, is known
};

// Sorted by key, immutable, so that the threads that leave a barrier share one. nullptr knows nothing.
using Past = std::shared_ptr<const std::vector<ClockEntry>>;

constexpr int kIndexBits = 11;  // 1 + index in the block, at most 1024; 0 stands for the whole block

inline uint64_t all_of(int64_t block) { return static_cast<uint64_t>(block) << kIndexBits; }
inline uint64_t one_of(int64_t block, uint32_t index) { return all_of(block) + 1 + index; }

inline bool covers(const Past& past, int64_t block, uint32_t index, uint32_t time) {
  if (!past) return false;
  const auto known = [&](uint64_t key) {
    const auto at = std::lower_bound(past->begin(), past->end(), key,
                                     [](const ClockEntry& entry, uint64_t wanted) { return entry.key < wanted; });
    return at != past->end() && at->key == key && time <= at->time;
  };
  return known(all_of(block)) || known(one_of(block, index));
}

inline Past join(const Past& a, const Past& b) {
  if (!a || a == b) return b;
  if (!b) return a;
  std::vector<ClockEntry> all;
  all.reserve(a->size() + b->size());
  std::merge(a->begin(), a->end(), b->begin(), b->end(), std::back_inserter(all),
             [](const ClockEntry& x, const ClockEntry& y) { return x.key < y.key; });
  size_t kept = 0;
  ClockEntry block{~uint64_t{0}, 0};  // the entry for the whole block that we are in
  for (const ClockEntry& entry : all) {
    if (kept > 0 && all[kept - 1].key == entry.key) {
      all[kept - 1].time = std::max(all[kept - 1].time, entry.time);
    } else if (entry.key >> kIndexBits != block.key >> kIndexBits || entry.time > block.time) {
      all[kept++] = entry;
    }
    if (kept > 0 && all[kept - 1].key == all_of(entry.key >> kIndexBits)) block = all[kept - 1];
  }
  all.resize(kept);
  return std::make_shared<const std::vector<ClockEntry>>(std::move(all));
}

inline Past join(const Past& past, std::vector<ClockEntry> entries) {  // entries in order of their keys
  return join(past, std::make_shared<const std::vector<ClockEntry>>(std::move(entries)));
}

}  // namespace simt::race
