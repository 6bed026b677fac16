// The running maximum for Vecs whose float maximum is cheap. Included by them, below Vec.
#pragma once

namespace {

// The largest of a run of logits. max() keeps its second operand when either is NaN, so a NaN may pass by unseen; the
// sums, whose clamp keeps it, do not miss it.
template <class T>
struct Top {
  Vec top[2] = {Vec::set(-dlm::kInfinity), Vec::set(-dlm::kInfinity)};

  void push(const Vec* block, const T*) {
    for (int i = 0; i < 4; ++i) top[i % 2] = Vec::max(block[i], top[i % 2]);
  }

  float finish(const T*, int64_t) const {
    float lanes[2 * Vec::kWidth], max = -dlm::kInfinity;
    for (int i = 0; i < 2; ++i) top[i].store(lanes + i * Vec::kWidth);
    for (float lane : lanes) max = max < lane ? lane : max;
    return max;
  }
};

}  // namespace
