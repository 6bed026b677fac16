#include "sweep.h"

#include <algorithm>
#include <cmath>

namespace dlm::cpu {
namespace {

constexpr double kLog2e = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

// The maximum of this many logits is the reference of a whole chunk's exponentials: one load pass instead of two. Where
// the rest of the chunk rises kMaxLead above it, the chunk is done again with its true maximum.
constexpr int64_t kHead = 256;

// In a rest below this the clamped exponentials of -inf would show: it is summed about its own maximum instead.
constexpr double kFaint = 0x1p-80;

float maximum(const KernelTable& k, const RowSource& source, int64_t begin, int64_t end) {
  float max = -kInfinity;
  for_each_run(source, begin, end, [&](const void* data, int32_t dtype, int64_t n, int64_t) {
    max = max_of(max, k.dtype[dtype].maximum(data, n));
    return false;
  });
  return max;
}

// Adds [begin, end) to *run.
void accumulate(const KernelTable& k, const RowSource& source, int64_t begin, int64_t end, int flags,
                const LawScales& scales, RunStats* run) {
  for_each_run(source, begin, end, [&](const void* data, int32_t dtype, int64_t n, int64_t at) {
    if (!(source.cutoff.z > -kInfinity)) {
      k.dtype[dtype].accumulate[flags](data, n, scales, run);
      return false;
    }
    float kept[kTile + 16];
    for (int64_t i = 0; i < n; i += kTile) {
      const char* const part = static_cast<const char*>(data) + i * dtype_size(dtype);
      const int64_t some = k.dtype[dtype].collect(part, min_of(kTile, n - i), source.floor_at(at), kInfinity, kept);
      if (some > 0) k.dtype[kFloat32].accumulate[flags](kept, some, scales, run);
    }
    return false;
  });
}

RunStats accumulate_chunk(const KernelTable& k, const RowSource& source, int64_t begin, int64_t end, const RowLaw& law,
                          const LawScales& scales) {
  const bool two_laws = law.draw_beta > 0 && law.draw_beta != law.beta;
  RunStats run;
  accumulate(k, source, begin, end, (law.tilt ? kTilt : 0) | (two_laws ? kTwoLaws : 0), scales, &run);
  if (!two_laws) run.draw_mass = run.mass;
  return run;
}

}  // namespace

LawScales scales_of(const RowLaw& law, float ref) {
  LawScales out;
  out.ref = ref;
  out.scale = static_cast<float>(law.beta * kLog2e);
  out.draw_scale = law.draw_beta > 0 ? static_cast<float>(law.draw_beta * kLog2e) : out.scale;
  return out;
}

ChunkStats sweep_chunk(const KernelTable& k, const RowSource& source, int64_t begin, int64_t end, const RowLaw& law) {
  float ref = maximum(k, source, begin, min_of(begin + kHead, end));
  if (ref == -kInfinity) ref = maximum(k, source, begin, end);
  ChunkStats out;
  if (ref == kInfinity) {
    out.max = ref;
    return out;
  }
  if (ref == -kInfinity) ref = 0;  // only -inf, or NaN, which the sums below find
  LawScales scales = scales_of(law, ref);
  RunStats run = accumulate_chunk(k, source, begin, end, law, scales);
  if ((run.max - ref) * max_of(scales.scale, scales.draw_scale) > kMaxLead && run.max < kInfinity) {
    scales = scales_of(law, run.max);
    run = accumulate_chunk(k, source, begin, end, law, scales);
  }
  out.max = run.max;
  if (run.mass != run.mass) {
    out.mass = run.mass;
  } else if (run.max > -kInfinity && run.max < kInfinity) {
    // From sums relative to ref to sums relative to max.
    const double lead = (static_cast<double>(run.max) - scales.ref) * scales.scale;
    const double draw_lead = (static_cast<double>(run.max) - scales.ref) * scales.draw_scale;
    const double back = std::exp2(-lead);
    out.mass = run.mass * back;
    out.tilt = law.tilt ? (run.tilt - lead * run.mass) * back * kLn2 : 0;
    out.draw_mass = run.draw_mass * (draw_lead == lead ? back : std::exp2(-draw_lead));
  }
  return out;
}

bool finish_row(const KernelTable& k, const RowSource& source, int64_t vocab, const RowLaw& law,
                const ChunkStats* chunks, RowStats* out) {
  const int64_t size = chunk_size(vocab), n = num_chunks(vocab);
  int64_t winner = 0;
  for (int64_t c = 0; c < n; ++c) {
    if (is_bad_chunk(chunks[c])) return false;
    if (chunks[c].max > chunks[winner].max) winner = c;
  }
  const float max = chunks[winner].max;
  if (max == -kInfinity) return false;

  // Only the winning chunk is read again: for its argmax, and for what is left of it without that.
  const int64_t begin = winner * size, end = min_of(vocab, begin + size);
  RowStats stats;
  stats.max = max;
  for_each_run(source, begin, end, [&](const void* data, int32_t dtype, int64_t count, int64_t at) {
    const int64_t hit = k.dtype[dtype].find(data, count, max);
    stats.argmax = hit < 0 ? -1 : at + hit;
    return hit >= 0;
  });
  const auto rest_about = [&](float ref) {
    const int flags = law.tilt ? kTilt : 0;
    RunStats sum;
    accumulate(k, source, begin, stats.argmax, flags, scales_of(law, ref), &sum);
    accumulate(k, source, stats.argmax + 1, end, flags, scales_of(law, ref), &sum);
    return ChunkStats{sum.max, sum.mass, law.tilt ? sum.tilt * kLn2 : 0, 0};
  };
  ChunkStats rest = rest_about(max);
  stats.second = rest.max;
  if (rest.mass < kFaint) {
    rest = rest.max > -kInfinity ? relative_to(rest_about(rest.max), max, law.beta, law.beta) : ChunkStats{};
  }
  stats.rest = rest.mass;
  stats.tilt = rest.tilt;
  for (int64_t c = 0; c < n; ++c) {
    if (c != winner) stats = merge(stats, losing_chunk(chunks[c], c * size), law.beta);
  }
  *out = stats;
  return true;
}

int64_t draw_token(const KernelTable& k, const RowSource& source, int64_t vocab, const RowLaw& law,
                   const ChunkStats* chunks, double uniform) {
  const ChunkPick pick = pick_chunk(chunks, num_chunks(vocab), law.draw_beta, uniform);
  if (pick.chunk < 0) return -1;
  const int64_t begin = pick.chunk * chunk_size(vocab), end = min_of(vocab, begin + chunk_size(vocab));
  LawScales scales = scales_of(law, chunks[pick.chunk].max);
  double target = pick.target;
  int64_t token = -1;
  for_each_run(source, begin, end, [&](const void* data, int32_t dtype, int64_t n, int64_t at) {
    int64_t last = -1;
    scales.floor = source.floor_at(at);
    const int64_t hit = k.dtype[dtype].invert(data, n, scales, &target, &last);
    if (last >= 0) token = at + last;  // also the answer where rounding puts the target past the end
    return hit >= 0;
  });
  return token;
}

int64_t draw_another(const KernelTable& k, RowSource source, int64_t vocab, const RowLaw& law, const ChunkStats* chunks,
                     int64_t token, double uniform) {
  if (token < 0 || token >= vocab) return draw_token(k, source, vocab, law, chunks, uniform);
  const int64_t size = chunk_size(vocab), own = token / size;
  ChunkStats without[kMaxChunks];
  std::copy(chunks, chunks + num_chunks(vocab), without);
  source.skipped = token;
  without[own] = sweep_chunk(k, source, own * size, min_of(vocab, (own + 1) * size), law);
  return draw_token(k, source, vocab, law, without, uniform);
}

void store_probabilities(const KernelTable& k, const RowSource& source, int64_t vocab, const RowLaw& law,
                         const RowStats& stats, BFloat16* out) {
  LawScales scales = scales_of(law, stats.max);
  const float share = static_cast<float>(1 / (1 + stats.rest));
  for_each_run(source, 0, vocab, [&](const void* data, int32_t dtype, int64_t n, int64_t at) {
    scales.floor = source.floor_at(at);
    k.dtype[dtype].probabilities(data, n, scales, share, out + at);
    return false;
  });
}

}  // namespace dlm::cpu
