// The structs of DLPack, as far as they are used here: what its capsules hold, and a library's functions for C callers.
// https://dmlc.github.io/dlpack/latest/c_api.html
#pragma once

#include <cstdint>

namespace dlm::dlpack {

enum DeviceType : int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3, kCudaManaged = 13 };
enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBFloat = 4, kBool = 6 };

struct Tensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;  // in elements; null: contiguous
  uint64_t byte_offset;
};

// In a capsule "dltensor".
struct Managed {
  Tensor tensor;
  void* context;
  void (*deleter)(Managed*);
};

// In a capsule "dltensor_versioned".
struct Versioned {
  uint32_t major, minor;
  void* context;
  void (*deleter)(Versioned*);
  uint64_t flags;
  Tensor tensor;
};
constexpr uint64_t kReadOnly = 1;

// In the capsule "dlpack_exchange_api", the attribute __dlpack_c_exchange_api__ of a tensor type: what objects of
// exactly that type are. 0 is success, else a Python error is set. Nothing waits for a stream.
struct Exchange {
  uint32_t major, minor;
  Exchange* older;
  int (*allocate)(Tensor* prototype, Versioned** made, void* context,
                  void (*set_error)(void* context, const char* kind, const char* message));
  int (*share)(void* object, Versioned** shared);
  int (*adopt)(Versioned* managed, void** object);  // takes it over
  int (*view)(void* object, Tensor* viewed);        // valid for as long as the object is; may be null
  int (*current_stream)(int32_t device_type, int32_t device_id, void** stream);
};

}  // namespace dlm::dlpack
