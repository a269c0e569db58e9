// The operators on CUDA: a fill and a launch for each stage, on the current stream, without synchronisation.
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

// Enough blocks of the group stage to fill any device a few times over; the kernel loops over the rest.
constexpr int64_t kMaxBlocks = 1 << 16;

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// A status that says that all is well, and where the kernels find it.
struct Status {
  Tensor tensor;
  unsigned long long* word;

  Status(const Tensor& like, cudaStream_t stream)
      : tensor(allocate(like, {1}, ScalarType::Long)),
        word(static_cast<unsigned long long*>(tensor.mutable_data_ptr())) {
    static_assert(kStatusOk == ~uint64_t{0});
    STD_CUDA_CHECK(cudaMemsetAsync(word, 0xff, sizeof *word, stream));
  }
};

void launch_segment_mean(const Tensor& values, const std::optional<Tensor>& mask, const Layout& layout,
                         const SegmentOutputs& out, cudaStream_t stream) {
  if (layout.responses == 0) return;
  int multiprocessors = 0;
  STD_CUDA_CHECK(
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, values.get_device_index()));
  const auto launch = [&](auto zero) {
    using T = decltype(zero);
    const SegmentPlan plan =
        segment_plan(layout.total, layout.responses, multiprocessors * segment_blocks<T>(mask.has_value()));
    const auto kernel = mask ? &segment_mean_kernel<T, true> : &segment_mean_kernel<T, false>;
    const Tokens<T> tokens{static_cast<const T*>(values.const_data_ptr()),
                           mask ? mask->const_data_ptr<bool>() : nullptr};
    kernel<<<plan.blocks, kSegmentThreads, 0, stream>>>(tokens, layout, plan.unit, plan.warp_tokens, out);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  };
  switch (values.scalar_type()) {
    case ScalarType::Float: return launch(float{});
    case ScalarType::Double: return launch(double{});
    case ScalarType::BFloat16: return launch(__nv_bfloat16{});
    case ScalarType::Half: return launch(__half{});
    default: STD_TORCH_CHECK(false, "values: expected float32, float64, bfloat16 or float16");
  }
}

void launch_group_advantages(const GroupInputs& in, const GroupOutputs& out, const Offsets& offsets,
                             int64_t responses, int64_t groups, const Config& config, const Status& status,
                             cudaStream_t stream) {
  if (groups == 0) return;
  constexpr int64_t kWarps = kGroupThreads / kLanes;
  const auto blocks = static_cast<unsigned>(std::min(kMaxBlocks, (groups + kWarps - 1) / kWarps));
  const auto kernel = has_preference(in, config) ? &group_advantages_kernel<true> : &group_advantages_kernel<false>;
  kernel<<<blocks, kGroupThreads, 0, stream>>>(in, out, offsets, responses, groups, config, status.word);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor, Tensor> segment_mean(Tensor values, std::optional<Tensor> cu_seqlens,
                                                std::optional<Tensor> mask) {
  const Layout layout = check_segment_mean(values, cu_seqlens, mask);
  const torch::stable::accelerator::DeviceGuard guard(values.get_device_index());
  const cudaStream_t stream = current_stream(values);
  Tensor mean = allocate(values, {layout.responses});
  Tensor lengths = allocate(values, {layout.responses}, ScalarType::Long);
  const Status status(values, stream);
  launch_segment_mean(values, mask, layout,
                      {mean.mutable_data_ptr<double>(), lengths.mutable_data_ptr<int64_t>(), status.word}, stream);
  return {mean, lengths, status.tensor};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> group_advantages(
    Tensor mean_logprob, Tensor lengths, Tensor correctness, Tensor rewards, Tensor cu_groups, double alpha,
    bool lens_mixed, bool lens_uniform, bool sequence_confidence, bool importance_difficulty, int64_t preference,
    double gamma, std::optional<Tensor> rho) {
  const torch::stable::accelerator::DeviceGuard guard(mean_logprob.get_device_index());
  const cudaStream_t stream = current_stream(mean_logprob);
  GroupInputs in;
  GroupOutputs out;
  Offsets offsets;
  GroupTensors result =
      prepare_group_advantages(mean_logprob, lengths, correctness, rewards, cu_groups, rho, in, out, offsets);
  const Config config{alpha, lens_mixed, lens_uniform, sequence_confidence, importance_difficulty,
                      check_preference(preference, rho), gamma};
  const Status status(mean_logprob, stream);
  launch_group_advantages(in, out, offsets, mean_logprob.size(0), cu_groups.size(0) - 1, config, status, stream);
  return {result.advantage,  result.calibrated_reward, result.confidence, result.importance_difficulty,
          result.difficulty, result.group_kind,        status.tensor};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lens_advantages(
    Tensor values, std::optional<Tensor> cu_seqlens, std::optional<Tensor> mask, Tensor correctness, Tensor rewards,
    Tensor cu_groups, double alpha, bool lens_mixed, bool lens_uniform, bool sequence_confidence,
    bool importance_difficulty, int64_t preference, double gamma, std::optional<Tensor> rho) {
  const Layout layout = check_segment_mean(values, cu_seqlens, mask);
  const torch::stable::accelerator::DeviceGuard guard(values.get_device_index());
  const cudaStream_t stream = current_stream(values);
  GroupInputs in;
  GroupOutputs out;
  Offsets offsets;
  LensTensors result =
      prepare_lens_advantages(values, layout, correctness, rewards, cu_groups, rho, in, out, offsets);
  const Config config{alpha, lens_mixed, lens_uniform, sequence_confidence, importance_difficulty,
                      check_preference(preference, rho), gamma};
  const Status status(values, stream);
  launch_segment_mean(values, mask, layout,
                      {result.means(), result.lengths.mutable_data_ptr<int64_t>(), status.word}, stream);
  launch_group_advantages(in, out, offsets, layout.responses, cu_groups.size(0) - 1, config, status, stream);
  return {result.responses, result.lengths, result.groups, result.group_kind, status.tensor};
}

}  // namespace
}  // namespace lens

STABLE_TORCH_LIBRARY_IMPL(lens_openrlhf, CUDA, m) {
  m.impl("segment_mean", TORCH_BOX(&lens::segment_mean));
  m.impl("group_advantages", TORCH_BOX(&lens::group_advantages));
  m.impl("lens_advantages", TORCH_BOX(&lens::lens_advantages));
}

PyMODINIT_FUNC PyInit__C_cuda() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C_cuda", nullptr, -1,     nullptr,
                               nullptr,               nullptr,   nullptr, nullptr};
  return PyModule_Create(&module);
}
