// Cuts a caller's workspace into arrays. The same cuts from a null base give the size to ask for.
#pragma once

#include <type_traits>

#include "hd.h"

namespace dlm {

class Carver {
 public:
  Carver(void* base, int64_t alignment) : base_(static_cast<char*>(base)), alignment_(alignment) {}

  template <class T>
  void take(T*& array, int64_t n) {
    array = reinterpret_cast<T*>(base_ + bytes_);
    bytes_ += (n * static_cast<int64_t>(sizeof(T)) + alignment_ - 1) / alignment_ * alignment_;
  }
  int64_t bytes() const { return bytes_; }

 private:
  char* const base_;
  const int64_t alignment_;
  int64_t bytes_ = 0;
};

}  // namespace dlm
