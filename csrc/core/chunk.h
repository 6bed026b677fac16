// The one partition of a vocabulary row. It depends on V alone: not on rows, threads, SM count or dtype. That is what
// makes results batch-, thread- and (on chunk edges) tensor-parallel-invariant.
#pragma once

#include "hd.h"

namespace dlm {

constexpr int64_t kMaxChunks = 32;
constexpr int64_t kMinChunk = 1024;
constexpr int64_t kMaxVocab = int64_t{1} << 30;  // inside a row an int counts

template <class Int>
DLM_HD Int chunk_size(Int vocab) {
  constexpr Int kMost = kMaxChunks, kLeast = kMinChunk;
  const Int even = max_of(kLeast, (vocab + kMost - 1) / kMost);
  return (even + 15) / 16 * 16;
}

template <class Int>
DLM_HD Int num_chunks(Int vocab) {
  const Int size = chunk_size(vocab);
  return (vocab + size - 1) / size;
}

}  // namespace dlm
