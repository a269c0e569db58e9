// The project's kernels, by dtype, for the binding.
#pragma once

#include <cstdint>
#include <vector>

#include "emulator.h"
#include "lens.h"

namespace simt {

enum class Dtype { kFloat32, kFloat64, kBfloat16, kFloat16 };

struct SegmentMeanCall {
  const void* values;
  Dtype dtype;
  const bool* mask;  // may be null
  lens::Layout layout;
  int unit, warp_tokens;
  double* mean;
  int64_t* lengths;
  unsigned long long* status;
};

struct GroupAdvantagesCall {
  const double *mean_logprob, *correctness, *rewards, *rho;  // rho may be null
  const int64_t* lengths;
  lens::Offsets offsets;
  int64_t responses, groups;
  double alpha;
  bool lens_mixed, lens_uniform, sequence_confidence, importance_difficulty;
  int64_t preference;
  double gamma;
  double *advantage, *calibrated_reward, *confidence, *importance_difficulty_out, *difficulty;
  int8_t* group_kind;
  unsigned long long* status;
};

unsigned segment_threads();
struct Plan {
  int blocks, unit, warp_tokens;
};
Plan segment_plan(int64_t total, int64_t responses, int64_t blocks);
void segment_mean(const Launch& launch, const std::vector<Buffer>& buffers, const SegmentMeanCall& call);
void group_advantages(const Launch& launch, const std::vector<Buffer>& buffers, const GroupAdvantagesCall& call);

}  // namespace simt
