// The shared memory of one resident block: objects filled with 0xFF, in the order in which they are first met, with
// redzones between them.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace simt {

class SharedArena {
 public:
  SharedArena() = default;
  SharedArena(const SharedArena&) = delete;
  ~SharedArena();

  void begin_block();
  const char* begin() const { return base_; }
  const char* end() const;

  struct Object {
    const void* key;
    const char* name;
    char* begin;
    size_t size;
  };
  const Object* find(const void* key) const;
  const Object* add(const void* key, const char* name, size_t size, size_t alignment);  // nullptr: no room
  std::string damage() const;  // of the redzones; empty if none

 private:
  char* base_ = nullptr;
  size_t used_ = 0;
  std::vector<Object> objects_;
};

}  // namespace simt
