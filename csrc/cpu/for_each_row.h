// Rows over threads; chunks over threads when rows are few. Either way every chunk is swept by the same code and a
// row's chunks are joined in index order by whoever finishes last, so the result does not depend on the split.
#pragma once

#include "../api.h"
#include "default_floats.h"
#include "scratch.h"
#include "sweep.h"

namespace dlm::cpu {

struct RowJob {
  RowSource source;
  RowLaw law;
  Filter filter;
  float* room = nullptr;  // of the thread
};

// work() on so many workers, each of which takes what is left to do.
template <class Work>
void run_workers(const dlm_executor* executor, int64_t workers, const Work& work) {
  if (workers <= 1) {
    work();
    return;
  }
  executor->run(
      executor->self, static_cast<int32_t>(workers),
      [](void* context, int32_t) {
        const DefaultFloats floats;
        (*static_cast<const Work*>(context))();
      },
      const_cast<void*>(static_cast<const void*>(&work)));
}

inline int32_t thread_count(const dlm_executor* executor) {
  return executor == nullptr ? 1 : max_of(executor->threads, 1);
}

// make(i) -> RowJob and finish(i, job, chunks), which may change both, for i in [0, count), finish on any worker.
template <class Make, class Finish>
void for_each_row(const KernelTable& kernels, const dlm_executor* executor, const Scratch& scratch, int64_t count,
                  int64_t vocab, Make make, Finish finish) {
  const int32_t threads = thread_count(executor);
  const int64_t size = chunk_size(vocab), chunks = num_chunks(vocab), wanted = kRowsPerWorker * threads;
  const int64_t split =
      threads == 1 || count >= wanted || count == 0 ? 1 : min_of(chunks, (wanted + count - 1) / count);
  for (int64_t i = 0; split > 1 && i < count; ++i) scratch.arrived[i].store(0, std::memory_order_relaxed);

  std::atomic<int64_t> next{0}, next_worker{0};
  const auto work = [&] {
    ChunkStats local[kMaxChunks];
    float* const room = scratch.room + next_worker.fetch_add(1, std::memory_order_relaxed) * scratch.room_size;
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < count * split;) {
      const int64_t i = task / split, part = task % split;
      RowJob job = make(i);
      job.room = room;
      ChunkStats* stats = split == 1 ? local : scratch.slot + i * kMaxChunks;
      for (int64_t c = part * chunks / split; c < (part + 1) * chunks / split; ++c) {
        stats[c] = sweep_chunk(kernels, job.source, c * size, min_of(vocab, (c + 1) * size), job.law);
      }
      if (split == 1 || scratch.arrived[i].fetch_add(1, std::memory_order_acq_rel) == split - 1) finish(i, job, stats);
    }
  };
  run_workers(executor, min_of<int64_t>(threads, count * split), work);
}

}  // namespace dlm::cpu
