// Where in the kernel a barrier, a collective or an atomic stands: a defaulted argument, so that reports name the line.
#pragma once

namespace simt {

struct Site {
  const char* file;
  int line;

  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

}  // namespace simt
