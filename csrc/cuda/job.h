// What the host hands to the kernels, and the launches: plain C++, so that only the .cu files need nvcc.
#pragma once

#include "../core/commit.h"
#include "../core/draw.h"

namespace dlm::cuda {

// One block size for the kernels that read logits. A chunk is swept by one warp, and leaves one partial.
constexpr int kThreads = 128;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
static_assert(kMaxChunks <= kWarp, "one lane per partial");

constexpr int kDecideThreads = 512;  // of the kernel that only decides

// Blocks that read rows, per multiprocessor: of logits as they are, and of capped or guided ones. What registers allow
// without spilling (tests/test_cuda_build.py), where shared memory allows it: each takes a third of 100 KiB, and only
// Hopper and the Blackwell of data centres have room for five.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1200)
constexpr int kPlainBlocks = 4;
#else
constexpr int kPlainBlocks = 5;
#endif
constexpr int kOtherBlocks = 4;
constexpr int kSharedPerBlock = (100 << 10) / 3;

// What the sweep of a chunk leaves, in log2 units about the chunk's maximum.
struct alignas(16) Partial {
  float max, mass, tilt, draw_mass;
};

// The maxima of its quarters: what eight neighbouring lanes have seen of it. They bound the search for a cutoff.
constexpr int kQuarters = 4;
struct alignas(16) Maxima {
  float of[kQuarters];
};

// Closed: not a candidate. Passed: a candidate that the caller keeps out. Changed: of a transition, to another token.
enum RowState : uint8_t { kClosed = 0, kEligible = 1, kBad = 2, kPassed = 3, kChanged = 4 };

// What a finished row leaves for the decision of its sequence.
struct RowRecords {
  uint8_t* state = nullptr;  // RowState
  double* value = nullptr;
  float *key = nullptr, *entropy = nullptr, *gain = nullptr;
};

// The first two know no sequences.
enum class RowsOp : int32_t { kRowStats, kDraw, kStep, kRenoise, kTransition };

// Of a transition: the caller's array, or what a host's row of it holds.
struct Coefficients {
  union {
    Array array;
    double row[kTransitionSize];
  };
  bool is_row = false;

  Coefficients() : array() {}
};

// Blocks per row: for the first rows, and for those behind them, which would not fill the device once more. Or one per
// row, and two for the first `cut`: parts of different sizes, so that not all blocks end at once.
struct Split {
  int32_t rows = 0;             // the first ones
  int32_t first = 1, rest = 1;  // blocks for each of them; for each of the others
  int32_t cut = 0;
  int32_t held = 0;  // blocks that a multiprocessor is held to, where it could run more; 0: it is not
  int32_t turn = 0;  // how many blocks later the one comes that takes a block's place; 0: nobody looks ahead

  DLM_HD int64_t blocks(int64_t num_rows) const {
    return cut > 0 ? num_rows + cut : static_cast<int64_t>(rows) * first + (num_rows - rows) * rest;
  }
};

// Of the row of a later block: for all blocks a third of an L2 of 50 MB.
constexpr int kAheadBytes = 24 << 10;
constexpr int kCutPieces = 8;  // a chunk for each warp in most vocabularies' smallest part

// Of a number that counts the rows of a sequence of a transition three ways at once.
constexpr int kMoveCountBits = 21;

struct alignas(16) RowsJob {
  RowsOp op = RowsOp::kRowStats;
  bool fused = false;  // sequences are finished in the same launch
  bool tilt = false;   // entropy wanted
  Split split;
  RenoiseArgs args;           // of which each op fills in what it has; row_stats' `given` is the draw's `current`
  Coefficients coefficients;  // kTransition; so are the next two
  Array other;                // logits of the other posterior
  double level = 0;           // of the redraw
  Resolved resolved;
  RowStatsOutputs stats_out;
  DrawOutputs draw_out;
  TransitionOutputs transition_out;
  // workspace
  uint32_t *row_arrivals = nullptr, *sequence_counts = nullptr;  // all 0 between launches
  Partial* parts = nullptr;                                      // [rows, num_chunks]; and so are these:
  Maxima* maxima = nullptr;
  RowRecords records;
};

// Where the rows of a sequence are sorted. Null: the launch's dynamic shared memory.
struct SortSpace {
  Ranked* global = nullptr;  // packed: [2 * rows]; dense: [B, capacity]
  int64_t capacity = 0;      // a power of two, at least the rows of any sequence

  size_t shared_bytes() const { return global == nullptr ? static_cast<size_t>(capacity) * sizeof(Ranked) : 0; }
};

// What kernels take as arguments on every driver.
static_assert(sizeof(RowsJob) + sizeof(SortSpace) <= 4096, "a kernel's arguments");

// Each throws std::runtime_error with the kernel's name if the launch fails.
void launch_rows(const RowsJob& job, const SortSpace& space, void* stream);
void launch_sequences(const RowsJob& job, const SortSpace& space, void* stream);
void launch_unmask(const UnmaskArgs& args, const Resolved& resolved, const SortSpace& space, void* stream);
void launch_divergence(const DivergenceArgs& args, const Resolved& resolved, void* stream);
void launch_noising(const NoisingArgs& args, const Resolved& resolved, void* stream);

int current_device();
// Of the current device: how many there are, how many blocks that read rows each runs at once, and the dynamic shared
// memory of a block with which it runs no more than these.
int64_t multiprocessors();
int64_t blocks_at_once(bool plain);
size_t shared_to_hold(int64_t blocks);
uint64_t capture_id(void* stream);  // of the CUDA graph that the stream is being captured into; 0: none
int32_t driver_version();           // 1000 major + 10 minor of the CUDA that the driver is for; 0: no driver
bool driver_suffices(int32_t version);

}  // namespace dlm::cuda
