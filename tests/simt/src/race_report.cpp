#include "race_report.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

namespace simt::race {

Bounds bounds;

void anchor() {}

namespace {

std::vector<Site> sites;

std::string file_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// file:line of a program counter, and of the calls by which inlined code came there.
std::string line_of(uintptr_t pc) {
  Dl_info library;
  if (!dladdr(reinterpret_cast<void*>(pc), &library)) return "an unknown place";
  const unsigned long offset = pc - reinterpret_cast<uintptr_t>(library.dli_fbase);
  char text[1024];
  std::snprintf(text, sizeof text, "addr2line -i -e '%s' %#lx 2>/dev/null", library.dli_fname, offset);
  std::string lines;
  if (FILE* pipe = popen(text, "r")) {
    while (std::fgets(text, sizeof text, pipe)) {
      text[std::strcspn(text, " \n")] = 0;  // before "(discriminator 3)"
      if (text[0] != '?') lines += (lines.empty() ? "" : " < ") + file_name(text);
    }
    pclose(pipe);
  }
  if (!lines.empty()) return lines;
  std::snprintf(text, sizeof text, "%s+%#lx", file_name(library.dli_fname).c_str(), offset);
  return text;
}

std::string describe_site(uint32_t site) {
  if (site & kIsSite) return describe(sites[site & ~kIsSite]);
  static std::map<uint32_t, std::string> known;
  std::string& text = known[site];
  if (text.empty()) {
    const int32_t offset = static_cast<int32_t>(site << 1) >> 1;                               // of 31 bits, with sign
    text = line_of(reinterpret_cast<uintptr_t>(&anchor) + static_cast<intptr_t>(offset) - 1);  // in the call
  }
  return text;
}

std::string describe_thread(const Event& e) {
  return "block " + std::to_string(e.thread / launch.threads) + " thread " + std::to_string(e.thread % launch.threads);
}

const char* verb(Kind kind) { return kind == Kind::read ? "read" : kind == Kind::write ? "write" : "atomic"; }

const Range* nearest_of(const std::vector<Range>& ranges, uintptr_t address) {
  const auto distance = [&](const Range& range) {
    return address < range.begin ? range.begin - address : address < range.end ? 0 : address - range.end + 1;
  };
  const Range* best = nullptr;
  for (const Range& range : ranges) {
    if (!best || distance(range) < distance(*best)) best = &range;
  }
  return best;
}

std::string describe_address(uintptr_t address) {
  const bool shared = current->block->arena.holds(address, 1);
  const Range* range = shared ? nearest_of(current->block->shared, address) : bounds.nearest(address);
  const std::string memory = shared ? "shared " : "global ";
  if (!range) return memory + "memory";
  const int64_t offset = static_cast<int64_t>(address - range->begin);
  return memory + range->name + (offset < 0 ? "" : "+") + std::to_string(offset) + " (of " +
         std::to_string(range->end - range->begin) + " bytes)";
}

std::string describe_event(Kind kind, const Event& e) {
  return std::string(verb(kind)) + " by " + describe_thread(e) + " at " + describe_site(e.site);
}

std::string advice(const Event& by, const Event& me) {
  if (same_block(by, *current)) {
    const uint32_t first = current->block->first;
    const bool same_warp = (by.thread - first) / 32 == (me.thread - first) / 32;
    return same_warp ? "needs __syncwarp() or a barrier: shuffles do not order memory" : "needs a barrier between them";
  }
  if (by.atomic != me.atomic) return "needs to be atomic in both places";
  for (const Past& pending : current->pending) {
    if (covers(pending, by)) return "needs __threadfence() after the atomic that saw it published";
  }
  return "needs __threadfence() and an atomic to publish it, then an atomic and __threadfence() to see it";
}

}  // namespace

uint32_t site_of(const Site& site) {
  for (size_t i = sites.size(); i-- > 0;) {
    if (sites[i].file == site.file && sites[i].line == site.line) return static_cast<uint32_t>(i) | kIsSite;
  }
  sites.push_back(site);
  return static_cast<uint32_t>(sites.size() - 1) | kIsSite;
}

const Range* Bounds::nearest(uintptr_t address) const { return nearest_of(ranges, address); }

bool Bounds::holds(uintptr_t address, size_t size) const {
  for (const Range& range : ranges) {
    if (range.holds(address, size)) return true;
  }
  return ranges.empty();
}

void report_race(uintptr_t address, Kind before, const Event& by, Kind now, const Event& me) {
  fail("race: " + describe_event(now, me) + " and " + describe_event(before, by) + ", both of " +
       describe_address(address) + " [" + advice(by, me) + "]");
}

void report_uninitialised(uintptr_t address, size_t size, const Event& me) {
  fail("uninitialised: read of " + std::to_string(size) + " bytes by " + describe_thread(me) + " at " +
       describe_site(me.site) + ", of " + describe_address(address) + ", that its block has not written");
}

void report_out_of_bounds(uintptr_t address, size_t size, Kind now, const Event& me) {
  fail("out of bounds: " + std::string(verb(now)) + " of " + std::to_string(size) + " bytes by " + describe_thread(me) +
       " at " + describe_site(me.site) + ", at " + describe_address(address));
}

void report_builtin_atomic(const Event& me) {
  fail("unsupported: an atomic or fence of the compiler's by " + describe_thread(me) + " at " + describe_site(me.site));
}

void report_misaligned(uintptr_t address, size_t size, const Event& me) {
  fail("misaligned: access of " + std::to_string(size) + " bytes by " + describe_thread(me) + " at " +
       describe_site(me.site) + ", at " + describe_address(address));
}

}  // namespace simt::race

extern "C" {

__attribute__((visibility("default"))) void simt_register(const void* begin, size_t bytes, const char* name) {
  const auto at = reinterpret_cast<uintptr_t>(begin);
  simt::race::bounds.ranges.push_back({at, at + bytes, name});
  ++simt::race::bounds.generation;
}

__attribute__((visibility("default"))) void simt_unregister_all() {
  simt::race::bounds.ranges.clear();
  ++simt::race::bounds.generation;
}
}
