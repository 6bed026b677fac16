// The single list of dtypes. A logit dtype is added here: its code, its storage type, and how it widens.
#pragma once

#include <cstring>

#include "hd.h"

namespace dlm {

enum DType : int32_t {
  kFloat32 = 0,
  kBFloat16 = 1,
  kFloat16 = 2,
  kFloat64 = 3,
  kInt64 = 4,
  kInt32 = 5,
  kBool = 6,
  kOtherDType = 7,
};

inline const char* dtype_name(int32_t dtype) {
  switch (dtype) {
    case kFloat32: return "float32";
    case kBFloat16: return "bfloat16";
    case kFloat16: return "float16";
    case kFloat64: return "float64";
    case kInt64: return "int64";
    case kInt32: return "int32";
    case kBool: return "bool";
    default: return "an unsupported dtype";
  }
}

DLM_HD int64_t dtype_size(int32_t dtype) {
  switch (dtype) {
    case kFloat64:
    case kInt64: return 8;
    case kFloat32:
    case kInt32: return 4;
    case kBFloat16:
    case kFloat16: return 2;
    default: return 1;
  }
}

// 16-bit floats are carried as their bits: the layers above core need no vendor header to name them.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

DLM_HD float float_from_bits(uint32_t bits) {
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}
DLM_HD uint32_t float_bits(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}

DLM_HD float to_float(float v) { return v; }
DLM_HD float to_float(BFloat16 v) { return float_from_bits(static_cast<uint32_t>(v.bits) << 16); }
DLM_HD float to_float(Float16 v) {
  const uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000u) << 16;
  const uint32_t magnitude = v.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_from_bits(sign | 0x7f800000u | (magnitude << 13));  // inf, NaN
  // Shift the exponent field into place as a denormal-safe product: 2^112 rebiases 15 to 127 and is exact.
  return float_from_bits(sign | float_bits(float_from_bits(magnitude << 13) * 5.192296858534827628530e33f));
}

// Round to nearest even, the rounding of every framework's cast.
DLM_HD float round_to_bfloat16(float v) {
  if (v != v) return v;
  const uint32_t bits = float_bits(v);
  return float_from_bits((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
}

// A confidence as a codebase that computes in `dtype` would hold it.
DLM_HD double round_to(int32_t dtype, double v) {
  if (dtype == kFloat64) return v;
  const float f = static_cast<float>(v);
  return dtype == kBFloat16 ? round_to_bfloat16(f) : f;
}

DLM_HD float load_float(const void* data, int32_t dtype, int64_t index) {
  switch (dtype) {
    case kFloat32: return static_cast<const float*>(data)[index];
    case kBFloat16: return to_float(static_cast<const BFloat16*>(data)[index]);
    case kFloat16: return to_float(static_cast<const Float16*>(data)[index]);
    default: return static_cast<float>(static_cast<const double*>(data)[index]);
  }
}

DLM_HD double load_double(const void* data, int32_t dtype, int64_t index) {
  return dtype == kFloat64 ? static_cast<const double*>(data)[index] : load_float(data, dtype, index);
}

DLM_HD int64_t load_int(const void* data, int32_t dtype, int64_t index) {
  return dtype == kInt64 ? static_cast<const int64_t*>(data)[index] : static_cast<const int32_t*>(data)[index];
}

DLM_HD void store_int(void* data, int32_t dtype, int64_t index, int64_t value) {
  if (dtype == kInt64) {
    static_cast<int64_t*>(data)[index] = value;
  } else {
    static_cast<int32_t*>(data)[index] = static_cast<int32_t>(value);
  }
}

}  // namespace dlm
