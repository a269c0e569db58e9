// A fuzzing target for the CPU operators' loops, with and without valid input, under the sanitizers.
//
//   g++ -std=c++17 -fsanitize=address,undefined … target.cpp && ./a.out CASES SEED    random bytes (test_fuzz.py)
//   clang++ -fsanitize=fuzzer,address,undefined -DLENS_LIBFUZZER … target.cpp         guided by coverage
//
// Every input has to end in a status word. Where that is kStatusOk, the means are those of plain loops in long double
// and the advantages are finite; where it is not, it names a response or group that exists.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "group_advantages.h"
#include "segment_mean.h"

namespace {

using lens::kStatusOk;

lens::Offsets as_offsets(const std::vector<int64_t>& offsets) { return {offsets.data(), nullptr, 0}; }
lens::Offsets as_offsets(const std::vector<int32_t>& offsets) { return {nullptr, offsets.data(), 0}; }

// Takes numbers off the input; zeros when it is used up.
struct Input {
  const uint8_t* data;
  size_t size;

  template <class T>
  T take() {
    T value{};
    const size_t count = std::min(size, sizeof value);
    if (count) memcpy(&value, data, count);
    data += count;
    size -= count;
    return value;
  }
  int64_t below(int64_t bound) { return bound > 0 ? take<uint16_t>() % bound : 0; }
};

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "fuzz target: %s\n", what);
  std::abort();
}

// Parts as a thread pool would hand them out: in any number.
struct ParallelFor {
  int parts;
  template <class F>
  void operator()(int64_t begin, int64_t end, int64_t, const F& f) const {
    for (int p = 0; p < parts; ++p) {
      const int64_t from = begin + (end - begin) * p / parts, to = begin + (end - begin) * (p + 1) / parts;
      if (from < to) f(from, to);
    }
  }
};

// Offsets that are mostly sound: `count` segments of up to `longest` elements, and now and then a wild entry.
template <class Offset>
std::vector<Offset> take_offsets(Input& input, int64_t count, int64_t longest) {
  std::vector<Offset> offsets{0};
  for (int64_t i = 0; i < count; ++i) offsets.push_back(static_cast<Offset>(offsets.back() + input.below(longest)));
  if (input.below(8) == 0) offsets[static_cast<size_t>(input.below(count + 1))] = static_cast<Offset>(input.take<int64_t>());
  return offsets;
}

double widen(float x) { return x; }
double widen(double x) { return x; }
double widen(lens::Fp16 x) {
  const int exponent = x.bits >> 10 & 31;
  const double fraction = static_cast<double>(x.bits & 1023) / 1024;
  const double magnitude = exponent == 31 ? (fraction > 0 ? lens::kNan : lens::kInf)
                           : exponent == 0 ? std::ldexp(fraction, -14)
                                           : std::ldexp(1 + fraction, exponent - 15);
  return x.bits >> 15 ? -magnitude : magnitude;
}
double widen(lens::Bf16 x) { return lens::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

template <class T>
T take_value(Input& input);
template <>
float take_value<float>(Input& input) {
  return input.below(4) == 0 ? input.take<float>() : -static_cast<float>(input.take<uint16_t>()) / 256;
}
template <>
double take_value<double>(Input& input) {
  return input.below(4) == 0 ? input.take<double>() : -static_cast<double>(input.take<uint16_t>()) / 256;
}
template <>
lens::Bf16 take_value<lens::Bf16>(Input& input) {
  return {static_cast<uint16_t>(input.take<uint16_t>() | (input.below(64) ? 0x8000u : 0u))};
}

template <>
lens::Fp16 take_value<lens::Fp16>(Input& input) {
  return {take_value<lens::Bf16>(input).bits};
}

template <class T, class Offset>
void fuzz_segment_mean(Input& input) {
  const int64_t count = input.below(12);
  const auto offsets = take_offsets<Offset>(input, count, input.below(16) ? 80 : 3000);
  // The buffer is what sound offsets would need; wild ones reach beyond it.
  const int64_t total = std::max<int64_t>(0, std::min<int64_t>(offsets.back(), 40000));
  std::vector<T> values;
  for (int64_t i = 0; i < total; ++i) values.push_back(input.size ? take_value<T>(input) : T{});
  std::vector<uint8_t> mask;
  const bool masked = input.below(2);
  for (int64_t i = 0; masked && i < total; ++i) mask.push_back(static_cast<uint8_t>(i * 7 % 5 != 0));
  const bool* selected = masked ? reinterpret_cast<const bool*>(mask.data()) : nullptr;

  std::vector<double> mean(static_cast<size_t>(count));
  std::vector<int64_t> lengths(static_cast<size_t>(count));
  const lens::Layout layout{as_offsets(offsets), count, total};
  const uint64_t status = lens::segment_mean_cpu(values.data(), selected, layout, mean.data(), lengths.data(),
                                                 ParallelFor{1 + static_cast<int>(input.below(4))});
  if (status != kStatusOk) {
    if (lens::status_index(status) >= count) fail("a status names a response that does not exist");
    return;
  }
  for (int64_t r = 0; r < count; ++r) {
    long double sum = 0;
    int64_t tokens = 0;
    for (int64_t i = offsets[static_cast<size_t>(r)]; i < offsets[static_cast<size_t>(r) + 1]; ++i)
      if (!selected || selected[i]) {
        sum += std::min(0.0, widen(values[static_cast<size_t>(i)]));
        ++tokens;
      }
    const double found = mean[static_cast<size_t>(r)], expected = static_cast<double>(sum / tokens);
    if (lengths[static_cast<size_t>(r)] != tokens) fail("a length is wrong");
    // Above 1e300 the sum may overflow in double.
    const bool right = tokens == 0              ? found != found
                       : std::isinf(expected)   ? found == expected
                       : expected < -1e300      ? found <= -1e299
                                                : std::abs(found - expected) <= 1e-12 * std::abs(expected) + 1e-300;
    if (!right) fail("a mean is wrong");
  }
}

// Rows of a padded batch, which lie at any distance, are packed responses of one length.
template <class T>
void fuzz_rows(Input& input) {
  const int64_t rows = input.below(12), width = input.below(16) ? input.below(80) : 2000;
  const int64_t value_stride = width + input.below(5), mask_stride = width + input.below(5);
  const auto at = [](int64_t i) { return static_cast<size_t>(i); };
  // Exactly as much memory as there is to read.
  std::vector<T> values(at(rows && width ? (rows - 1) * value_stride + width : 0));
  std::vector<uint8_t> mask(at(rows && width ? (rows - 1) * mask_stride + width : 0));
  for (auto& value : values) value = input.size ? take_value<T>(input) : T{};
  for (auto& byte : mask) byte = input.below(3) != 0;
  std::vector<T> packed;
  std::vector<uint8_t> packed_mask;
  std::vector<int64_t> offsets{0};
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < width; ++i) {
      packed.push_back(values[at(r * value_stride + i)]);
      packed_mask.push_back(mask[at(r * mask_stride + i)]);
    }
    offsets.push_back((r + 1) * width);
  }
  const bool masked = input.below(2);
  const auto run = [&](const std::vector<T>& tokens, const std::vector<uint8_t>& selected, const lens::Layout& layout,
                       std::vector<double>& mean, std::vector<int64_t>& lengths) {
    return lens::segment_mean_cpu(tokens.data(), masked ? reinterpret_cast<const bool*>(selected.data()) : nullptr,
                                  layout, mean.data(), lengths.data(), ParallelFor{1 + static_cast<int>(input.below(4))});
  };
  std::vector<double> mean(at(rows)), expected(at(rows));
  std::vector<int64_t> lengths(at(rows)), expected_lengths(at(rows));
  lens::Layout layout{{nullptr, nullptr, width}, rows, rows * width, true, value_stride, mask_stride};
  const uint64_t found = run(values, mask, layout, mean, lengths);
  if (found != run(packed, packed_mask, {as_offsets(offsets), rows, rows * width}, expected, expected_lengths))
    fail("rows have another status");
  if (rows == 0) return;
  if (lengths != expected_lengths || memcmp(mean.data(), expected.data(), mean.size() * sizeof(double)) != 0)
    fail("rows have other means");
}

template <class Offset>
void fuzz_groups(Input& input) {
  const int64_t count = 1 + input.below(8);  // schemas.h refuses responses without a group
  const auto offsets = take_offsets<Offset>(input, count, 40);
  const int64_t responses = std::max<int64_t>(0, std::min<int64_t>(offsets.back(), 400));
  const auto size = static_cast<size_t>(responses), groups = static_cast<size_t>(count);
  std::vector<double> mean(size), c(size), rewards(size), rho(size);
  std::vector<int64_t> lengths(size);
  const bool wild = input.below(4) == 0;
  for (size_t i = 0; i < size; ++i) {
    mean[i] = wild ? input.take<double>() : -static_cast<double>(input.take<uint16_t>()) / 64;
    lengths[i] = wild ? input.take<int64_t>() : input.below(50);
    c[i] = wild ? input.take<double>() : static_cast<double>(input.below(5) / 3);
    rewards[i] = wild ? input.take<double>() : c[i] - static_cast<double>(input.below(3)) / 4;
    if (!wild && c[i] > 1) c[i] = 1;
    rho[i] = wild ? input.take<double>() : std::ldexp(1.0, static_cast<int>(input.below(2040)) - 1020);
  }
  std::vector<double> advantage(size), calibrated(size), confidence(size), importance(groups), difficulty(groups);
  std::vector<int8_t> kind(groups);
  const auto preference = static_cast<lens::Preference>(input.below(3));
  const bool tensor = preference == lens::Preference::kNone && input.below(2);
  const lens::GroupInputs in{mean.data(), lengths.data(), c.data(), rewards.data(), tensor ? rho.data() : nullptr};
  const lens::GroupOutputs out{advantage.data(),  calibrated.data(), confidence.data(),
                               importance.data(), difficulty.data(), kind.data()};
  const lens::Config config{0.25,
                            input.below(2) == 0,
                            input.below(2) == 0,
                            input.below(2) == 0,
                            input.below(2) == 0,
                            preference,
                            static_cast<double>(input.below(16)) / 4};
  const uint64_t status = lens::group_advantages_cpu(in, out, as_offsets(offsets), responses, count, config,
                                                     ParallelFor{1 + static_cast<int>(input.below(3))});
  if (status != kStatusOk) {
    if (lens::status_index(status) >= std::max(count, responses)) fail("a status names a group or response that does not exist");
    return;
  }
  for (size_t i = 0; i < size; ++i) {
    if (wild) continue;
    if (!std::isfinite(advantage[i])) fail("an advantage is not finite");
    if (!(calibrated[i] <= rewards[i])) fail("a reward was raised");
    if (lengths[i] == 0 ? confidence[i] == confidence[i] : !(confidence[i] >= 0 && confidence[i] <= 1))
      fail("a confidence is no probability");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input{data, size};
  switch (input.below(10)) {
    case 0: fuzz_segment_mean<float, int64_t>(input); break;
    case 1: fuzz_segment_mean<float, int32_t>(input); break;
    case 2: fuzz_segment_mean<double, int64_t>(input); break;
    case 3: fuzz_segment_mean<lens::Bf16, int64_t>(input); break;
    case 4: fuzz_segment_mean<lens::Bf16, int32_t>(input); break;
    case 5: fuzz_segment_mean<lens::Fp16, int64_t>(input); break;
    case 6: fuzz_groups<int32_t>(input); break;
    case 7: fuzz_rows<float>(input); break;
    case 8: fuzz_rows<lens::Bf16>(input); break;
    default: fuzz_groups<int64_t>(input); break;
  }
  return 0;
}

#ifndef LENS_LIBFUZZER
int main(int count, char** arguments) {
  if (count != 3) fail("expected CASES and SEED");
  std::mt19937_64 random(std::strtoull(arguments[2], nullptr, 10));
  const long cases = std::atol(arguments[1]);
  for (long i = 0; i < cases; ++i) {
    std::vector<uint8_t> bytes(random() % 4096);
    for (auto& byte : bytes) byte = static_cast<uint8_t>(random());
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%ld cases\n", cases);
  return 0;
}
#endif
