// The part of CUDA C++ that the kernels may use, for g++ and the runtime in ../../src: what is not here does not
// compile. Device code sees it in place of <cuda_runtime.h>; README.md has the rules that kernels keep for its sake.
#pragma once

#include "async.h"
#include "atomic.h"
#include "barrier.h"
#include "intrinsics.h"
#include "launch.h"
#include "shared.h"
#include "types.h"
#include "warp.h"
