// One step of masked denoising without Python: of four masked positions the two surest take their most probable token.
#include <dlm_kernels/api.h>

#include <cstdio>
#include <cstdlib>
#ifdef WITH_CUDA
#include <cuda_runtime.h>
#endif

namespace {

constexpr int64_t kLength = 4, kVocab = 1000, kMask = -1;

void* cpu_memory(size_t bytes) { return std::calloc(bytes, 1); }

// Memory for n numbers, never freed: this program ends soon.
template <class T>
T* make(void* (*memory)(size_t), int64_t n, T value) {
  T* const made = static_cast<T*>(memory(n * sizeof(T)));
  for (int64_t i = 0; i < n; ++i) made[i] = value;
  return made;
}

// The step, on the memory of the device: call(args, scratch, error) runs it and returns when it is done.
template <class Call>
bool step(void* (*memory)(size_t), int32_t device, int64_t scratch_bytes, Call call) {
  int64_t* const x = make<int64_t>(memory, kLength, kMask);
  float* const logits = make<float>(memory, kLength * kVocab, 0);
  for (int64_t i = 0; i < kLength; ++i) logits[i * kVocab + 10 * i] = 8 + i;  // surer and surer of token 10 i

  dlm::StepArgs a;
  a.decide.x = {x, dlm::kInt64, device, 2, {1, kLength}, {kLength, 1}};
  a.decide.mask_id = kMask;
  a.decide.rule = "topk";
  a.decide.quota = {make<int64_t>(memory, 1, 2), dlm::kInt64, device, 1, {1}, {1}};
  a.sweep.logits = {logits, dlm::kFloat32, device, 3, {1, kLength, kVocab}, {kLength * kVocab, kVocab, 1}};
  a.sweep.temperature = {make<float>(memory, 1, 0), dlm::kFloat32, device, 1, {1}, {1}};
  a.draw.seed = {make<int64_t>(memory, 1, 0), dlm::kInt64, device, 1, {1}, {1}};
  a.draw.step = {make<int64_t>(memory, 1, 0), dlm::kInt64, device, 1, {1}, {1}};
  a.out.tokens = make<int64_t>(memory, kLength, 0);
  a.out.confidence = make<float>(memory, kLength, 0);
  a.out.unmask = {make<bool>(memory, kLength, false), make<int64_t>(memory, 1, 0), make<int64_t>(memory, 1, 0),
                  make<int64_t>(memory, 1, 0)};

  dlm_error error = {};
  if (call(a, memory(scratch_bytes), &error) != 0) {
    std::fprintf(stderr, "%s\n", error.text);
    return false;
  }
  std::printf("%s: %lld %lld %lld %lld\n", device < 0 ? "cpu" : "cuda", static_cast<long long>(x[0]),
              static_cast<long long>(x[1]), static_cast<long long>(x[2]), static_cast<long long>(x[3]));
  return x[0] == kMask && x[1] == kMask && x[2] == 20 && x[3] == 30;
}

}  // namespace

int main() {
  bool good = step(cpu_memory, -1, dlm_cpu_workspace_bytes(kLength, 1, 0, 0, 1),
                   [](const dlm::StepArgs& a, void* scratch, dlm_error* error) {
                     return dlm_cpu_denoise_step(&a, nullptr, scratch, error);
                   });
#ifdef WITH_CUDA
  int devices = 0;
  const auto managed = [](size_t bytes) {
    void* made = nullptr;
    return cudaMallocManaged(&made, bytes) == cudaSuccess ? made : nullptr;
  };
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) {
    good &= step(managed, 0, dlm_cuda_scratch_bytes(kLength, kVocab),
                 [](const dlm::StepArgs& a, void* scratch, dlm_error* error) {
                   const int32_t status = dlm_cuda_denoise_step(&a, scratch, nullptr, error);
                   cudaDeviceSynchronize();
                   return status;
                 });
  }
#endif
  return good ? 0 : 1;
}
