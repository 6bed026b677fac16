// What bounds a sweep on this machine right now: reading memory, and exponentials on data in L1. Benches measure both
// in the same run as the kernels, because neither is a constant of the machine.
#include <cstring>

#include "../api.h"
#include "kernels.h"

DLM_API double dlm_cpu_read_stream(const void* data, int64_t bytes) {
  // Four independent vectors, named: as an array they went through the stack, at 8 bytes per cycle. The result keeps
  // the loads alive.
  typedef uint64_t Pair __attribute__((vector_size(16)));
  const char* at = static_cast<const char*>(data);
  const auto load = [](const char* from) {
    Pair p;
    memcpy(&p, from, sizeof p);
    return p;
  };
  Pair a = {0, 0}, b = a, c = a, d = a;
  for (int64_t i = 0; i + 64 <= bytes; i += 64) {
    a += load(at + i);
    b += load(at + i + 16);
    c += load(at + i + 32);
    d += load(at + i + 48);
  }
  a += b + c + d;
  return static_cast<double>((a[0] + a[1]) & 0xffffffff);
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
