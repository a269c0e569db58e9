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

template <class Offset>
int64_t dispatch_values(const Tensor& values, const Offset* offsets, const bool* mask, int64_t responses, double* mean,
                        int64_t* lengths) {
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    return segment_mean_cpu(static_cast<const T*>(values.const_data_ptr()), offsets, mask, values.size(0), responses,
                            mean, lengths, parallel_for);
  };
  switch (values.scalar_type()) {
    case ScalarType::Float: return run(float{});
    case ScalarType::Double: return run(double{});
    case ScalarType::BFloat16: return run(Bf16{});
    case ScalarType::Half: return run(Fp16{});
    default: STD_TORCH_CHECK(false, "values: expected float32, float64, bfloat16 or float16");
  }
}

std::tuple<Tensor, Tensor, Tensor> segment_mean(Tensor values, Tensor cu_seqlens, std::optional<Tensor> mask) {
  check_segment_mean(values, cu_seqlens, mask);
  const int64_t responses = cu_seqlens.size(0) - 1;
  Tensor mean = torch::stable::new_empty(values, {responses}, ScalarType::Double);
  Tensor lengths = torch::stable::new_empty(values, {responses}, ScalarType::Long);
  Tensor status = torch::stable::new_empty(values, {1}, ScalarType::Long);
  const bool* selected = mask ? mask->const_data_ptr<bool>() : nullptr;
  const auto run = [&](const auto* offsets) {
    return dispatch_values(values, offsets, selected, responses, mean.mutable_data_ptr<double>(),
                           lengths.mutable_data_ptr<int64_t>());
  };
  *status.mutable_data_ptr<int64_t>() = cu_seqlens.scalar_type() == ScalarType::Int
                                            ? run(cu_seqlens.const_data_ptr<int32_t>())
                                            : run(cu_seqlens.const_data_ptr<int64_t>());
  return {mean, lengths, status};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> group_advantages(
    Tensor mean_logprob, Tensor lengths, Tensor correctness, Tensor rewards, Tensor cu_groups, double alpha,
    bool lens_mixed, bool lens_uniform, bool sequence_confidence, bool importance_difficulty, int64_t preference,
    double gamma, std::optional<Tensor> rho) {
  GroupInputs in;
  GroupOutputs out;
  GroupTensors result = prepare_group_advantages(mean_logprob, lengths, correctness, rewards, cu_groups, rho, in, out);
  for (double* output : {out.advantage, out.calibrated_reward, out.confidence})
    advise_huge_pages(output, mean_logprob.size(0) * static_cast<int64_t>(sizeof(double)));
  const Config config{alpha, lens_mixed, lens_uniform, sequence_confidence, importance_difficulty,
                      check_preference(preference, rho), gamma};
  Tensor status = torch::stable::new_empty(mean_logprob, {1}, ScalarType::Long);
  const int64_t responses = mean_logprob.size(0), groups = cu_groups.size(0) - 1;
  *status.mutable_data_ptr<int64_t>() =
      cu_groups.scalar_type() == ScalarType::Int
          ? group_advantages_cpu(in, out, cu_groups.const_data_ptr<int32_t>(), responses, groups, config, parallel_for)
          : group_advantages_cpu(in, out, cu_groups.const_data_ptr<int64_t>(), responses, groups, config, parallel_for);
  return {result.advantage,  result.calibrated_reward, result.confidence, result.importance_difficulty,
          result.difficulty, result.group_kind,        status};
}

}  // namespace
}  // namespace lens

STABLE_TORCH_LIBRARY(lens_openrlhf, m) {
  m.def(lens::kSegmentMeanSchema);
  m.def(lens::kGroupAdvantagesSchema);
}

STABLE_TORCH_LIBRARY_IMPL(lens_openrlhf, CPU, m) {
  m.impl("segment_mean", TORCH_BOX(&lens::segment_mean));
  m.impl("group_advantages", TORCH_BOX(&lens::group_advantages));
}

// Importing the module loads the library, which registers the operators.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
