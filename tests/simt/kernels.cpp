// csrc's kernels, compiled as they are. This file alone is compiled with -fsanitize=thread (or AddressSanitizer), and
// again for every mutant.
#include "kernels.h"

#include "group_advantages.cuh"
#include "segment_mean.cuh"

namespace simt {

unsigned segment_threads() { return lens::kSegmentThreads; }
int64_t segment_tile(int64_t total, int64_t responses) { return lens::segment_tile(total, responses); }

void segment_mean(const Launch& launch, const std::vector<Buffer>& buffers, const SegmentMeanCall& call) {
  const auto with = [&](auto zero, auto offset) {
    using T = decltype(zero);
    using Offset = decltype(offset);
    struct Arguments {
      lens::Tokens<T> tokens;
      const Offset* offsets;
      int64_t total, responses, tile;
      lens::SegmentOutputs out;
    };
    const Arguments arguments{{static_cast<const T*>(call.values), call.mask},
                              static_cast<const Offset*>(call.offsets),
                              call.total,
                              call.responses,
                              call.tile,
                              {call.mean, call.lengths, call.status}};
    run(launch, buffers, kernel(arguments, [](const void* of) {
          const auto& a = *static_cast<const Arguments*>(of);
          lens::segment_mean_kernel<T, Offset>(a.tokens, a.offsets, a.total, a.responses, a.tile, a.out);
        }));
  };
  const auto dispatch = [&](auto offset) {
    switch (call.dtype) {
      case Dtype::kFloat32: return with(float{}, offset);
      case Dtype::kFloat64: return with(double{}, offset);
      case Dtype::kBfloat16: return with(__nv_bfloat16{}, offset);
      case Dtype::kFloat16: return with(__half{}, offset);
    }
  };
  call.wide_offsets ? dispatch(int64_t{}) : dispatch(int32_t{});
}

void group_advantages(const Launch& launch, const std::vector<Buffer>& buffers, const GroupAdvantagesCall& call) {
  const auto with = [&](auto offset) {
    using Offset = decltype(offset);
    struct Arguments {
      lens::GroupInputs in;
      lens::GroupOutputs out;
      const Offset* offsets;
      int64_t responses, groups;
      lens::Config config;
      unsigned long long* status;
    };
    const Arguments arguments{
        {call.mean_logprob, call.lengths, call.correctness, call.rewards, call.rho},
        {call.advantage, call.calibrated_reward, call.confidence, call.importance_difficulty_out, call.difficulty,
         call.group_kind},
        static_cast<const Offset*>(call.offsets),
        call.responses,
        call.groups,
        {call.alpha, call.lens_mixed, call.lens_uniform, call.sequence_confidence, call.importance_difficulty,
         static_cast<lens::Preference>(call.preference), call.gamma},
        call.status};
    run(launch, buffers, kernel(arguments, [](const void* of) {
          const auto& a = *static_cast<const Arguments*>(of);
          lens::group_advantages_kernel<Offset>(a.in, a.out, a.offsets, a.responses, a.groups, a.config, a.status);
        }));
  };
  call.wide_offsets ? with(int64_t{}) : with(int32_t{});
}

}  // namespace simt
