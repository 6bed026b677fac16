// Integer intrinsics on arrays: f(a, b, c) by its number in tests/test_simt.py.
#include "run.h"

namespace {

unsigned long long value_of(int f, unsigned long long wide, unsigned b, unsigned c) {
  const unsigned a = static_cast<unsigned>(wide);
  const int signed_a = static_cast<int>(a), signed_b = static_cast<int>(b);
  switch (f) {
    case 0: return static_cast<unsigned>(__popc(a));
    case 1: return static_cast<unsigned>(__popcll(wide));
    case 2: return static_cast<unsigned>(__clz(signed_a));
    case 3: return static_cast<unsigned>(__clzll(static_cast<long long>(wide)));
    case 4: return static_cast<unsigned>(__ffs(signed_a));
    case 5: return static_cast<unsigned>(__ffsll(static_cast<long long>(wide)));
    case 6: return __brev(a);
    case 7: return __funnelshift_l(a, b, c);
    case 8: return __funnelshift_r(a, b, c);
    case 9: return __byte_perm(a, b, c);
    case 10: return __float_as_uint(__uint_as_float(a));
    case 11: return static_cast<unsigned>(__float_as_int(__int_as_float(signed_a)));
    case 12:
      return static_cast<unsigned long long>(__double_as_longlong(__longlong_as_double(static_cast<long long>(wide))));
    case 13: return umin(a, b);
    case 14: return umax(a, b);
    case 15: return static_cast<unsigned>(min(signed_a, signed_b));
    case 16: return static_cast<unsigned>(max(signed_a, signed_b));
    case 17: return min(signed_a, b);  // unsigned, as in CUDA
    case 18: return __float_as_uint(min(__uint_as_float(a), __uint_as_float(b)));
    case 19: return __float_as_uint(max(__uint_as_float(a), __uint_as_float(b)));
    case 20: return __float_as_uint(__fmaf_rn(__uint_as_float(a), __uint_as_float(b), __uint_as_float(c)));
    case 21: return __float_as_uint(__fadd_rn(__fmul_rn(__uint_as_float(a), __uint_as_float(b)), __uint_as_float(c)));
    default: return ~0ull;
  }
}

}  // namespace

EXPORT intrinsic(int f, unsigned long long a, unsigned b, unsigned c, unsigned long long* out) {
  return run("intrinsic", 1, 1, 0, [=] { *out = value_of(f, a, b, c); });
}
