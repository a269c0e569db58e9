// The operators' signatures and the checks that the CPU and the CUDA registration share.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
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

// status: int64 [1], kStatusOk's bits or make_status's word. Nothing here synchronises with the host.
// values: [T] with cu_seqlens, or [N, A] without, whose rows may lie at any distance.
constexpr const char* kSegmentMeanSchema =
    "segment_mean(Tensor values, Tensor? cu_seqlens, Tensor? mask) -> (Tensor mean, Tensor lengths, Tensor status)";
constexpr const char* kGroupAdvantagesSchema =
    "group_advantages(Tensor mean_logprob, Tensor lengths, Tensor correctness, Tensor rewards, Tensor cu_groups, "
    "float alpha, bool lens_mixed, bool lens_uniform, bool sequence_confidence, bool importance_difficulty, "
    "int preference, float gamma, Tensor? rho) -> "
    "(Tensor advantage, Tensor calibrated_reward, Tensor confidence, Tensor importance_difficulty, "
    "Tensor difficulty, Tensor group_kind, Tensor status)";
// Both stages in one call. responses: float64 [4, N], advantage, calibrated reward, confidence and mean; groups: float64
// [2, Q], importance difficulty and difficulty. Few tensors, as each costs the host as much as a launch.
constexpr const char* kLensAdvantagesSchema =
    "lens_advantages(Tensor values, Tensor? cu_seqlens, Tensor? mask, Tensor correctness, Tensor rewards, "
    "Tensor cu_groups, float alpha, bool lens_mixed, bool lens_uniform, bool sequence_confidence, "
    "bool importance_difficulty, int preference, float gamma, Tensor? rho) -> "
    "(Tensor responses, Tensor lengths, Tensor groups, Tensor group_kind, Tensor status)";

inline void check_vector(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 1, name, ": expected 1 dimension, got ", tensor.dim());
  STD_TORCH_CHECK(tensor.is_contiguous(), name, ": expected a contiguous tensor");
}

inline void check_vector(const Tensor& tensor, const char* name, ScalarType type, int64_t size) {
  check_vector(tensor, name);
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, ": unexpected dtype");
  STD_TORCH_CHECK(tensor.size(0) == size, name, ": expected ", size, " elements, got ", tensor.size(0));
}

// The offsets, and how many segments they begin and end.
inline int64_t check_offsets(const Tensor& offsets, const char* name, Offsets& found) {
  check_vector(offsets, name);
  const bool narrow = offsets.scalar_type() == ScalarType::Int;
  STD_TORCH_CHECK(narrow || offsets.scalar_type() == ScalarType::Long, name, ": expected int32 or int64");
  const int64_t count = offsets.size(0) - 1;
  STD_TORCH_CHECK(count >= 0, name, ": expected at least one element");
  STD_TORCH_CHECK(count < kMaxIndex, name, ": more than ", kMaxIndex, " segments");
  if (narrow)
    found.narrow = offsets.const_data_ptr<int32_t>();
  else
    found.wide = offsets.const_data_ptr<int64_t>();
  return count;
}

inline int64_t check_rows(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.size(1) <= 1 || tensor.stride(1) == 1, name, ": expected rows of neighbouring elements");
  return tensor.stride(0);
}

inline Layout check_segment_mean(const Tensor& values, const std::optional<Tensor>& cu_seqlens,
                                 const std::optional<Tensor>& mask) {
  Layout layout{};
  if (mask) {
    STD_TORCH_CHECK(mask->scalar_type() == ScalarType::Bool, "mask: unexpected dtype");
    STD_TORCH_CHECK(values.device() == mask->device(), "mask: not on the device of values");
  }
  if (cu_seqlens) {
    check_vector(values, "values");
    layout.responses = check_offsets(*cu_seqlens, "cu_seqlens", layout.offsets);
    layout.total = values.size(0);
    STD_TORCH_CHECK(layout.responses > 0 || layout.total == 0, "cu_seqlens: no response, but there are values");
    STD_TORCH_CHECK(values.device() == cu_seqlens->device(), "cu_seqlens: not on the device of values");
    if (mask) check_vector(*mask, "mask", ScalarType::Bool, layout.total);
    return layout;
  }
  STD_TORCH_CHECK(values.dim() == 2, "values: expected 2 dimensions without cu_seqlens, got ", values.dim());
  layout.rows = true;
  layout.responses = values.size(0);
  layout.offsets.width = values.size(1);
  layout.total = layout.responses * layout.offsets.width;
  layout.value_stride = check_rows(values, "values");
  STD_TORCH_CHECK(layout.responses < kMaxIndex, "values: more than ", kMaxIndex, " responses");
  if (mask) {
    STD_TORCH_CHECK(mask->dim() == 2 && mask->size(0) == values.size(0) && mask->size(1) == values.size(1),
                    "mask: expected the shape of values");
    layout.mask_stride = check_rows(*mask, "mask");
  }
  return layout;
}

inline Preference check_preference(int64_t preference, const std::optional<Tensor>& rho) {
  STD_TORCH_CHECK(preference >= 0 && preference <= static_cast<int64_t>(Preference::kPolicy),
                  "preference: expected 0, 1 or 2, got ", preference);
  STD_TORCH_CHECK(!rho || preference == 0, "rho: does not go with preference ", preference);
  return static_cast<Preference>(preference);
}

// Of [N] responses in groups, what both operators are given. Fills in all pointers but those of the means and lengths.
inline int64_t check_groups(const Tensor& like, int64_t n, const Tensor& correctness, const Tensor& rewards,
                            const Tensor& cu_groups, const std::optional<Tensor>& rho, GroupInputs& pointers,
                            Offsets& offsets) {
  const int64_t groups = check_offsets(cu_groups, "cu_groups", offsets);
  STD_TORCH_CHECK(n < kMaxIndex, "mean_logprob: more than ", kMaxIndex, " responses");
  STD_TORCH_CHECK(groups > 0 || n == 0, "cu_groups: no group, but there are responses");
  const auto check = [&](const Tensor& tensor, const char* name) {
    check_vector(tensor, name, ScalarType::Double, n);
    STD_TORCH_CHECK(tensor.device() == like.device(), name, ": not on the device of the log-probabilities");
    return tensor.const_data_ptr<double>();
  };
  STD_TORCH_CHECK(cu_groups.device() == like.device(), "cu_groups: not on the device of the log-probabilities");
  pointers.correctness = check(correctness, "correctness");
  pointers.rewards = check(rewards, "rewards");
  pointers.rho = rho ? check(*rho, "rho") : nullptr;
  return groups;
}

// A tensor beside `like`. By torch's C function: the stable new_empty looks its operator up by name at every call.
inline Tensor allocate(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType type = ScalarType::Double) {
  constexpr size_t kMost = 2;
  int64_t strides[kMost] = {1, 1};
  STD_TORCH_CHECK(shape.size() <= kMost, "too many dimensions");
  if (shape.size() == kMost) strides[0] = shape.begin()[1];
  int32_t device_type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.begin(), strides,
                                                  torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)),
                                                  device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

struct GroupTensors {
  Tensor advantage, calibrated_reward, confidence, importance_difficulty, difficulty, group_kind;
};

// Checks the inputs and allocates the outputs; `in`, `out` and `offsets` then hold their addresses.
inline GroupTensors prepare_group_advantages(const Tensor& mean_logprob, const Tensor& lengths,
                                             const Tensor& correctness, const Tensor& rewards,
                                             const Tensor& cu_groups, const std::optional<Tensor>& rho,
                                             GroupInputs& in, GroupOutputs& out, Offsets& offsets) {
  check_vector(mean_logprob, "mean_logprob");
  const int64_t n = mean_logprob.size(0);
  check_vector(mean_logprob, "mean_logprob", ScalarType::Double, n);
  check_vector(lengths, "lengths", ScalarType::Long, n);
  STD_TORCH_CHECK(lengths.device() == mean_logprob.device(), "lengths: not on the device of the log-probabilities");
  in.mean_logprob = mean_logprob.const_data_ptr<double>();
  in.lengths = lengths.const_data_ptr<int64_t>();
  const int64_t groups = check_groups(mean_logprob, n, correctness, rewards, cu_groups, rho, in, offsets);
  const auto response = [&] { return allocate(mean_logprob, {n}); };
  const auto group = [&] { return allocate(mean_logprob, {groups}); };
  GroupTensors result{response(), response(), response(), group(), group(),
                      allocate(mean_logprob, {groups}, ScalarType::Char)};
  out = {result.advantage.mutable_data_ptr<double>(), result.calibrated_reward.mutable_data_ptr<double>(),
         result.confidence.mutable_data_ptr<double>(), result.importance_difficulty.mutable_data_ptr<double>(),
         result.difficulty.mutable_data_ptr<double>(), result.group_kind.mutable_data_ptr<int8_t>()};
  return result;
}

struct LensTensors {
  Tensor responses, lengths, groups, group_kind;

  double* means() const { return responses.mutable_data_ptr<double>() + 3 * lengths.size(0); }
};

// The same for both stages; the means and lengths are outputs of the first and inputs of the second.
inline LensTensors prepare_lens_advantages(const Tensor& values, const Layout& layout, const Tensor& correctness,
                                           const Tensor& rewards, const Tensor& cu_groups,
                                           const std::optional<Tensor>& rho, GroupInputs& in, GroupOutputs& out,
                                           Offsets& offsets) {
  const int64_t n = layout.responses;
  const int64_t groups = check_groups(values, n, correctness, rewards, cu_groups, rho, in, offsets);
  LensTensors result{allocate(values, {4, n}), allocate(values, {n}, ScalarType::Long),
                     allocate(values, {2, groups}), allocate(values, {groups}, ScalarType::Char)};
  auto* const first = result.responses.mutable_data_ptr<double>();
  auto* const difficulties = result.groups.mutable_data_ptr<double>();
  out = {first, first + n, first + 2 * n, difficulties, difficulties + groups,
         result.group_kind.mutable_data_ptr<int8_t>()};
  in.mean_logprob = result.means();
  in.lengths = result.lengths.const_data_ptr<int64_t>();
  return result;
}

}  // namespace lens
