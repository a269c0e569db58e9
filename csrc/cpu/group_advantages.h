// The group stage on the CPU: one thread a group, a vector of responses at a time. Raw pointers and sizes; no torch.
#pragma once

#include "simd.h"

namespace lens {
constexpr int64_t kGroupsPerTask = 256;

// `parallel_for` as in segment_mean_cpu. Returns the first fault, or kStatusOk.
template <class ParallelFor>
uint64_t group_advantages_cpu(const GroupInputs& in, const GroupOutputs& out, const Offsets& offsets, int64_t responses,
                              int64_t groups, const Config& config, const ParallelFor& parallel_for) {
  std::atomic<uint64_t> status{kStatusOk};
  const Groups all{in, out, offsets, responses, groups, config, status};
  const auto run = LENS_BEST(advantages_of_groups);
  parallel_for(0, groups, kGroupsPerTask, [&](int64_t from, int64_t to) { run(all, from, to); });
  return status;
}

}  // namespace lens
