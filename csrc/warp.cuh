// What the kernels share: conversions and reductions over a team of threads. No torch.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "lens.h"

namespace lens {

constexpr unsigned kFullWarp = 0xffffffffu;

// To the type that a log-probability is checked in; consumer GPUs are slow in double.
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(float x) { return x; }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float widen(__half x) { return __half2float(x); }

// Threads [kWidth * k, kWidth * (k + 1)) of a warp, which work on one thing.
template <int kWidth>
struct Team {
  static_assert(kWidth <= kLanes && kLanes % kWidth == 0);
  int lane;
  unsigned mask;

  __device__ static Team mine() {
    const int thread = static_cast<int>(threadIdx.x) % kLanes;
    const unsigned members = kWidth == kLanes ? kFullWarp : (1u << kWidth % kLanes) - 1u;
    return {thread % kWidth, members << (thread - thread % kWidth)};
  }
  __device__ bool leader() const { return lane == 0; }

  // Halving tree, lane + width into lane; every lane gets lane 0's result, so that all branch alike on it. kUnroll 1
  // keeps the code small.
  template <int kUnroll = kLanes, class V>
  __device__ V sum(V x) const {
#pragma unroll kUnroll
    for (int width = kWidth / 2; width > 0; width /= 2) x += __shfl_down_sync(mask, x, width, kWidth);
    return __shfl_sync(mask, x, 0, kWidth);
  }
  template <int kUnroll = kLanes>
  __device__ double max(double x) const {
#pragma unroll kUnroll
    for (int width = kWidth / 2; width > 0; width /= 2) x = fmax(x, __shfl_xor_sync(mask, x, width, kWidth));
    return x;
  }
};

}  // namespace lens
