// The revision trace: what became of every position, in 32 bytes, and what happened in every step. A position's
// committed token changes by moves of the model alone: noise may take it off the canvas and the model may put it back,
// and nothing was revised. dlm_kernels/trace.py says what the numbers are good for.
#pragma once

#include "geometry.h"

namespace dlm {

constexpr int64_t kTraceWords = 8;
constexpr int64_t kLastCount = 0xfffe;  // counters and steps stop here
constexpr uint16_t kNever = 0xffff;

// A row of TraceParams::positions. A fresh one is -1 -1 -1 -1 0 0 0 -1.
struct PositionTrace {
  int32_t first = -1;                                // the first committed token
  int32_t cur = -1, prev = -1, older = -1;           // the last three distinct ones, newest first
  uint16_t revisions = 0, round_trips = 0;           // round trip: A -> B -> A
  uint16_t returns = 0;                              // revisions to a token that is remembered here
  uint16_t same = 0;                                 // commits of the token that was committed already
  uint16_t model_flips = 0, noise_flips = 0;         // changes of the canvas, by who made them
  uint16_t first_step = kNever, last_step = kNever;  // of the first commit, and of the last revision if there was one
};
static_assert(sizeof(PositionTrace) == kTraceWords * sizeof(int32_t), "a row of int32 [B, L, 8]");

// Columns of TraceParams::steps. kGainSum is in units of 2^-20 nats: integers add up to the same in any order.
enum TraceColumn : int32_t {
  kModelFlips = 0,
  kNoiseFlips = 1,
  kFirstCommits = 2,
  kRevisions = 3,
  kRoundTrips = 4,
  kReturns = 5,
  kSame = 6,
  kGainSum = 7,
  kNumTraceColumns = 8
};

// What a step did at one position.
struct TraceEvent {
  int64_t before = -1, after = -1;  // the token on the canvas
  bool by_noise = false;            // where these differ: noise or a remask did it, not the model
  int64_t committed = -1;           // the token that the step committed, whatever the canvas then shows; -1: none
  double gain = 0;                  // of a revision: log p(committed) - log p(what was committed before)
};

DLM_HD PositionTrace* position_trace(const TraceParams& trace, const Place& at) {
  const Array& positions = trace.positions;
  if (!given(positions) || at.b < 0 || at.p < 0 || at.p >= positions.shape[1]) return nullptr;
  return static_cast<PositionTrace*>(positions.data) + at.b * positions.shape[1] + at.p;
}

// -1: none, or no trace.
DLM_HD int64_t committed_token(const TraceParams& trace, const Place& at) {
  const PositionTrace* const place = position_trace(trace, at);
  return place == nullptr ? -1 : place->cur;
}

// The positions of a sequence share their sums. In kernels CUDA's own atomic: the SIMT runtime keeps books on it.
DLM_HD void add_to(int64_t* sum, int64_t v) {
#if defined(__CUDA_ARCH__) || (defined(DLM_SIMT) && defined(DLM_SHARED))
  atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(v));
#else
  __atomic_fetch_add(sum, v, __ATOMIC_RELAXED);
#endif
}

DLM_HD void count_event(bool happened, uint16_t* counter, int64_t* sum) {
  if (!happened) return;
  if (*counter < kLastCount) ++*counter;
  add_to(sum, 1);
}

DLM_HD int64_t fixed_point(double nats) {
  return nats != nats ? 0 : static_cast<int64_t>(::llround(min_of(max_of(nats, -1e6), 1e6) * 0x1p20));
}

// The last row of the table stands for all later steps too, and the first one for negative ones.
DLM_HD void record(const TraceParams& trace, int64_t step, const Place& at, const TraceEvent& e) {
  PositionTrace* const place = position_trace(trace, at);
  if (place == nullptr) return;
  const Array& steps = trace.steps;
  const int64_t row = max_of<int64_t>(0, min_of(step, steps.shape[0] - 1));
  int64_t* const sums = static_cast<int64_t*>(steps.data) + (row * steps.shape[1] + at.b) * kNumTraceColumns;

  PositionTrace t = *place;
  const int32_t token = static_cast<int32_t>(e.committed);  // vocabularies end below 2^31
  const bool flip = e.before != e.after, commit = token >= 0;
  const bool first = commit && t.cur < 0, revision = commit && !first && token != t.cur;
  const bool round_trip = revision && token == t.prev;
  const bool returned = round_trip || (revision && (token == t.first || token == t.older));
  count_event(flip && !e.by_noise, &t.model_flips, sums + kModelFlips);
  count_event(flip && e.by_noise, &t.noise_flips, sums + kNoiseFlips);
  count_event(revision, &t.revisions, sums + kRevisions);
  count_event(round_trip, &t.round_trips, sums + kRoundTrips);
  count_event(returned, &t.returns, sums + kReturns);
  count_event(commit && token == t.cur, &t.same, sums + kSame);

  const uint16_t now = static_cast<uint16_t>(max_of<int64_t>(0, min_of(step, kLastCount)));
  if (first) {
    add_to(sums + kFirstCommits, 1);
    t.first = t.cur = token;
    t.first_step = t.last_step = now;
  } else if (revision) {
    add_to(sums + kGainSum, fixed_point(e.gain));
    if (!round_trip) t.older = t.prev;  // else it still is the third
    t.prev = t.cur;
    t.cur = token;
    t.last_step = now;
  }
  *place = t;
}

}  // namespace dlm
