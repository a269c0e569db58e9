// The operators' signatures and the checks that the CPU and the CUDA registration share.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>

#include "lens.h"

namespace lens {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// status: int64 [1], kStatusOk or make_status's word. Nothing here synchronises with the host.
constexpr const char* kSegmentMeanSchema =
    "segment_mean(Tensor values, Tensor cu_seqlens, Tensor? mask) -> (Tensor mean, Tensor lengths, Tensor status)";
constexpr const char* kGroupAdvantagesSchema =
    "group_advantages(Tensor mean_logprob, Tensor lengths, Tensor correctness, Tensor rewards, Tensor cu_groups, "
    "float alpha, bool lens_mixed, bool lens_uniform, bool sequence_confidence, bool importance_difficulty, "
    "int preference, float gamma, Tensor? rho) -> "
    "(Tensor advantage, Tensor calibrated_reward, Tensor confidence, Tensor importance_difficulty, "
    "Tensor difficulty, Tensor group_kind, Tensor status)";

inline void check_vector(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 1, name, ": expected 1 dimension, got ", tensor.dim());
  STD_TORCH_CHECK(tensor.is_contiguous(), name, ": expected a contiguous tensor");
}

inline void check_vector(const Tensor& tensor, const char* name, ScalarType type, int64_t size) {
  check_vector(tensor, name);
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, ": unexpected dtype");
  STD_TORCH_CHECK(tensor.size(0) == size, name, ": expected ", size, " elements, got ", tensor.size(0));
}

inline int64_t check_offsets_tensor(const Tensor& offsets, const char* name) {
  check_vector(offsets, name);
  STD_TORCH_CHECK(offsets.scalar_type() == ScalarType::Int || offsets.scalar_type() == ScalarType::Long, name,
                  ": expected int32 or int64");
  const int64_t count = offsets.size(0) - 1;
  STD_TORCH_CHECK(count >= 0, name, ": expected at least one element");
  STD_TORCH_CHECK(count < kMaxIndex, name, ": more than ", kMaxIndex, " segments");
  return count;
}

inline void check_segment_mean(const Tensor& values, const Tensor& cu_seqlens, const std::optional<Tensor>& mask) {
  check_vector(values, "values");
  check_offsets_tensor(cu_seqlens, "cu_seqlens");
  STD_TORCH_CHECK(cu_seqlens.size(0) > 1 || values.size(0) == 0, "cu_seqlens: no response, but there are values");
  STD_TORCH_CHECK(values.device() == cu_seqlens.device(), "cu_seqlens: not on the device of values");
  if (mask) {
    check_vector(*mask, "mask", ScalarType::Bool, values.size(0));
    STD_TORCH_CHECK(values.device() == mask->device(), "mask: not on the device of values");
  }
}

struct GroupTensors {
  Tensor advantage, calibrated_reward, confidence, importance_difficulty, difficulty, group_kind;
};

inline Preference check_preference(int64_t preference, const std::optional<Tensor>& rho) {
  STD_TORCH_CHECK(preference >= 0 && preference <= static_cast<int64_t>(Preference::kPolicy),
                  "preference: expected 0, 1 or 2, got ", preference);
  STD_TORCH_CHECK(!rho || preference == 0, "rho: does not go with preference ", preference);
  return static_cast<Preference>(preference);
}

// Checks the inputs and allocates the outputs; `pointers` and `outputs` then hold their addresses.
inline GroupTensors prepare_group_advantages(const Tensor& mean_logprob, const Tensor& lengths,
                                             const Tensor& correctness, const Tensor& rewards,
                                             const Tensor& cu_groups, const std::optional<Tensor>& rho,
                                             GroupInputs& pointers, GroupOutputs& outputs) {
  check_vector(mean_logprob, "mean_logprob");
  const int64_t n = mean_logprob.size(0), groups = check_offsets_tensor(cu_groups, "cu_groups");
  STD_TORCH_CHECK(n < kMaxIndex, "mean_logprob: more than ", kMaxIndex, " responses");
  STD_TORCH_CHECK(groups > 0 || n == 0, "cu_groups: no group, but there are responses");
  check_vector(mean_logprob, "mean_logprob", ScalarType::Double, n);
  check_vector(lengths, "lengths", ScalarType::Long, n);
  check_vector(correctness, "correctness", ScalarType::Double, n);
  check_vector(rewards, "rewards", ScalarType::Double, n);
  for (const Tensor& other : {lengths, correctness, rewards, cu_groups})
    STD_TORCH_CHECK(other.device() == mean_logprob.device(), "group_advantages: tensors on different devices");
  if (rho) {
    check_vector(*rho, "rho", ScalarType::Double, n);
    STD_TORCH_CHECK(rho->device() == mean_logprob.device(), "rho: not on the device of mean_logprob");
  }
  pointers = {mean_logprob.const_data_ptr<double>(), lengths.const_data_ptr<int64_t>(),
              correctness.const_data_ptr<double>(), rewards.const_data_ptr<double>(),
              rho ? rho->const_data_ptr<double>() : nullptr};
  const auto response = [&] { return torch::stable::new_empty(mean_logprob, {n}); };
  const auto group = [&](ScalarType type) { return torch::stable::new_empty(mean_logprob, {groups}, type); };
  GroupTensors result{response(), response(), response(), group(ScalarType::Double), group(ScalarType::Double),
                      group(ScalarType::Char)};
  outputs = {result.advantage.mutable_data_ptr<double>(), result.calibrated_reward.mutable_data_ptr<double>(),
             result.confidence.mutable_data_ptr<double>(), result.importance_difficulty.mutable_data_ptr<double>(),
             result.difficulty.mutable_data_ptr<double>(), result.group_kind.mutable_data_ptr<int8_t>()};
  return result;
}

}  // namespace lens
