// The caller's workspace, cut into arrays. One function defines the cuts; its end is the size to ask for.
#pragma once

#include <atomic>

#include "../core/carve.h"
#include "../core/chunk.h"
#include "../core/decide.h"
#include "../core/row_stats.h"

namespace dlm::cpu {

// Rows are split between workers only while there are fewer than this many per worker.
constexpr int64_t kRowsPerWorker = 4;

// Floats that a thread needs to find the cutoff of rows of so many logits: two arrays of them.
constexpr int64_t cutoff_room(int64_t vocab) { return 2 * (vocab + 16); }

struct Scratch {
  int64_t* offset;                // [B + 1] where each sequence's candidates begin
  int64_t* candidate;             // [R] candidate rows, grouped by sequence
  Ranked* ranked;                 // [R]
  double* value;                  // [R]
  float* entropy;                 // [R]
  float* key;                     // [R]
  float* gain;                    // [R]
  bool* good;                     // [R]
  int64_t* excluded;              // [S] suppressed ids, sorted
  ChunkStats* slot;               // [min(R, kRowsPerWorker * threads), kMaxChunks] of rows split between workers
  std::atomic<int32_t>* arrived;  // one per slot row
  float* room;                    // [threads, room_size] where filters cut
  int64_t room_size;              // 0: there are none
  int64_t bytes;
};

// filtered_vocab: that of the logits if there are filters, else 0.
inline Scratch cut_scratch(void* base, int64_t rows, int64_t batch, int64_t num_suppress, int64_t filtered_vocab,
                           int32_t threads) {
  const int64_t split = min_of(rows, kRowsPerWorker * threads);
  Carver carver(base, 64);
  Scratch s;
  carver.take(s.offset, batch + 1);
  carver.take(s.candidate, rows);
  carver.take(s.ranked, rows);
  carver.take(s.value, rows);
  carver.take(s.entropy, rows);
  carver.take(s.key, rows);
  carver.take(s.gain, rows);
  carver.take(s.good, rows);
  carver.take(s.excluded, num_suppress);
  carver.take(s.slot, split * kMaxChunks);
  carver.take(s.arrived, split);
  s.room_size = filtered_vocab > 0 ? cutoff_room(filtered_vocab) : 0;
  carver.take(s.room, threads * s.room_size);
  s.bytes = carver.bytes();
  return s;
}

}  // namespace dlm::cpu
