// The operators on the CPU, and their schemas: this library is always built and loaded.
#include <Python.h>

#include <tuple>

#include "group_advantages.h"
#include "huge_pages.h"
#include "schemas.h"
#include "segment_mean.h"

namespace lens {
namespace {

// A callable, so that the loops need not know torch.
constexpr auto parallel_for = [](int64_t begin, int64_t end, int64_t grain, const auto& f) {
  torch::stable::parallel_for(begin, end, grain, f);
};

const bool* mask_pointer(const std::optional<Tensor>& mask) { return mask ? mask->const_data_ptr<bool>() : nullptr; }

uint64_t run_segment_mean(const Tensor& values, const std::optional<Tensor>& mask, const Layout& layout, double* mean,
                          int64_t* lengths) {
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    return segment_mean_cpu(static_cast<const T*>(values.const_data_ptr()), mask_pointer(mask), layout, mean, lengths,
                            parallel_for);
  };
  switch (values.scalar_type()) {
    case ScalarType::Float: return run(float{});
    case ScalarType::Double: return run(double{});
    case ScalarType::BFloat16: return run(Bf16{});
    case ScalarType::Half: return run(Fp16{});
    default: STD_TORCH_CHECK(false, "values: expected float32, float64, bfloat16 or float16");
  }
}

uint64_t run_group_advantages(const GroupInputs& in, const GroupOutputs& out, const Offsets& offsets,
                              int64_t responses, int64_t groups, const Config& config) {
  for (double* output : {out.advantage, out.calibrated_reward, out.confidence})
    advise_huge_pages(output, responses * static_cast<int64_t>(sizeof(double)));
  return group_advantages_cpu(in, out, offsets, responses, groups, config, parallel_for);
}

Tensor status_tensor(const Tensor& like, uint64_t status) {
  Tensor tensor = allocate(like, {1}, ScalarType::Long);
  *tensor.mutable_data_ptr<int64_t>() = static_cast<int64_t>(status);
  return tensor;
}

std::tuple<Tensor, Tensor, Tensor> segment_mean(Tensor values, std::optional<Tensor> cu_seqlens,
                                                std::optional<Tensor> mask) {
  const Layout layout = check_segment_mean(values, cu_seqlens, mask);
  Tensor mean = allocate(values, {layout.responses});
  Tensor lengths = allocate(values, {layout.responses}, ScalarType::Long);
  const uint64_t status = run_segment_mean(values, mask, layout, mean.mutable_data_ptr<double>(),
                                           lengths.mutable_data_ptr<int64_t>());
  return {mean, lengths, status_tensor(values, status)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> group_advantages(
    Tensor mean_logprob, Tensor lengths, Tensor correctness, Tensor rewards, Tensor cu_groups, double alpha,
    bool lens_mixed, bool lens_uniform, bool sequence_confidence, bool importance_difficulty, int64_t preference,
    double gamma, std::optional<Tensor> rho) {
  GroupInputs in;
  GroupOutputs out;
  Offsets offsets;
  GroupTensors result =
      prepare_group_advantages(mean_logprob, lengths, correctness, rewards, cu_groups, rho, in, out, offsets);
  const Config config{alpha, lens_mixed, lens_uniform, sequence_confidence, importance_difficulty,
                      check_preference(preference, rho), gamma};
  const uint64_t status =
      run_group_advantages(in, out, offsets, mean_logprob.size(0), cu_groups.size(0) - 1, config);
  return {result.advantage,  result.calibrated_reward, result.confidence, result.importance_difficulty,
          result.difficulty, result.group_kind,        status_tensor(mean_logprob, status)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lens_advantages(
    Tensor values, std::optional<Tensor> cu_seqlens, std::optional<Tensor> mask, Tensor correctness, Tensor rewards,
    Tensor cu_groups, double alpha, bool lens_mixed, bool lens_uniform, bool sequence_confidence,
    bool importance_difficulty, int64_t preference, double gamma, std::optional<Tensor> rho) {
  const Layout layout = check_segment_mean(values, cu_seqlens, mask);
  GroupInputs in;
  GroupOutputs out;
  Offsets offsets;
  LensTensors result =
      prepare_lens_advantages(values, layout, correctness, rewards, cu_groups, rho, in, out, offsets);
  const Config config{alpha, lens_mixed, lens_uniform, sequence_confidence, importance_difficulty,
                      check_preference(preference, rho), gamma};
  const uint64_t first =
      run_segment_mean(values, mask, layout, result.means(), result.lengths.mutable_data_ptr<int64_t>());
  const uint64_t second = run_group_advantages(in, out, offsets, layout.responses, cu_groups.size(0) - 1, config);
  return {result.responses, result.lengths, result.groups, result.group_kind,
          status_tensor(values, std::min(first, second))};
}

}  // namespace
}  // namespace lens

STABLE_TORCH_LIBRARY(lens_openrlhf, m) {
  m.def(lens::kSegmentMeanSchema);
  m.def(lens::kGroupAdvantagesSchema);
  m.def(lens::kLensAdvantagesSchema);
}

STABLE_TORCH_LIBRARY_IMPL(lens_openrlhf, CPU, m) {
  m.impl("segment_mean", TORCH_BOX(&lens::segment_mean));
  m.impl("group_advantages", TORCH_BOX(&lens::group_advantages));
  m.impl("lens_advantages", TORCH_BOX(&lens::lens_advantages));
}

// Importing the module loads the library, which registers the operators.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
