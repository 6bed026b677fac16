// The caller's workspace, cut into arrays. One function defines the cuts; its end is the size to ask for.
#pragma once

#include <atomic>

#include "../core/chunk.h"
#include "../core/decide.h"
#include "../core/row_stats.h"

namespace dlm::cpu {

// Rows are split between workers only while there are fewer than this many per worker.
constexpr int64_t kRowsPerWorker = 4;

struct Scratch {
  int64_t* offset;                // [B + 1] where each sequence's candidates begin
  int64_t* candidate;             // [R] candidate rows, grouped by sequence
  Ranked* ranked;                 // [R]
  double* value;                  // [R]
  float* entropy;                 // [R]
  float* key;                     // [R]
  bool* good;                     // [R]
  int64_t* excluded;              // [S] suppressed ids, sorted
  ChunkStats* slot;               // [min(R, kRowsPerWorker * threads), kMaxChunks] of rows split between workers
  std::atomic<int32_t>* arrived;  // one per slot row
  int64_t bytes;
};

inline Scratch cut_scratch(void* base, int64_t rows, int64_t batch, int64_t num_suppress, int32_t threads) {
  const int64_t split = min_of(rows, kRowsPerWorker * threads);
  char* const begin = static_cast<char*>(base);
  int64_t at = 0;
  const auto take = [&](auto*& array, int64_t n) {
    using T = std::remove_reference_t<decltype(*array)>;
    array = reinterpret_cast<T*>(begin + at);
    at += (n * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  };
  Scratch s;
  take(s.offset, batch + 1);
  take(s.candidate, rows);
  take(s.ranked, rows);
  take(s.value, rows);
  take(s.entropy, rows);
  take(s.key, rows);
  take(s.good, rows);
  take(s.excluded, num_suppress);
  take(s.slot, split * kMaxChunks);
  take(s.arrived, split);
  s.bytes = at;
  return s;
}

}  // namespace dlm::cpu
