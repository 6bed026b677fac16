// From a row's partials to its statistics and its token: what the block that completes a row does. Only one or two
// chunks are read again, and they are in the cache: the winning one for its argmax and for what is left of it without
// that, the drawn one to invert its CDF.
#pragma once

#include "cut_space.h"
#include "sweep.h"

namespace dlm::cuda {

// What one thread, and then the block, gathers about a row besides its maximum. Sums are about that maximum.
struct Gathered {
  double mass, tilt;   // of the losing chunks, and of the winning one's logits below the maximum
  float second, near;  // the largest logit below the maximum; that of the winning chunk
  int ties, first;     // logits of the winning chunk that attain it: how many, the first one's offset
};

struct Joined {
  __device__ Gathered operator()(const Gathered& a, const Gathered& b) const {
    return {a.mass + b.mass,       a.tilt + b.tilt, fmaxf(a.second, b.second),
            fmaxf(a.near, b.near), a.ties + b.ties, min_of(a.first, b.first)};
  }
};

// Of the warp. All but the sums in an instruction each.
__device__ inline Gathered warp_join(const Gathered& g) {
  const auto largest = [](float v) { return from_ordered(__reduce_max_sync(kAllLanes, ordered(v))); };
  return {
      warp_reduce(g.mass, Plus{}),          warp_reduce(g.tilt, Plus{}),          largest(g.second), largest(g.near),
      __reduce_add_sync(kAllLanes, g.ties), __reduce_min_sync(kAllLanes, g.first)};
}

// A rest below this may be missing what exponentials in float lose below 2^-126.
constexpr double kFaint = 0x1p-90;

template <class Source>
class Finisher {
 public:
  // Of the row at hand, whose partials are there; a lane of each warp looks after one of them from here on, so that
  // every warp knows what they tell without a barrier. `cut_stats`: what is behind the row's cutoff does not count in
  // its statistics either.
  __device__ Finisher(const Source& source, bool cut_stats)
      : source_(source),
        law_(row_job().law),
        vocab_(static_cast<int>(row_job().resolved.vocab)),
        size_(chunk_size(vocab_)),
        cut_(cuts(row_job())),
        cut_stats_(cut_stats) {
    mine_ = {-kInfinity, 0, 0, 0};
    if (lane() < num_chunks(vocab_)) mine_ = row_job().row_parts[lane()];
    max_ = warp_max(mine_.max);
    bad_ = __any_sync(kAllLanes, is_bad_chunk(as_chunk(mine_))) != 0 || max_ == -kInfinity;
  }

  __device__ bool bad() const { return bad_; }  // NaN, +inf, or no finite logit

  // What the partials tell: all but which token has the maximum, and what comes after it. Its `rest` is a difference.
  __device__ RowStats outline() const {
    const ChunkStats here = relative_to(as_chunk(mine_), max_, law_.beta, law_.beta);
    RowStats out;
    out.max = max_;
    out.rest = max_of(0.0, warp_reduce(here.mass, Plus{}) - 1);
    return out;
  }

  __device__ RowStats stats() const {
    const int winner = __ffs(static_cast<int>(__ballot_sync(kAllLanes, mine_.max == max_))) - 1;
    const int begin = winner * size_;
    Gathered g;
    float about = max_;
#pragma unroll 1
    for (;;) {
      g = gather(begin, about);
      if (threadIdx.x < kWarp && lane() != winner) {
        const ChunkStats loser = relative_to(as_chunk(mine_), max_, law_.beta, law_.beta);
        g.mass += loser.mass, g.tilt += loser.tilt, g.second = fmaxf(g.second, mine_.max);
      }
      g = block_join(g, warp_join, Joined{});
      if (about < max_ || g.ties > 1 || g.mass >= kFaint || g.near == -kInfinity) break;
      about = g.near;  // floats this far below the maximum are lost: once more about the largest of them
    }
    RowStats out;
    out.max = max_;
    out.argmax = begin + g.first;
    out.second = g.ties > 1 ? max_ : g.second;
    out.rest = g.mass + (g.ties - 1);  // a tie weighs exactly 1
    out.tilt = g.tilt;
    return out;
  }

  // From here on the row does not have this token of the vocabulary, whose logit is z. What is at most half of its
  // chunk's mass is subtracted; else the chunk is summed up again, about its own maximum, so that nothing is lost to a
  // token that was nearly certain.
  __device__ void leave_out(int64_t token, float z) {
    const Partial* const parts = row_job().row_parts;
    skipped_ = token;
    const int chunk = static_cast<int>(token) / size_;
    const float scale = static_cast<float>(law_.draw_beta * kLog2e), top = parts[chunk].max;
    const float all = parts[chunk].draw_mass, share = exp2_approx((z - reference(top)) * scale);
    if (z < top && share <= all / 2) {
      if (lane() == chunk) mine_.draw_mass = all - share;
      return;
    }
    sum_again(chunk, scale);
  }

  // The token at which the CDF, in index order, passes `uniform`; -1 if there is no mass.
  __device__ int64_t draw(double uniform) const {
    const double chunk_mass = relative_to(as_chunk(mine_), max_, law_.beta, law_.draw_beta).draw_mass;
    const double through = warp_scan(chunk_mass), below = __shfl_up_sync(kAllLanes, through, 1);
    const double before = lane() == 0 ? 0 : below, target = uniform * __shfl_sync(kAllLanes, through, kWarp - 1);
    const unsigned live = __ballot_sync(kAllLanes, chunk_mass > 0);
    const unsigned hit = __ballot_sync(kAllLanes, chunk_mass > 0 && through > target);
    if (live == 0) return -1;
    const int chosen = hit != 0 ? __ffs(static_cast<int>(hit)) - 1 : 31 - __clz(static_cast<int>(live));
    const double above = exp_d((static_cast<double>(mine_.max) - max_) * law_.draw_beta);
    const double left = hit != 0 ? max_of(0.0, target - before) / above : kInfinity;
    const float ref = __shfl_sync(kAllLanes, mine_.max, chosen), scale = static_cast<float>(law_.draw_beta * kLog2e);
    return invert(chosen * size_, __shfl_sync(kAllLanes, left, chosen),
                  [&](float z, int64_t) { return exp2_approx((z - ref) * scale); });
  }

  // The token of the chunk at `begin` at which the sum of its terms passes `left`; -1 if all are 0. term(logit, token).
  // Every thread sums a stretch, then a warp searches the one that the target falls in.
  template <class Term>
  __device__ int64_t invert(int begin, double left, Term term) const {
    constexpr int kLogits = Source::kLogits;
    const int size = size_of_chunk(begin);
    const int stretch = ((size + kThreads - 1) / kThreads + kLogits - 1) / kLogits * kLogits;

    const int mine = static_cast<int>(threadIdx.x) * stretch;
    double mass = 0;
    each_vector(begin, size, mine, kLogits, min_of(size, mine + stretch), cut_, [&](const auto& v, int at) {
      v.each([&](int k, float z) { mass += term(source_.effective(z), begin + at + k); });
    });
    const Scan<double> cdf = block_scan(mass);
    const Choice chosen = choose(mass > 0, cdf.through > left);
    if (chosen.index < 0) return -1;
    DLM_SHARED(double, in_stretch, );
    if (static_cast<int>(threadIdx.x) == chosen.index) {
      in_stretch = chosen.passed ? max_of(0.0, left - cdf.before) : kInfinity;
    }
    __syncthreads();
    left = in_stretch;

    // Every warp searches, and all find the same.
    const int from = chosen.index * stretch, to = min_of(size, from + stretch);
    const Cutoff cutoff = cutoff_of(cut_);
    int token = -1;
    for (int at = from; at < to; at += kWarp) {
      const int i = at + static_cast<int>(threadIdx.x) % kWarp;
      float z = i < to ? source_.logit(begin + i) : -kInfinity;
      if (!keeps(cutoff, z, begin + i)) z = -kInfinity;
      const double e = i < to && begin + i != skipped_ ? term(z, begin + i) : 0;
      const double through = warp_scan(e);
      const unsigned live = __ballot_sync(kAllLanes, e > 0), hit = __ballot_sync(kAllLanes, e > 0 && through > left);
      if (hit != 0) return begin + at + __ffs(static_cast<int>(hit)) - 1;
      if (live != 0) token = at + 31 - __clz(static_cast<int>(live));
      left -= __shfl_sync(kAllLanes, through, kWarp - 1);
    }
    return token < 0 ? -1 : begin + token;
  }

  // body(vector, offset) for the vectors of a chunk at `offset`, + stride, ... below `stop`.
  template <class Body>
  __device__ void each_vector(int begin, int size, int offset, int stride, int stop, bool cut, Body body) const {
    Cutoff here = cutoff_of(cut);
    if (cut) here.index = offset_in(begin, size_, here.index);
    auto next = Source::Vector::none();
#pragma unroll 1  // once per row: registers are worth more here than a few cycles, but not than a trip to memory
    for (int at = offset - stride; at < stop; at += stride) {
      auto vector = next;
      if (at + stride < stop) next = source_.load(begin + at + stride, size - at - stride);
      if (at < offset) continue;
      source_.suppress(begin + at, &vector);
      if (skipped_ >= 0) Source::leave_out(skipped_, begin + at, &vector);
      if (cut) vector.filter([&](int i, float z) { return keeps(here, source_.effective(z), at + i); });
      body(vector, at);  // past the end: -inf, neither a maximum nor mass
    }
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kWarp; }

  // The first thread whose CDF passes the target; failing that, by rounding at the far end, the last one with mass.
  struct Choice {
    int index;  // -1: none has mass
    bool passed;
  };
  __device__ static Choice choose(bool has_mass, bool passes) {
    const int t = static_cast<int>(threadIdx.x), hit = block_min(has_mass && passes ? t : kThreads);
    if (hit < kThreads) return {hit, true};
    return {block_max(has_mass ? t : -1), false};
  }

  __device__ int size_of_chunk(int begin) const { return min_of(size_, vocab_ - begin); }

  __device__ void sum_again(int chunk, float scale) {
    const int begin = chunk * size_;
    const int size = size_of_chunk(begin), mine = static_cast<int>(threadIdx.x) * Source::kLogits;
    float top = -kInfinity, mass = 0;
    each_vector(begin, size, mine, Source::kTurn, size, cut_,
                [&](const auto& v, int) { top = fmaxf(top, source_.effective(v.top())); });
    top = block_max(top);
    const float ref = reference(top);
    each_vector(begin, size, mine, Source::kTurn, size, cut_, [&](const auto& v, int) {
      v.each([&](int, float z) { mass += exp2_approx((source_.effective(z) - ref) * scale); });
    });
    mass = block_sum(mass);
    if (lane() == chunk) mine_ = {top, mass, 0, mass};
    max_ = warp_max(mine_.max);
  }

  // The calling thread's part of the winning chunk, its exponentials about `about`.
  __device__ Gathered gather(int begin, float about) const {
    const float scale = static_cast<float>(law_.beta * kLog2e);
    const int size = size_of_chunk(begin);
    Gathered g = {0, 0, -kInfinity, -kInfinity, 0, size_};
    float mass = 0, tilt = 0;
    const int mine = static_cast<int>(threadIdx.x) * Source::kLogits;
    each_vector(begin, size, mine, Source::kTurn, size, cut_stats_, [&](auto& v, int at) {
      if (source_.effective(v.top()) >= max_) {
#pragma unroll 1
        for (int k = 0; k < Source::kLogits; ++k) {
          if (!(source_.effective(v.at(k)) >= max_)) continue;
          g.first = min_of(g.first, at + k);
          ++g.ties;
          v.exclude(k);
        }
      }
      g.near = fmaxf(g.near, source_.effective(v.top()));
      if (law_.tilt) {
        v.each([&](int, float z) {
          const float y = (source_.effective(z) - about) * scale, e = exp2_approx(y);
          mass += e;
          tilt = fmaf(e, fmaxf(y, -126.0f), tilt);
        });
      } else {
        v.each([&](int, float z) { mass += exp2_approx((source_.effective(z) - about) * scale); });
      }
    });
    g.second = g.near;
    ChunkStats sums;
    sums.max = about, sums.mass = mass, sums.tilt = tilt * kLn2;
    if (about < max_) sums = relative_to(sums, max_, law_.beta, law_.beta);
    g.mass = sums.mass, g.tilt = sums.tilt;
    return g;
  }

  const Source& source_;
  const RowLaw& law_;
  const int vocab_, size_;
  Partial mine_;
  float max_;
  bool bad_;
  int64_t skipped_ = -1;
  const bool cut_, cut_stats_;
};

}  // namespace dlm::cuda
