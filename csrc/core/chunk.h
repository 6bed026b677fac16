// The one partition of a vocabulary row. It depends on V alone: not on rows, threads, SM count or dtype. That is what
// makes results batch-, thread- and (on chunk edges) tensor-parallel-invariant.
#pragma once

#include "hd.h"

namespace dlm {

constexpr int64_t kMaxChunks = 32;
constexpr int64_t kMinChunk = 1024;
constexpr int64_t kMaxVocab = int64_t{1} << 30;  // inside a row an int counts

DLM_HD int64_t chunk_size(int64_t vocab) {
  const int64_t even = max_of(kMinChunk, (vocab + kMaxChunks - 1) / kMaxChunks);
  return (even + 15) / 16 * 16;
}

DLM_HD int64_t num_chunks(int64_t vocab) {
  const int64_t size = chunk_size(vocab);
  return (vocab + size - 1) / size;
}

}  // namespace dlm
