#include "shared.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "asan.h"
#include "hooks.h"
#include "launch.h"

namespace simt {
namespace {

constexpr size_t kStaticLimit = 48 * 1024;
constexpr size_t kCapacity = 1 << 20;  // address space: kSharedLimit and a few thousand redzones
constexpr unsigned char kCanary = 0xA5;
const char dynamic_key = 0;

}  // namespace

SharedArena::~SharedArena() {
  if (base_ == nullptr) return;
  asan::unpoison(base_, kCapacity);
  munmap(base_, kCapacity);
}

void SharedArena::begin_block() {
  if (base_ == nullptr) {
    void* const base =
        mmap(nullptr, kCapacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<char*>(base);
    used_ = kCapacity;
  }
  asan::poison(base_, used_);
  if (!asan::kEnabled) std::memset(base_, kCanary, kRedzone);
  used_ = kRedzone;
  objects_.clear();
}

const char* SharedArena::end() const { return base_ + kCapacity; }

const SharedArena::Object* SharedArena::find(const void* key) const {
  const auto at = std::find_if(objects_.begin(), objects_.end(), [&](const Object& o) { return o.key == key; });
  return at == objects_.end() ? nullptr : &*at;
}

const SharedArena::Object* SharedArena::add(const void* key, const char* name, size_t size, size_t alignment) {
  // What is not declared for vector loads stands at an odd multiple of 8, so that such loads do not work by luck.
  const size_t offset = alignment >= 16 ? (used_ + alignment - 1) / alignment * alignment : (used_ + 7) / 16 * 16 + 8;
  const size_t end = offset + size + kRedzone;
  if (end > kCapacity) return nullptr;
  char* const begin = base_ + offset;
  if (asan::kEnabled) {
    asan::unpoison(begin, size);
  } else {
    std::memset(base_ + used_, kCanary, end - used_);
  }
  std::memset(begin, 0xFF, size);
  used_ = end;
  objects_.push_back({key, name, begin, size});
  return &objects_.back();
}

std::string SharedArena::damage() const {
  if (asan::kEnabled) return "";  // which has reported it, with the line
  const auto damaged = [](const char* begin, const char* end) {
    return std::count_if(begin, end, [](char c) { return static_cast<unsigned char>(c) != kCanary; });
  };
  for (size_t i = 0; i < objects_.size(); ++i) {
    const char* const end = objects_[i].begin + objects_[i].size;
    const char* const next = i + 1 < objects_.size() ? objects_[i + 1].begin : base_ + used_;
    if (damaged(end, next) != 0) return std::string("behind `") + objects_[i].name + "`";
  }
  if (!objects_.empty() && damaged(base_, objects_[0].begin) != 0) {
    return std::string("before `") + objects_[0].name + "`";
  }
  return "";
}

void* shared_object(const void* key, const char* name, size_t size, size_t alignment) {
  Block& block = *Launch::running->fiber().block;
  if (const auto* const object = block.arena->find(key)) return object->begin;
  const size_t dynamic_size = Launch::running->dynamic_shared;
  if (key != &dynamic_key) block.static_shared += size;
  if (block.static_shared > kStaticLimit || block.static_shared + dynamic_size > kSharedLimit) {
    fail("shared memory: `" + std::string(name) + "` makes it " + std::to_string(block.static_shared) +
         " bytes, with " + std::to_string(dynamic_size) + " dynamic ones beside; a block has " +
         std::to_string(kStaticLimit) + ", and " + std::to_string(kSharedLimit) + " in all");
  }
  const auto* const object = block.arena->add(key, name, size, alignment);
  if (object == nullptr) fail("shared memory: too many objects");
  if (hooks != nullptr) hooks->shared_range(block.info, object->begin, object->begin + size, name);
  return object->begin;
}

void* dynamic_shared(const char* name) {
  return shared_object(&dynamic_key, name, Launch::running->dynamic_shared, 16);
}

}  // namespace simt
