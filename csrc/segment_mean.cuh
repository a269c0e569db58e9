// Segmented mean of packed log-probabilities: one warp a response. Raw pointers and sizes; no torch.
//
// A warp reads 32 consecutive elements at a time, so its loads are coalesced wherever the response begins, and adds
// them by lens.h's tree, which goes by position within the response: its result does not depend on the grid.
#pragma once

#include "warp.cuh"

namespace lens {

constexpr int kUnroll = 8;  // independent loads in flight per thread

template <class T, class Offset>
__global__ void segment_mean_kernel(const T* __restrict__ values, const Offset* __restrict__ offsets,
                                    const bool* __restrict__ mask, int64_t total, int64_t responses,
                                    double* __restrict__ mean, int64_t* __restrict__ lengths,
                                    unsigned long long* __restrict__ status) {
  const int lane = threadIdx.x % kLanes;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kLanes);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kLanes) + threadIdx.x / kLanes;
  for (int64_t r = first; r < responses; r += warps) {
    const int64_t fault = check_offsets(offsets, r, responses, total, Error::kTokenOffsets);
    if (fault != kStatusOk) {  // the same in the whole warp
      if (lane == 0) {
        mean[r] = kNan;
        lengths[r] = 0;
        atomicMin(status, static_cast<unsigned long long>(fault));
      }
      continue;
    }
    const int64_t begin = static_cast<int64_t>(offsets[r]), end = static_cast<int64_t>(offsets[r + 1]);
    double sum = 0.0;
    int64_t count = 0, worst = kStatusOk;
    for (int64_t chunk = begin; chunk < end; chunk += kChunk) {
      const int64_t stop = chunk + kChunk < end ? chunk + kChunk : end;
      double partial = 0.0;
      for (int64_t base = chunk + lane; base < stop; base += kUnroll * kLanes) {
        double x[kUnroll];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          const int64_t i = base + u * kLanes;
          const bool selected = i < stop && (mask == nullptr || mask[i]);
          x[u] = selected ? to_double(values[i]) : 0.0;
          count += selected;
        }
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          if (!is_logprob(x[u])) {
            const int64_t found = logprob_status(r, x[u]);
            worst = found < worst ? found : worst;
          }
          partial += clean_logprob(x[u]);
        }
      }
      sum += warp_sum(partial);
    }
    if (worst != kStatusOk) atomicMin(status, static_cast<unsigned long long>(worst));
    count = warp_sum(count);
    if (lane == 0) {
      mean[r] = count > 0 ? sum / static_cast<double>(count) : kNan;
      lengths[r] = count;
    }
  }
}

}  // namespace lens
