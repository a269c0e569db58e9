// What the kernels share: reductions over a warp and conversions. No torch.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "lens.h"

namespace lens {

constexpr unsigned kFullWarp = 0xffffffffu;

__device__ inline double to_double(double x) { return x; }
__device__ inline double to_double(float x) { return x; }
__device__ inline double to_double(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline double to_double(__half x) { return __half2float(x); }

// Halving tree, lane + width into lane; every lane gets lane 0's result, so that all branch alike on it.
template <class T>
__device__ inline T warp_sum(T x) {
  for (int width = kLanes / 2; width > 0; width /= 2) x += __shfl_down_sync(kFullWarp, x, width);
  return __shfl_sync(kFullWarp, x, 0);
}

__device__ inline double warp_max(double x) {
  for (int width = kLanes / 2; width > 0; width /= 2) x = fmax(x, __shfl_xor_sync(kFullWarp, x, width));
  return x;
}

}  // namespace lens
