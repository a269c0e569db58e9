// The emulator for Python. Arrays are copied into memory of their exact size, so that AddressSanitizer sees their ends
// too, and back; only those of more than kMaxCopy bytes, which stand for huge inputs, are used where they lie.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>

#include "faults.h"
#include "kernels.h"

namespace py = pybind11;

namespace simt {
namespace {

constexpr size_t kMaxCopy = size_t{1} << 28;

// An input array, read-only to the kernel.
class Input {
 public:
  Input(std::string name, const py::array& array) : name_(std::move(name)), array_(array) {
    if (!(array.flags() & py::array::c_style)) throw py::value_error(name_ + ": expected a contiguous array");
    bytes_ = static_cast<size_t>(array.nbytes());
    data_ = const_cast<void*>(array.data());
    if (bytes_ > kMaxCopy) return;
    copy_.reset(static_cast<char*>(std::malloc(bytes_ ? bytes_ : 1)));
    std::memcpy(copy_.get(), array.data(), bytes_);
    data_ = copy_.get();
  }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data_);
  }
  const void* data() const { return data_; }
  Buffer buffer() const { return {name_, data_, bytes_, false, true}; }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  std::string name_;
  py::array array_;
  size_t bytes_;
  void* data_;
  std::unique_ptr<char, Free> copy_;
};

// An output array, which the kernel has to write before it reads it.
template <class T>
class Output {
 public:
  Output(std::string name, int64_t size) : name_(std::move(name)), memory_(new T[static_cast<size_t>(size)]), size_(size) {
    std::memset(memory_.get(), 0xa5, bytes());
  }
  T* data() { return memory_.get(); }
  Buffer buffer() { return {name_, memory_.get(), bytes(), true, initialised_}; }
  py::array_t<T> array() const { return py::array_t<T>(size_, memory_.get()); }
  static Output holding(std::string name, T value) {
    Output output(std::move(name), 1);
    output.memory_[0] = value;
    output.initialised_ = true;
    return output;
  }

 private:
  size_t bytes() const { return static_cast<size_t>(size_) * sizeof(T); }
  std::string name_;
  std::unique_ptr<T[]> memory_;
  int64_t size_;
  bool initialised_ = false;
};

Dtype dtype_of(const std::string& name) {
  if (name == "float32") return Dtype::kFloat32;
  if (name == "float64") return Dtype::kFloat64;
  if (name == "bfloat16") return Dtype::kBfloat16;
  if (name == "float16") return Dtype::kFloat16;
  throw py::value_error("dtype: " + name);
}

lens::Offsets offsets_of(const Input& input, const py::array& array) {
  lens::Offsets offsets;
  if (array.itemsize() == 8)
    offsets.wide = input.as<int64_t>();
  else
    offsets.narrow = input.as<int32_t>();
  return offsets;
}

// A status as Python has it: the operators' int64.
int64_t status_of(Output<unsigned long long>& status) { return static_cast<int64_t>(status.data()[0]); }

// Packed with offsets; without them [rows, width], of which the first `width` columns are the responses.
py::tuple call_segment_mean(const py::array& values, const std::string& dtype, const std::optional<py::array>& offsets,
                            const std::optional<py::array>& mask, std::optional<int64_t> width, unsigned grid,
                            std::optional<int> unit, std::optional<int> warp_tokens, unsigned device_blocks,
                            uint64_t seed, unsigned in_flight, const std::vector<unsigned>& blocks) {
  const Input values_in("values", values);
  std::optional<Input> mask_in, offsets_in;
  if (mask) mask_in.emplace("mask", *mask);
  if (offsets) offsets_in.emplace("offsets", *offsets);
  lens::Layout layout{};
  if (offsets) {
    layout.offsets = offsets_of(*offsets_in, *offsets);
    layout.responses = offsets->size() - 1;
    layout.total = values.size();
  } else {
    layout.rows = true;
    layout.responses = values.shape(0);
    layout.offsets.width = width.value_or(values.shape(1));
    layout.total = layout.responses * layout.offsets.width;
    layout.value_stride = values.shape(1);
    layout.mask_stride = mask ? mask->shape(1) : 0;
  }
  Output<double> mean("mean", layout.responses);
  Output<int64_t> lengths("lengths", layout.responses);
  auto status = Output<unsigned long long>::holding("status", lens::kStatusOk);
  const Plan plan = segment_plan(layout.total, layout.responses, device_blocks);
  Launch launch{"segment_mean", grid ? grid : static_cast<unsigned>(std::max(1, plan.blocks))};
  launch.block = segment_threads();
  launch.seed = seed;
  launch.in_flight = in_flight;
  launch.blocks = blocks;
  std::vector<Buffer> buffers = {values_in.buffer(), mean.buffer(), lengths.buffer(), status.buffer()};
  if (offsets_in) buffers.push_back(offsets_in->buffer());
  if (mask_in) buffers.push_back(mask_in->buffer());
  const SegmentMeanCall call{values_in.data(), dtype_of(dtype), mask_in ? mask_in->as<bool>() : nullptr, layout,
                             unit.value_or(plan.unit), warp_tokens.value_or(plan.warp_tokens), mean.data(),
                             lengths.data(), status.data()};
  {
    const py::gil_scoped_release release;
    segment_mean(launch, buffers, call);
  }
  return py::make_tuple(mean.array(), lengths.array(), status_of(status));
}

py::dict call_group_advantages(const py::array& mean_logprob, const py::array& lengths, const py::array& correctness,
                               const py::array& rewards, const py::array& offsets, double alpha, bool lens_mixed,
                               bool lens_uniform, bool sequence_confidence, bool importance_difficulty,
                               int64_t preference, double gamma, const std::optional<py::array>& rho, unsigned grid,
                               unsigned block, uint64_t seed, unsigned in_flight) {
  const Input mean_in("mean_logprob", mean_logprob), lengths_in("lengths", lengths),
      correctness_in("correctness", correctness), rewards_in("rewards", rewards), offsets_in("offsets", offsets);
  std::optional<Input> rho_in;
  if (rho) rho_in.emplace("rho", *rho);
  const int64_t responses = mean_logprob.size(), groups = offsets.size() - 1;
  Output<double> advantage("advantage", responses), calibrated("calibrated_reward", responses),
      confidence("confidence", responses), importance("importance_difficulty", groups),
      difficulty("difficulty", groups);
  Output<int8_t> kind("group_kind", groups);
  auto status = Output<unsigned long long>::holding("status", lens::kStatusOk);
  Launch launch{"group_advantages", grid};
  launch.block = block;
  launch.seed = seed;
  launch.in_flight = in_flight;
  std::vector<Buffer> buffers = {
      mean_in.buffer(),    lengths_in.buffer(), correctness_in.buffer(), rewards_in.buffer(),
      offsets_in.buffer(), advantage.buffer(),  calibrated.buffer(),     confidence.buffer(),
      importance.buffer(), difficulty.buffer(), kind.buffer(),           status.buffer()};
  if (rho_in) buffers.push_back(rho_in->buffer());
  const GroupAdvantagesCall call{
      mean_in.as<double>(), correctness_in.as<double>(), rewards_in.as<double>(),
      rho_in ? rho_in->as<double>() : nullptr, lengths_in.as<int64_t>(), offsets_of(offsets_in, offsets), responses, groups, alpha, lens_mixed, lens_uniform, sequence_confidence, importance_difficulty, preference, gamma,
      advantage.data(), calibrated.data(), confidence.data(), importance.data(), difficulty.data(), kind.data(),
      status.data()};
  {
    const py::gil_scoped_release release;
    group_advantages(launch, buffers, call);
  }
  py::dict result;
  result["advantage"] = advantage.array();
  result["calibrated_reward"] = calibrated.array();
  result["confidence"] = confidence.array();
  result["importance_difficulty"] = importance.array();
  result["difficulty"] = difficulty.array();
  result["group_kind"] = kind.array();
  result["status"] = status_of(status);
  return result;
}

}  // namespace
}  // namespace simt

PYBIND11_MODULE(simt, m) {
  using namespace simt;
  // Carries what kind of fault it is beside the message.
  static py::object fault_type = py::exception<Fault>(m, "Fault", PyExc_RuntimeError);
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const Fault& fault) {
      py::object error = fault_type(fault.what());
      error.attr("kind") = fault.kind;
      PyErr_SetObject(fault_type.ptr(), error.ptr());
    }
  });
  m.def("segment_plan", [](int64_t total, int64_t responses, int64_t blocks) {
    const Plan plan = segment_plan(total, responses, blocks);
    return py::make_tuple(plan.blocks, plan.unit, plan.warp_tokens);
  });
  m.def("segment_mean", &call_segment_mean, py::arg("values"), py::arg("dtype"), py::arg("offsets"),
        py::arg("mask") = py::none(), py::kw_only(), py::arg("width") = py::none(), py::arg("grid") = 0,
        py::arg("unit") = py::none(), py::arg("warp_tokens") = py::none(), py::arg("device_blocks") = 4,
        py::arg("seed") = 0, py::arg("in_flight") = 4, py::arg("blocks") = std::vector<unsigned>{});
  m.def("group_advantages", &call_group_advantages, py::arg("mean_logprob"), py::arg("lengths"), py::arg("correctness"),
        py::arg("rewards"), py::arg("offsets"), py::kw_only(), py::arg("alpha"), py::arg("lens_mixed"),
        py::arg("lens_uniform"), py::arg("sequence_confidence"), py::arg("importance_difficulty"),
        py::arg("preference"), py::arg("gamma"), py::arg("rho") = py::none(), py::arg("grid") = 3, py::arg("block") = 256, py::arg("seed") = 0, py::arg("in_flight") = 3);
  m.def("example_names", &example_names);
  m.def(
      "run_example",
      [](const std::string& name, std::vector<float> numbers, const std::vector<float>& constants, bool initialised,
         unsigned grid, unsigned block, size_t dynamic_shared, uint64_t seed, uint64_t max_accesses) {
        Launch launch;
        launch.grid = grid;
        launch.block = block;
        launch.dynamic_shared = dynamic_shared;
        launch.seed = seed;
        launch.max_accesses = max_accesses;
        {
          const py::gil_scoped_release release;
          run_example(name, launch, numbers, constants, initialised);
        }
        return numbers;
      },
      py::arg("name"), py::arg("numbers"), py::arg("constants"), py::kw_only(), py::arg("initialised") = true,
      py::arg("grid") = 1, py::arg("block") = 64, py::arg("dynamic_shared") = 0, py::arg("seed") = 0,
      py::arg("max_accesses") = 10'000'000);
}
