// The operators on CUDA: two launches, on the current stream, without allocation by the kernels or synchronisation.
#include <Python.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <tuple>

#include "group_advantages.cuh"
#include "schemas.h"
#include "segment_mean.cuh"

namespace lens {
namespace {

constexpr int kGroupThreads = 256;
// Enough blocks to fill any device a few times over; the kernels loop over the rest.
constexpr int64_t kMaxBlocks = 1 << 16;

int blocks_for(int64_t work, int64_t per_block) {
  return static_cast<int>(std::min(kMaxBlocks, (work + per_block - 1) / per_block));
}

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

Tensor make_status_tensor(const Tensor& like, cudaStream_t stream) {
  static_assert(kStatusOk == 0x7fffffffffffffff, "set by bytes below");
  Tensor status = torch::stable::new_empty(like, {1}, ScalarType::Long);
  auto* bytes = static_cast<unsigned char*>(status.mutable_data_ptr());
  STD_CUDA_CHECK(cudaMemsetAsync(bytes, 0xff, 7, stream));
  STD_CUDA_CHECK(cudaMemsetAsync(bytes + 7, 0x7f, 1, stream));
  return status;
}

unsigned long long* status_pointer(Tensor& status) {
  return static_cast<unsigned long long*>(status.mutable_data_ptr());
}

std::tuple<Tensor, Tensor, Tensor> segment_mean(Tensor values, Tensor cu_seqlens, std::optional<Tensor> mask) {
  check_segment_mean(values, cu_seqlens, mask);
  const torch::stable::accelerator::DeviceGuard guard(values.get_device_index());
  const cudaStream_t stream = current_stream(values);
  const int64_t responses = cu_seqlens.size(0) - 1, total = values.size(0);
  Tensor mean = torch::stable::new_empty(values, {responses}, ScalarType::Double);
  Tensor lengths = torch::stable::new_empty(values, {responses}, ScalarType::Long);
  Tensor status = make_status_tensor(values, stream);
  if (responses == 0) return {mean, lengths, status};
  const bool* selected = mask ? mask->const_data_ptr<bool>() : nullptr;
  const auto launch = [&](auto zero, const auto* offsets) {
    using T = decltype(zero);
    const int64_t tile = segment_tile(total, responses);
    segment_mean_kernel<<<blocks_for(responses, tile), kSegmentThreads, 0, stream>>>(
        Tokens<T>{static_cast<const T*>(values.const_data_ptr()), selected}, offsets, total, responses, tile,
        SegmentOutputs{mean.mutable_data_ptr<double>(), lengths.mutable_data_ptr<int64_t>(), status_pointer(status)});
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  };
  const auto dispatch = [&](const auto* offsets) {
    switch (values.scalar_type()) {
      case ScalarType::Float: return launch(float{}, offsets);
      case ScalarType::Double: return launch(double{}, offsets);
      case ScalarType::BFloat16: return launch(__nv_bfloat16{}, offsets);
      case ScalarType::Half: return launch(__half{}, offsets);
      default: STD_TORCH_CHECK(false, "values: expected float32, float64, bfloat16 or float16");
    }
  };
  if (cu_seqlens.scalar_type() == ScalarType::Int)
    dispatch(cu_seqlens.const_data_ptr<int32_t>());
  else
    dispatch(cu_seqlens.const_data_ptr<int64_t>());
  return {mean, lengths, status};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> group_advantages(
    Tensor mean_logprob, Tensor lengths, Tensor correctness, Tensor rewards, Tensor cu_groups, double alpha,
    bool lens_mixed, bool lens_uniform, bool sequence_confidence, bool importance_difficulty, int64_t preference,
    double gamma, std::optional<Tensor> rho) {
  const torch::stable::accelerator::DeviceGuard guard(mean_logprob.get_device_index());
  const cudaStream_t stream = current_stream(mean_logprob);
  GroupInputs in;
  GroupOutputs out;
  GroupTensors result = prepare_group_advantages(mean_logprob, lengths, correctness, rewards, cu_groups, rho, in, out);
  const Config config{alpha, lens_mixed, lens_uniform, sequence_confidence, importance_difficulty,
                      check_preference(preference, rho), gamma};
  Tensor status = make_status_tensor(mean_logprob, stream);
  const int64_t responses = mean_logprob.size(0), groups = cu_groups.size(0) - 1;
  const auto launch = [&](const auto* offsets) {
    group_advantages_kernel<<<blocks_for(groups, kGroupThreads / kLanes), kGroupThreads, 0, stream>>>(
        in, out, offsets, responses, groups, config, status_pointer(status));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  };
  if (groups > 0) {
    if (cu_groups.scalar_type() == ScalarType::Int)
      launch(cu_groups.const_data_ptr<int32_t>());
    else
      launch(cu_groups.const_data_ptr<int64_t>());
  }
  return {result.advantage,  result.calibrated_reward, result.confidence, result.importance_difficulty,
          result.difficulty, result.group_kind,        status};
}

}  // namespace
}  // namespace lens

STABLE_TORCH_LIBRARY_IMPL(lens_openrlhf, CUDA, m) {
  m.impl("segment_mean", TORCH_BOX(&lens::segment_mean));
  m.impl("group_advantages", TORCH_BOX(&lens::group_advantages));
}

PyMODINIT_FUNC PyInit__C_cuda() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C_cuda", nullptr, -1,     nullptr,
                               nullptr,               nullptr,   nullptr, nullptr};
  return PyModule_Create(&module);
}
