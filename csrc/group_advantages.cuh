// The group stage: one warp a group runs lens.h's formulas. Raw pointers and sizes; no torch.
#pragma once

#include "warp.cuh"

namespace lens {

constexpr int kGroupThreads = 256;

// A warp as the crew of lens.h's advantages_of_group: thread `lane` takes every kLanes-th response. Nothing is unrolled:
// groups are small, and the code has to stay within the instruction cache.
struct WarpCrew {
  Team<kLanes> team;

  template <class F>
  __device__ void for_each(int64_t begin, int64_t end, F f) const {
#pragma unroll 1
    for (int64_t i = begin + team.lane; i < end; i += kLanes) f(i);
  }
  template <class F>
  __device__ double sum(int64_t begin, int64_t end, F f) const {
    double partial = 0.0;
    for_each(begin, end, [&](int64_t i) { partial += f(i); });
    return team.template sum<1>(partial);
  }
  template <class F>
  __device__ double max(int64_t begin, int64_t end, F f) const {
    double largest = -kInf;
    for_each(begin, end, [&](int64_t i) { largest = fmax(largest, f(i)); });
    return team.template max<1>(largest);
  }
  template <class T>
  __device__ T load(const T* from, int64_t i) const {
    return from[i];
  }
  __device__ void store(double* to, int64_t i, double x) const { to[i] = x; }
  __device__ double exp(double x) const { return exp_nonpositive<uint64_t>(x); }
  __device__ double log(double x) const { return log_positive<uint64_t>(x); }
  __device__ double to_double(int64_t n) const { return static_cast<double>(n); }
  __device__ bool leader() const { return team.leader(); }
};

// kPreferred is has_preference(in, config).
template <bool kPreferred>
__global__ void group_advantages_kernel(GroupInputs in, GroupOutputs out, Offsets offsets, int64_t responses,
                                        int64_t groups, Config config, unsigned long long* __restrict__ status) {
  const WarpCrew warp{Team<kLanes>::mine()};
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kLanes);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kLanes) + threadIdx.x / kLanes;
#pragma unroll 1
  for (int64_t g = first; g < groups; g += warps) {
    const int64_t begin = offsets.at(g), end = offsets.at(g + 1);
    const uint64_t fault = check_segment(begin, end, g, groups, responses, Error::kGroupOffsets);
    if (fault != kStatusOk) {  // the same in the whole warp
      if (warp.leader()) atomicMin(status, static_cast<unsigned long long>(fault));
      continue;
    }
    warp.for_each(begin, end, [&](int64_t i) {
      const uint64_t found = check_response(in, i);
      if (found != kStatusOk) atomicMin(status, static_cast<unsigned long long>(found));
    });
    advantages_of_group<kPreferred>(warp, in, out, g, begin, end, config);
  }
}

}  // namespace lens
