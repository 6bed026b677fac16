// Every op of the CPU's C ABI from several threads at once, on logits they share and with workers of their own, and
// then once more one after the other: the same bytes. Built under ThreadSanitizer, which sees every access of the
// library.
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "../csrc/api.h"

namespace {

using dlm::Array;

constexpr int64_t kBatch = 2, kLength = 6, kVocab = 1500, kRows = kBatch * kLength;
constexpr int kCallers = 4, kRepeats = 3;

template <class T>
int32_t code();
template <>
int32_t code<float>() {
  return dlm::kFloat32;
}
template <>
int32_t code<double>() {
  return dlm::kFloat64;
}
template <>
int32_t code<int64_t>() {
  return dlm::kInt64;
}
template <>
int32_t code<int32_t>() {
  return dlm::kInt32;
}

template <class T>
Array view(std::vector<T>& values, std::vector<int64_t> shape) {
  Array a;
  a.data = values.data();
  a.dtype = code<T>();
  a.ndim = static_cast<int32_t>(shape.size());
  int64_t stride = 1;
  for (int32_t d = a.ndim - 1; d >= 0; stride *= a.shape[d--]) {
    a.shape[d] = shape[static_cast<size_t>(d)];
    a.stride[d] = stride;
  }
  return a;
}

// What all callers read.
struct Shared {
  std::vector<float> logits = std::vector<float>(kRows * kVocab), temperature = {0.7f};
  std::vector<int64_t> seed = {5, 6}, step = {3}, quota = {2}, top_k = {40};
  std::vector<double> coefficients = {0, 0, .2, .3, .5, .6, .4, 0, 0, .3, .7, 1, 0, 0}, rates = {.3, 0};
  Shared() {
    uint32_t state = 1;
    for (float& z : logits) z = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 5e-7f;
  }
};

// What one call writes.
struct Own {
  std::vector<int64_t> x = std::vector<int64_t>(kRows), tokens = x, argmax = x,
                       steps = std::vector<int64_t>(4 * kBatch * 8);
  std::vector<int32_t> trace = std::vector<int32_t>(kRows * 8, -1);
  std::vector<float> a = std::vector<float>(kRows), b = a, c = a, d = a, e = a, f = a;
  std::vector<int64_t> n = std::vector<int64_t>(kBatch), m = n, o = n;
  bool flags[kRows] = {}, at_rest[kBatch] = {};
  uint8_t route[kRows] = {};

  explicit Own(int64_t mask) {
    for (size_t i = 0; i < x.size(); ++i) x[i] = i % 3 == 0 ? 7 : mask;
  }
  std::vector<char> bytes() const {
    std::vector<char> all;
    const auto add = [&](const void* data, size_t n) {
      all.insert(all.end(), static_cast<const char*>(data), static_cast<const char*>(data) + n);
    };
    for (const auto* v : {&x, &tokens, &argmax, &steps, &n, &m, &o}) add(v->data(), v->size() * sizeof(int64_t));
    for (const auto* v : {&a, &b, &c, &d, &e, &f}) add(v->data(), v->size() * sizeof(float));
    add(trace.data(), trace.size() * sizeof(int32_t));
    add(flags, sizeof flags);
    add(at_rest, sizeof at_rest);
    add(route, sizeof route);
    return all;
  }
};

const dlm_executor kThreads = {3, nullptr, [](void*, int32_t workers, void (*work)(void*, int32_t), void* context) {
                                 std::vector<std::thread> others;
                                 for (int32_t i = 1; i < workers; ++i) others.emplace_back(work, context, i);
                                 work(context, 0);
                                 for (std::thread& t : others) t.join();
                               }};

dlm::SweepParams sweep(Shared& s) {
  dlm::SweepParams p;
  p.logits = view(s.logits, {kBatch, kLength, kVocab});
  p.temperature = view(s.temperature, {1});
  p.top_k = view(s.top_k, {1});
  return p;
}

dlm::DecideParams decide(Shared& s, Own& own) {
  dlm::DecideParams d;
  d.x = view(own.x, {kBatch, kLength});
  d.mask_id = kVocab;
  d.quota = view(s.quota, {1});
  d.trace = {view(own.trace, {kBatch, kLength, 8}), view(own.steps, {4, kBatch, 8}), view(s.step, {1})};
  return d;
}

dlm::UnmaskOutputs unmasked(Own& own) { return {own.flags, own.n.data(), own.m.data(), own.o.data()}; }

// One call of the op of this number. Returns what it wrote; nothing if it failed.
std::vector<char> call(int op, Shared& s, const dlm_executor* executor) {
  Own own(op == 6 ? 9 : kVocab);  // a transition starts from tokens
  std::vector<int64_t> workspace(
      static_cast<size_t>(dlm_cpu_workspace_bytes(kRows, kBatch, 0, kVocab, executor->threads) / 8 + 1));
  dlm_error error = {};
  int32_t status = 1;
  if (op == 0) {
    dlm::RowStatsArgs a;
    a.sweep = sweep(s);
    a.sweep.top_k = Array{};
    a.out = {own.tokens.data(), own.a.data(), own.b.data(), own.c.data(),
             own.d.data(),      own.e.data(), own.f.data(), own.flags};
    status = dlm_cpu_row_stats(&a, executor, workspace.data(), &error);
  } else if (op == 1) {
    dlm::DivergenceArgs a;
    a.logits = a.previous = sweep(s).logits;
    a.temperature = view(s.temperature, {1});
    a.out = {own.a.data(), own.flags};
    status = dlm_cpu_row_kl(&a, executor, workspace.data(), &error);
  } else if (op == 2) {
    dlm::DrawArgs a;
    a.sweep = sweep(s);
    a.draw.seed = view(s.seed, {kBatch});
    a.draw.step = view(s.step, {1});
    a.out = {own.tokens.data(), own.a.data(), own.b.data(), own.c.data(), own.d.data(), own.flags};
    status = dlm_cpu_draw_tokens(&a, executor, workspace.data(), &error);
  } else if (op == 3 || op == 5) {
    dlm::RenoiseArgs a;
    a.step.sweep = sweep(s);
    a.step.draw.seed = view(s.seed, {kBatch});
    a.step.draw.step = view(s.step, {1});
    a.step.decide = decide(s, own);
    a.step.out.tokens = own.tokens.data();
    a.step.out.confidence = own.a.data();
    a.step.out.unmask = unmasked(own);
    a.out = {own.argmax.data(), own.b.data(), own.at_rest};
    if (op == 5) a.step.decide.has_mask = false;
    status = op == 3 ? dlm_cpu_denoise_step(&a.step, executor, workspace.data(), &error)
                     : dlm_cpu_renoise_step(&a, executor, workspace.data(), &error);
  } else if (op == 4) {
    dlm::UnmaskArgs a;
    a.tokens = view(own.tokens, {kBatch, kLength});
    a.confidence = view(own.a, {kBatch, kLength});
    a.decide = decide(s, own);
    a.out = unmasked(own);
    status = dlm_cpu_topk_unmask(&a, executor, workspace.data(), &error);
  } else if (op == 6) {
    dlm::TransitionArgs a;
    a.sweep = sweep(s);
    a.draw.seed = view(s.seed, {kBatch});
    a.draw.step = view(s.step, {1});
    a.decide = decide(s, own);
    a.decide.has_mask = false;
    a.coefficients = view(s.coefficients, {1, 14});
    a.out = {own.tokens.data(), own.route, own.a.data(), own.b.data(), own.n.data(), own.m.data()};
    status = dlm_cpu_transition_step(&a, executor, workspace.data(), &error);
  } else {
    dlm::NoisingArgs a;
    a.x = view(own.x, {kBatch, kLength});
    a.rates = view(s.rates, {1, 2});
    a.seed = view(s.seed, {kBatch});
    a.step = view(s.step, {1});
    a.vocab = kVocab;
    a.out = {own.tokens.data(), own.route};
    status = dlm_cpu_q_sample(&a, executor, workspace.data(), &error);
  }
  if (status != 0) fprintf(stderr, "op %d: %s\n", op, error.text);
  return status == 0 ? own.bytes() : std::vector<char>{};
}

}  // namespace

int main() {
  constexpr int kOps = 8;
  Shared shared;
  std::vector<std::vector<char>> at_once(kCallers * kOps * kRepeats);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (int i = 0; i < kOps * kRepeats; ++i)  // no two callers begin with the same op
        at_once[static_cast<size_t>(caller * kOps * kRepeats + i)] = call((i + 2 * caller) % kOps, shared, &kThreads);
    });
  }
  for (std::thread& t : callers) t.join();

  const dlm_executor alone = {1, nullptr, nullptr};
  int wrong = 0;
  for (int caller = 0; caller < kCallers; ++caller) {
    for (int i = 0; i < kOps * kRepeats; ++i) {
      const auto& got = at_once[static_cast<size_t>(caller * kOps * kRepeats + i)];
      wrong += got.empty() || got != call((i + 2 * caller) % kOps, shared, &alone);
    }
  }
  printf("%d calls of %s, %d wrong\n", kCallers * kOps * kRepeats, dlm_cpu_isa(), wrong);
  return wrong == 0 ? 0 : 1;
}
