// Which instruction set runs: the best this CPU has, chosen once at run time; never what the build machine had.
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace dlm::cpu {
namespace {

struct Choice {
  const char* name;
  const KernelTable& (*table)();
  bool runs_here;
  bool preferred;  // "auto" may take it
};

// Best first.
const Choice* choices(int* count) {
  static const Choice list[] = {
#if defined(DLM_X86)
      {"avx512", avx512_kernels, __builtin_cpu_supports("avx512f") != 0, true},
      {"avx2", avx2_kernels,
       __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"), true},
#endif
      {"portable", portable_kernels, true, true},
#if defined(DLM_EMULATE_AVX512)
      {"avx512-emulated", avx512_emulated_kernels, true, false},
#endif
  };
  *count = static_cast<int>(sizeof list / sizeof *list);
  return list;
}

const KernelTable* find_table(const char* name) {
  const bool best = strcmp(name, "auto") == 0;
  int count = 0;
  const Choice* list = choices(&count);
  for (int i = 0; i < count; ++i) {
    if (list[i].runs_here && (best ? list[i].preferred : strcmp(name, list[i].name) == 0)) return &list[i].table();
  }
  return nullptr;
}

const KernelTable* initial_table() {
  const char* wish = getenv("DLM_KERNELS_CPU_ISA");
  const KernelTable* table = wish != nullptr ? find_table(wish) : nullptr;
  return table != nullptr ? table : find_table("auto");
}

std::atomic<const KernelTable*>& active() {
  static std::atomic<const KernelTable*> table{initial_table()};
  return table;
}

}  // namespace

const KernelTable& active_kernels() { return *active().load(std::memory_order_relaxed); }

bool set_isa(const char* name) {
  const KernelTable* table = find_table(name);
  if (table != nullptr) active().store(table, std::memory_order_relaxed);
  return table != nullptr;
}

const char* isa_names() {
  static const struct Names {
    char text[96] = {0};
    Names() {
      int count = 0;
      const Choice* list = choices(&count);
      for (int i = 0; i < count; ++i) {
        if (!list[i].runs_here) continue;
        if (text[0] != 0) strcat(text, ",");
        strcat(text, list[i].name);
      }
    }
  } names;
  return names.text;
}

}  // namespace dlm::cpu
