// csrc's kernels, compiled as they are. This file alone is compiled with -fsanitize=thread (or AddressSanitizer), and
// again for every mutant.
#include "kernels.h"

#include <type_traits>

#include "group_advantages.cuh"
#include "segment_mean.cuh"

namespace simt {

unsigned segment_threads() { return lens::kSegmentThreads; }
Plan segment_plan(int64_t total, int64_t responses, int64_t blocks) {
  const auto plan = lens::segment_plan(total, responses, blocks);
  return {plan.blocks, plan.unit, plan.warp_tokens};
}

void segment_mean(const Launch& launch, const std::vector<Buffer>& buffers, const SegmentMeanCall& call) {
  const auto with = [&](auto zero, auto masked) {
    using T = decltype(zero);
    struct Arguments {
      lens::Tokens<T> tokens;
      lens::Layout layout;
      int unit, warp_tokens;
      lens::SegmentOutputs out;
    };
    const Arguments arguments{{static_cast<const T*>(call.values), call.mask},
                              call.layout,
                              call.unit,
                              call.warp_tokens,
                              {call.mean, call.lengths, call.status}};
    run(launch, buffers, kernel(arguments, [](const void* of) {
          const auto& a = *static_cast<const Arguments*>(of);
          lens::segment_mean_kernel<T, decltype(masked)::value>(a.tokens, a.layout, a.unit, a.warp_tokens, a.out);
        }));
  };
  const auto dispatch = [&](auto masked) {
    switch (call.dtype) {
      case Dtype::kFloat32: return with(float{}, masked);
      case Dtype::kFloat64: return with(double{}, masked);
      case Dtype::kBfloat16: return with(__nv_bfloat16{}, masked);
      case Dtype::kFloat16: return with(__half{}, masked);
    }
  };
  call.mask ? dispatch(std::true_type{}) : dispatch(std::false_type{});
}

void group_advantages(const Launch& launch, const std::vector<Buffer>& buffers, const GroupAdvantagesCall& call) {
  struct Arguments {
    lens::GroupInputs in;
    lens::GroupOutputs out;
    lens::Offsets offsets;
    int64_t responses, groups;
    lens::Config config;
    unsigned long long* status;
  };
  const Arguments arguments{
      {call.mean_logprob, call.lengths, call.correctness, call.rewards, call.rho},
      {call.advantage, call.calibrated_reward, call.confidence, call.importance_difficulty_out, call.difficulty,
       call.group_kind},
      call.offsets,
      call.responses,
      call.groups,
      {call.alpha, call.lens_mixed, call.lens_uniform, call.sequence_confidence, call.importance_difficulty,
       static_cast<lens::Preference>(call.preference), call.gamma},
      call.status};
  const auto with = [&](auto preferred) {
    run(launch, buffers, kernel(arguments, [](const void* of) {
          const auto& a = *static_cast<const Arguments*>(of);
          lens::group_advantages_kernel<decltype(preferred)::value>(a.in, a.out, a.offsets, a.responses, a.groups,
                                                                    a.config, a.status);
        }));
  };
  lens::has_preference(arguments.in, arguments.config) ? with(std::true_type{}) : with(std::false_type{});
}

}  // namespace simt
