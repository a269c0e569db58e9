// The formulas of LENS (Feng et al. 2025), once, for host and device. No torch in here.
//
// q is a response's confidence relative to the largest of its group and d the group's difficulty relative to the
// same: only such ratios matter, and they keep their meaning however long or unlikely the responses are.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__CUDACC__)
#define LENS_FN __host__ __device__ inline
#else
#define LENS_FN inline
#endif

namespace lens {

// A log-probability in (0, 1e-3] is rounding and counts as 0; 1e-3 itself may be rounded up in half precision. About
// 1.0014e-3, a number that float holds exactly, so that comparing in float and in double comes to the same.
constexpr double kLogprobTolerance = 0x1.068p-10;
constexpr double kStdEps = 1e-9;            // as in OpenRLHF's group_norm
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// One summation tree for every device, by position within the response. A chunk's elements go round-robin to kLanes
// partial sums, which a halving tree adds up; so are the sums of a span's kLanes chunks; spans are added in order. Sums
// over a group are those of one chunk without an end.
constexpr int kLanes = 32;
constexpr int64_t kChunk = 1024;
constexpr int64_t kSpan = kLanes * kChunk;

enum class Error : uint32_t {
  kTokenOffsets = 1,   // cu_seqlens decreases, or does not start at 0 or end at T
  kNanLogprob = 2,
  kPositiveLogprob = 3,
  kGroupOffsets = 4,   // cu_groups decreases, or does not start at 0 or end at N
  kCorrectness = 5,    // outside [0, 1], or NaN
  kReward = 6,         // not finite
  kLength = 7,         // negative
};

enum class GroupKind : int8_t { kNegative = 0, kPositive = 1, kMixed = 2 };

struct Config {
  double alpha;
  bool lens_mixed;    // mixed groups get LENS's penalty, otherwise GRPO's plain reward
  bool lens_uniform;  // the same for groups of one outcome
  bool sequence_confidence;
  bool importance_difficulty;
};

// A status is one 64-bit word, so that the first error of many threads is found with an atomic minimum: 27 bits of
// response or group index, 4 bits of code, the value as float.
constexpr int64_t kStatusOk = std::numeric_limits<int64_t>::max();
constexpr int64_t kMaxIndex = int64_t{1} << 27;

LENS_FN int64_t make_status(int64_t index, Error code, double value) {
  const float narrow = static_cast<float>(value);
  uint32_t bits;
  memcpy(&bits, &narrow, sizeof bits);
  return (index << 36) | (static_cast<int64_t>(code) << 32) | bits;
}

// Formulas take a number, or on the CPU a vector of them: what they choose between is computed first and never branched
// over, and && and || are for masks too.
LENS_FN bool is_logprob(float x) { return x <= static_cast<float>(kLogprobTolerance); }  // false for NaN
template <class V>
LENS_FN auto is_logprob(V x) {
  return x <= kLogprobTolerance;
}

LENS_FN int64_t logprob_status(int64_t index, double x) {
  return make_status(index, x != x ? Error::kNanLogprob : Error::kPositiveLogprob, x);
}

template <class V>
LENS_FN V clean_logprob(V x) {
  return x > 0 ? V{} : x;
}

template <class To, class From>
LENS_FN To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

template <class V>
LENS_FN V log_confidence(V mean_logprob, V length, bool sequence) {
  const V mean = clean_logprob(mean_logprob);
  return sequence ? mean * length : mean;
}

// exp(x) for x <= 0, to 2 units in the last place; 0 below -708, where confidences differ by nothing that matters.
// Our own so that every device and instruction set gives the same bits, and vectors of them. `Bits` is V's integer.
template <class Bits, class V>
LENS_FN V exp_nonpositive(V x) {
  constexpr double kLog2E = 0x1.71547652b82fep+0, kLn2High = 0x1.62e42fefa0000p-1, kLn2Low = 0x1.cf79abc9e3b3ap-40;
  constexpr double kRound = 0x1.8p52;  // adding it leaves the nearest integer in the low bits
  const V shifted = x * kLog2E + kRound, k = shifted - kRound;
  const V r = (x - k * kLn2High) - k * kLn2Low;
  // Taylor's series: |r| <= ln(2) / 2, so the first term left out is below 1e-17.
  V p = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r * r + r + 1.0;
  const V scaled = bit_cast<V>(bit_cast<Bits>(p) + (bit_cast<Bits>(shifted) << 52));
  return x < -708.0 ? V{} : scaled;
}

// The penalty of a wrong answer, (1 - c) / G * q / (d - q), in [0, 1/G] because d >= 2 and q <= 1.
template <class V>
LENS_FN V penalty(V correctness, V q, double d, double group_size) {
  return (1.0 - correctness) / group_size * (q / (d - q));
}

struct GroupInputs {
  const double* mean_logprob;  // [N]
  const int64_t* lengths;      // [N]
  const double* correctness;   // [N]
  const double* rewards;       // [N]
};

struct GroupOutputs {
  double* advantage;              // [N]
  double* calibrated_reward;      // [N]
  double* confidence;             // [N]
  double* importance_difficulty;  // [Q]
  double* difficulty;             // [Q]
  int8_t* group_kind;             // [Q]
};

// Whether one response's scalars, or those of a vector of responses, are what they should be.
template <class V, class Length>
LENS_FN auto is_sound(V mean_logprob, Length length, V correctness, V reward) {
  return length >= 0 && (length == 0 || is_logprob(mean_logprob)) && correctness >= 0.0 && correctness <= 1.0 &&
         reward - reward == 0.0;  // false for infinity and NaN
}

// The first fault of one response's scalars, or kStatusOk.
LENS_FN int64_t check_response(const GroupInputs& in, int64_t i) {
  const double mean = in.mean_logprob[i], c = in.correctness[i];
  if (is_sound(mean, in.lengths[i], c, in.rewards[i])) return kStatusOk;
  if (in.lengths[i] < 0) return make_status(i, Error::kLength, static_cast<double>(in.lengths[i]));
  if (in.lengths[i] > 0 && !is_logprob(mean)) return logprob_status(i, mean);
  if (!(c >= 0.0 && c <= 1.0)) return make_status(i, Error::kCorrectness, c);
  return make_status(i, Error::kReward, in.rewards[i]);
}

// The first fault of an offset array's entry i (segment [offsets[i], offsets[i+1]) of `total` elements), or kStatusOk.
template <class Offset>
LENS_FN int64_t check_offsets(const Offset* offsets, int64_t i, int64_t count, int64_t total, Error code) {
  const int64_t begin = static_cast<int64_t>(offsets[i]), end = static_cast<int64_t>(offsets[i + 1]);
  if (i == 0 && begin != 0) return make_status(i, code, static_cast<double>(begin));
  if (begin < 0 || end < begin || end > total || (i == count - 1 && end != total))
    return make_status(i, code, static_cast<double>(end));
  return kStatusOk;
}

// Group `g`, responses [begin, end). A Crew is the thread, or the threads, that work on one group, each on one response
// at a time or on a vector of them:
//   crew.for_each(begin, end, f)   f(i) for every i, each i always by the same thread
//   crew.sum(begin, end, f), crew.max(begin, end, f)   the same result in every thread
//   crew.load(pointer, i), crew.store(pointer, i, value)   response i's number, or a vector from response i on
//   crew.exp(x), crew.to_double(n)   exp_nonpositive and a conversion, of either
//   crew.leader()   true in one thread
template <class Crew>
LENS_FN void advantages_of_group(const Crew& crew, const GroupInputs& in, const GroupOutputs& out, int64_t g,
                                 int64_t begin, int64_t end, const Config& config) {
  const double size = static_cast<double>(end - begin);
  const auto length = [&](auto i) { return crew.load(in.lengths, i); };
  const auto correctness = [&](auto i) { return crew.load(in.correctness, i); };
  const auto logprob = [&](auto i) {
    return log_confidence(crew.load(in.mean_logprob, i), crew.to_double(length(i)), config.sequence_confidence);
  };

  const double max_c = crew.max(begin, end, correctness);
  const double min_c = -crew.max(begin, end, [&](auto i) { return -correctness(i); });
  const GroupKind kind = min_c < max_c    ? GroupKind::kMixed
                         : min_c == 1.0 ? GroupKind::kPositive
                                        : GroupKind::kNegative;
  const double present = crew.sum(begin, end, [&](auto i) { return length(i) > 0 ? 1.0 : 0.0; });
  const double log_max = crew.max(begin, end, [&](auto i) { return length(i) > 0 ? logprob(i) : -kInf; });
  // Relative confidence, kept where the calibrated reward will be; 1 for the largest even if it is exp(-inf).
  crew.for_each(begin, end, [&](auto i) {
    const auto q = logprob(i) >= log_max ? 1.0 : crew.exp(logprob(i) - log_max);
    crew.store(out.calibrated_reward, i, length(i) > 0 ? q : 0.0);
  });
  const auto q = [&](auto i) { return crew.load(out.calibrated_reward, i); };

  // Eq. 14. Masks select and never multiply, so that 0/0 and 0*inf cannot arise; c/0 = inf makes D_imp 0.
  const double terms =
      crew.sum(begin, end, [&](auto i) { return length(i) > 0 && correctness(i) > 0.0 ? 1.0 : 0.0; });
  const double inverse = crew.sum(begin, end, [&](auto i) {
    return length(i) > 0 && correctness(i) > 0.0 ? correctness(i) / q(i) : 0.0;
  });
  const double d_imp = terms > 0.0 ? size / inverse : kNan;
  const double d = terms > 0.0 && config.importance_difficulty && d_imp > 2.0 ? d_imp : 2.0;

  const bool lens = kind == GroupKind::kMixed ? config.lens_mixed : config.lens_uniform;
  const double largest = present > 0.0 ? crew.exp(log_max) : kNan;
  crew.for_each(begin, end, [&](auto i) {
    const auto plain = crew.load(in.rewards, i), relative = q(i);
    crew.store(out.confidence, i, length(i) > 0 ? crew.exp(logprob(i)) : kNan);
    crew.store(out.calibrated_reward, i, lens ? plain - penalty(correctness(i), relative, d, size) : plain);
  });
  const auto reward = [&](auto i) { return crew.load(out.calibrated_reward, i); };
  const double max_r = crew.max(begin, end, reward);
  const double min_r = -crew.max(begin, end, [&](auto i) { return -reward(i); });
  const double mean = crew.sum(begin, end, reward) / size;
  // A constant group has no signal; rounding in its mean must not become one.
  const bool constant = !(min_r < max_r);
  double scale = config.alpha;
  if (!constant && !(lens && kind != GroupKind::kMixed)) {
    const double squares = crew.sum(begin, end, [&](auto i) { return (reward(i) - mean) * (reward(i) - mean); });
    scale = 1.0 / (sqrt(squares / (size - 1.0)) + kStdEps);
  }
  crew.for_each(begin, end, [&](auto i) {
    const auto advantage = scale * (reward(i) - mean);
    crew.store(out.advantage, i, constant ? decltype(scale * reward(i)){} : advantage);
  });

  if (crew.leader()) {
    out.importance_difficulty[g] = d_imp * largest;
    out.difficulty[g] = d * largest;
    out.group_kind[g] = static_cast<int8_t>(kind);
  }
}

}  // namespace lens
