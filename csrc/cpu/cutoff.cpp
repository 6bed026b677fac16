// One read of the row collects the logits that may be kept. Which are is a quickselect over those values alone: each
// round splits them at one of them, and goes on with the side in which the prefix ends. Only if it ends among equal
// logits do their indices matter, and then the row is read once more to count them off.
#include "cutoff.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

namespace dlm::cpu {
namespace {

float above(float z) { return std::nextafter(z, kInfinity); }
float below(float z) { return std::nextafter(z, -kInfinity); }

// All logits above z, and the first `ties` of those equal to it.
struct Prefix {
  float z = -kInfinity;
  int64_t ties = INT64_MAX;
  int64_t count = 0;
  double mass = 0;
};

// What a prefix must not go beyond.
struct Limits {
  int64_t count = INT64_MAX;
  bool whole_ties = false;  // if it ends among equal logits by count, all of them stay
  double total = 0;         // what top_p is of; 0: no top_p
};

class Finder {
 public:
  Finder(const KernelTable& k, const RowSource& source, int64_t vocab, const RowLaw& law, const Filter& filter,
         const ChunkStats* chunks, float* room)
      : k_(k),
        source_(source),
        vocab_(vocab),
        beta_(law.draw_beta > 0 ? law.draw_beta : 1),
        filter_(filter),
        chunks_(chunks),
        values_(room),
        spare_(room + cutoff_room(vocab) / 2) {
    for (int64_t c = 0; c < num_chunks(vocab); ++c) max_ = max_of(max_, chunks[c].max);
    for (int64_t c = 0; c < num_chunks(vocab); ++c) {
      if (chunks[c].max > -kInfinity) total_ += weight(chunks[c].max) * chunks[c].draw_mass;
    }
  }

  Cutoff find() {
    const bool by_k = filter_.top_k > 0 && filter_.top_k < vocab_, by_p = filter_.top_p < 1;
    Prefix kept;
    Limits limits;
    if (by_k) {
      limits.count = filter_.top_k;
      limits.whole_ties = filter_.keep_ties;
    }
    if (by_p) limits.total = total_;
    if (by_k && by_p && filter_.top_k_first) {
      limits.total = 0;
      kept = select(limits);
      limits.count = kept.count;
      limits.whole_ties = false;
      limits.total = kept.mass;
    }
    if (by_k || by_p) kept = select(limits);
    const Cutoff by_min_p = min_p_cutoff(filter_, max_, beta_);
    Cutoff out;
    out.z = kept.z;
    if (kept.ties < INT64_MAX && by_min_p.z <= kept.z) out.index = nth_tie(kept.z, kept.ties);
    return shorter(out, by_min_p);
  }

 private:
  double weight(float z) const { return exp_d((static_cast<double>(z) - max_) * beta_); }

  // The values of [low, high] in a part of the row, at values_.
  int64_t collect(int64_t begin, int64_t end, float low, float high, float* out) const {
    int64_t n = 0;
    for_each_run(source_, begin, end, [&](const void* data, int32_t dtype, int64_t count, int64_t) {
      n += k_.dtype[dtype].collect(data, count, low, high, out + n);
      return false;
    });
    return n;
  }

  // In runs no longer than a chunk, as everywhere: long float sums are not worth much.
  double mass_of(const float* values, int64_t n) const {
    const LawScales scales = scales_of({beta_, beta_, false}, max_);
    RunStats run;
    for (int64_t i = 0; i < n; i += kMinChunk) {
      k_.dtype[kFloat32].accumulate[kPlain](values + i, min_of(kMinChunk, n - i), scales, &run);
    }
    return run.mass;
  }

  // Logits below this are never kept by top_p: all of them together have less than half of what it cuts off.
  float least_by_top_p(double total) const {
    const double share = (1 - filter_.top_p) * total / (2 * static_cast<double>(vocab_));
    return below(static_cast<float>(max_ + log_d(share) / beta_));
  }

  // A value of the n collected near which the prefix is guessed to end, from a sample of them; their median where
  // guessing has not helped.
  float pivot(const Limits& limits, const Prefix& before, int64_t n, bool median) const {
    constexpr int64_t kSample = 64;
    float sample[kSample];
    const int64_t size = min_of(n, kSample);
    for (int64_t i = 0; i < size; ++i) sample[i] = values_[i * n / size];
    std::sort(sample, sample + size, std::greater<float>());
    if (median) return sample[size / 2];
    const double each = static_cast<double>(n) / static_cast<double>(size);
    double mass = before.mass;
    int64_t i = 0;
    for (; i < size - 1; ++i) {
      mass += limits.total > 0 ? each * weight(sample[i]) : 0;
      if (limits.total > 0 && mass > filter_.top_p * limits.total) break;
      if (static_cast<double>(before.count) + each * static_cast<double>(i + 1) > static_cast<double>(limits.count))
        break;
    }
    return sample[i];
  }

  // How many of the equal logits after `before` are kept, at most `count`.
  int64_t ties_kept(const Limits& limits, const Prefix& before, int64_t count, double each) const {
    const auto stays = [&](int64_t i) {
      const double mass = before.mass + static_cast<double>(i) * each;
      return before.count + (limits.whole_ties ? 0 : i) < limits.count &&
             (!(limits.total > 0) || within_top_p(filter_, mass, mass + each, limits.total));
    };
    int64_t low = 0, high = count;  // the first `low` stay, what comes after `high` goes
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (stays(middle)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  Prefix select(const Limits& limits) {
    const float least = max_of(-kFloatMax, limits.total > 0 ? least_by_top_p(limits.total) : -kFloatMax);
    const int64_t size = chunk_size(vocab_);
    int64_t n = 0;
    for (int64_t c = 0; c < num_chunks(vocab_); ++c) {
      if (chunks_[c].max >= least)
        n += collect(c * size, min_of(vocab_, (c + 1) * size), least, kInfinity, values_ + n);
    }
    const auto& kernels = k_.dtype[kFloat32];
    Prefix kept;  // all of it is kept, and what is not yet decided lies below
    for (bool guess_helped = true; n > 0;) {
      const float z = pivot(limits, kept, n, !guess_helped);
      const int64_t larger = kernels.collect(values_, n, above(z), kInfinity, spare_);
      Prefix at = kept;
      at.count += larger;
      if (filter_.top_p < 1) at.mass += mass_of(spare_, larger);
      const int64_t before = n;
      if (ties_kept(limits, at, 1, weight(z)) == 0) {
        std::swap(values_, spare_);
        n = larger;
      } else {
        n = kernels.collect(values_, n, least, below(z), values_);
        const int64_t ties = before - larger - n, staying = ties_kept(limits, at, ties, weight(z));
        at.z = z;
        at.count += staying;
        at.mass += static_cast<double>(staying) * weight(z);
        kept = at;
        if (staying < ties) {
          kept.ties = staying;
          break;
        }
      }
      guess_helped = n <= before / 2;
    }
    return kept;
  }

  // The index of the nth logit that is z.
  int64_t nth_tie(float z, int64_t nth) const {
    const int64_t size = chunk_size(vocab_);
    int64_t found = -1;
    for (int64_t c = 0; c < num_chunks(vocab_) && found < 0; ++c) {
      if (chunks_[c].max < z) continue;
      const int64_t begin = c * size, end = min_of(vocab_, begin + size);
      const int64_t here = collect(begin, end, z, z, values_);
      if (nth > here) {
        nth -= here;
        continue;
      }
      for_each_run(source_, begin, end, [&](const void* data, int32_t dtype, int64_t n, int64_t at) {
        for (int64_t i = 0; i < n && nth > 0; ++i) {
          if (load_float(data, dtype, i) == z && --nth == 0) found = at + i;
        }
        return nth == 0;
      });
    }
    return found;
  }

  const KernelTable& k_;
  const RowSource& source_;
  const int64_t vocab_;
  const double beta_;  // the filters' own, also at T = 0
  const Filter& filter_;
  const ChunkStats* const chunks_;
  float *values_, *spare_;
  float max_ = -kInfinity;
  double total_ = 0;
};

}  // namespace

void cut_row(const KernelTable& k, RowSource* source, int64_t vocab, const RowLaw& law, const Filter& filter,
             ChunkStats* chunks, float* room) {
  source->cutoff = Finder(k, *source, vocab, law, filter, chunks, room).find();
  const int64_t size = chunk_size(vocab);
  for (int64_t c = 0; c < num_chunks(vocab); ++c) {
    const bool some = chunks[c].max >= source->cutoff.z;
    chunks[c] = some ? sweep_chunk(k, *source, c * size, min_of(vocab, (c + 1) * size), law) : ChunkStats{};
  }
}

bool filter_row(const KernelTable& k, RowSource* source, int64_t vocab, const RowLaw& law, const Filter& filter,
                ChunkStats* chunks, float* room, RowStats* out) {
  if (!finish_row(k, *source, vocab, law, chunks, out)) return false;
  if (!filter.on()) return true;
  cut_row(k, source, vocab, law, filter, chunks, room);
  return finish_row(k, *source, vocab, law, chunks, out);
}

}  // namespace dlm::cpu
