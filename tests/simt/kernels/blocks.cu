// Blocks, shared memory and grids: results that must not depend on the schedule.
#include "run.h"

namespace {

template <class T>
__device__ T* scratch() {  // one object per T, and the same one in every call
  DLM_SHARED(T, cell);
  return &cell;
}

struct alignas(16) Wide {
  unsigned word[4];
};

}  // namespace

// Each thread passes its value to the right through shared memory, `steps` times, and then adds up over the block with
// shuffles. out: [blocks, threads]
EXPORT rotate_and_sum(int blocks, int threads, int steps, const unsigned* in, unsigned* out, unsigned* sums) {
  return run("rotate_and_sum", blocks, threads, 0, [=] {
    DLM_SHARED(unsigned, ring, [2][1024]);
    DLM_SHARED(unsigned, part, [32]);
    const unsigned t = threadIdx.x, n = blockDim.x, lane = t % 32;
    const int64_t at = static_cast<int64_t>(blockIdx.x) * n + t;
    unsigned value = in[at];
    for (int step = 0; step < steps; ++step) {
      ring[step % 2][t] = value;
      __syncthreads();
      value = ring[step % 2][(t + n - 1) % n];
    }
    out[at] = value;
    const unsigned lanes = __ballot_sync(0xffffffff, 1);
    unsigned sum = value;
    for (int delta = 16; delta > 0; delta /= 2) {
      const int source = static_cast<int>(lane) ^ delta;
      const unsigned other = __shfl_sync(0xffffffff, sum, lanes >> source & 1 ? source : static_cast<int>(lane));
      if (lanes >> source & 1) sum += other;
    }
    if (lane == 0) part[t / 32] = __popc(lanes) == 32 ? sum : 0;
    __syncthreads();
    if (t == 0) {
      for (unsigned w = 0; w < n / 32; ++w) sums[blockIdx.x] = (w == 0 ? 0 : sums[blockIdx.x]) + part[w];
    }
  });
}

// The last block to arrive adds what all have published, and resets the counter for the next launch.
EXPORT last_block_sums(int blocks, int threads, unsigned* counter, unsigned* partial, unsigned* out) {
  return run("last_block_sums", blocks, threads, 0, [=] {
    DLM_SHARED(bool, is_last);
    DLM_SHARED(unsigned, sum);
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    atomicAdd(&sum, threadIdx.x + blockIdx.x);
    __syncthreads();
    if (threadIdx.x == 0) {
      partial[blockIdx.x] = sum;
      __threadfence();
      is_last = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;
      __threadfence();
    }
    __syncthreads();
    if (!is_last || threadIdx.x != 0) return;
    unsigned all = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) all += partial[b];
    *out = all;
  });
}

// A barrier of the whole grid, by spinning; all blocks must be resident.
EXPORT grid_barrier(int blocks, unsigned* counter, unsigned* in, unsigned* out) {
  return run("grid_barrier", blocks, 64, 0, [=] {
    const unsigned b = blockIdx.x, n = gridDim.x;
    if (threadIdx.x == 0) {
      in[b] = b + 1;
      __threadfence();
      atomicAdd(counter, 1u);
      while (atomicAdd(counter, 0u) < n) {
      }
      __threadfence();
    }
    __syncthreads();
    if (threadIdx.x == 0) out[b] = in[(b + 1) % n];
  });
}

// Where every thread finds itself. out: [thread of the grid, 12]
EXPORT indices(unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned* out) {
  return run("indices", dim3(gx, gy, gz), dim3(bx, by, bz), 0, [=] {
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    unsigned* const at = out + 12 * (block * blockDim.x * blockDim.y * blockDim.z + thread);
    const uint3 found[] = {threadIdx, blockIdx, blockDim, gridDim};
    for (int i = 0; i < 4; ++i) at[3 * i] = found[i].x, at[3 * i + 1] = found[i].y, at[3 * i + 2] = found[i].z;
  });
}

// A block that peeks finds 0xFF, whatever the one before has left; objects of templates are apart; alignment as
// declared.
EXPORT shared_objects(int blocks, bool peek, unsigned* out) {
  return run("shared_objects", blocks, 32, 100, [=] {
    DLM_SHARED(unsigned char, bytes, [3]);
    DLM_SHARED(Wide, wide);
    DLM_DYNAMIC_SHARED(unsigned char, tail);
    unsigned* const at = out + 6 * blockIdx.x;
    if (threadIdx.x == 0) {
      if (peek) at[0] = bytes[0] + bytes[1] + bytes[2] + wide.word[3] + tail[99];
      for (int i = 0; i < 3; ++i) bytes[i] = 0;
      for (int i = 0; i < 100; ++i) tail[i] = 0;
      wide.word[3] = 5;
      *scratch<unsigned>() = 7;
      *scratch<int>() = 8;
    }
    __syncthreads();
    if (threadIdx.x != 31) return;
    at[1] = *scratch<unsigned>();
    at[2] = static_cast<unsigned>(*scratch<int>());
    at[3] = wide.word[3];
    at[4] = reinterpret_cast<uintptr_t>(&wide) % 16 + reinterpret_cast<uintptr_t>(tail) % 16;
    at[5] = tail[99];
  });
}
