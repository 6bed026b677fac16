// What bounds a sweep on this machine right now: reading memory, and exponentials on data in L1. Benches measure both
// in the same run as the kernels, because neither is a constant of the machine.
#include <cstring>

#include "../api.h"
#include "kernels.h"

DLM_API double dlm_cpu_read_stream(const void* data, int64_t bytes) {
  // Eight independent 64-bit sums: the adds never bound it, and the result keeps the loads alive.
  const char* at = static_cast<const char*>(data);
  uint64_t sum[8] = {0};
  for (int64_t i = 0; i + 64 <= bytes; i += 64) {
    uint64_t word[8];
    memcpy(word, at + i, sizeof word);
    for (int j = 0; j < 8; ++j) sum[j] += word[j];
  }
  uint64_t total = 0;
  for (uint64_t s : sum) total += s;
  return static_cast<double>(total & 0xffffffff);
}

DLM_API double dlm_cpu_exp_peak(int32_t dtype, int64_t n, int64_t repeats) {
  constexpr int64_t kMost = 4096;
  alignas(64) static const uint32_t zeros[kMost] = {0};
  if (dtype < 0 || dtype > dlm::kFloat16 || n < 1 || n > kMost) return -1;
  const auto& kernels = dlm::cpu::active_kernels().dtype[dtype];
  dlm::cpu::LawScales law;
  law.scale = law.draw_scale = 1;
  dlm::cpu::RunStats run;
  for (int64_t i = 0; i < repeats; ++i) kernels.accumulate[dlm::cpu::kPlain](zeros, n, law, &run);
  return run.mass;
}
