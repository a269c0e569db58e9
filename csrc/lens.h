// LENS (Feng et al. 2025) for host and device: constants, types, checks, and by way of formulas.inc the formulas. No
// torch in here.
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
  kPreference = 8,     // rho not positive, or not finite
  kNanMean = 9,        // of a response's log-probabilities, given to the group stage
  kPositiveMean = 10,
};

// Outcomes that differ by no more are one outcome, and so are rewards, relative to the largest above 1: rounding (0.1 +
// 0.2 and 0.3) decides no group's kind.
constexpr double kRounding = 1e-9;

enum class GroupKind : int8_t { kNegative = 0, kPositive = 1, kMixed = 2 };

// Of appendix C; a tensor rho is an input instead.
enum class Preference : int64_t { kNone = 0, kLength = 1, kPolicy = 2 };

struct Config {
  double alpha;
  bool lens_mixed;    // mixed groups get LENS's penalty, otherwise GRPO's plain reward
  bool lens_uniform;  // the same for groups of one outcome
  bool sequence_confidence;
  bool importance_difficulty;
  Preference preference;
  double gamma;  // of Preference::kLength
};

// A status is one 64-bit word, so that the first error of many threads is found with an atomic minimum: from the top a
// bit that is set for the group stage's errors, 27 bits of response or group index, 4 bits of code, the value as float.
// All ones where nothing is wrong, which a fill with bytes can set.
constexpr uint64_t kStatusOk = ~uint64_t{0};
constexpr int64_t kMaxIndex = int64_t{1} << 27;

LENS_FN uint64_t make_status(int64_t index, Error code, double value) {
  const float narrow = static_cast<float>(value);
  uint32_t bits;
  memcpy(&bits, &narrow, sizeof bits);
  const uint64_t stage = code >= Error::kGroupOffsets ? uint64_t{1} << 63 : 0;
  return stage | (static_cast<uint64_t>(index) << 36) | (static_cast<uint64_t>(code) << 32) | bits;
}

LENS_FN int64_t status_index(uint64_t status) { return static_cast<int64_t>(status >> 36) & (kMaxIndex - 1); }

// Segment i is [at(i), at(i + 1)): by offsets of either width, or, where there are none, each `width` long.
struct Offsets {
  const int64_t* wide = nullptr;
  const int32_t* narrow = nullptr;
  int64_t width = 0;

  LENS_FN int64_t at(int64_t i) const { return wide ? wide[i] : narrow ? narrow[i] : i * width; }
};

// Where the tokens of responses lie: one response after the other, or a row each of a padded batch, whose values and
// mask may have their rows at any distance.
struct Layout {
  Offsets offsets;
  int64_t responses;
  int64_t total;  // tokens, padding included
  bool rows = false;
  int64_t value_stride = 0, mask_stride = 0;  // of rows

  LENS_FN int64_t first_value(int64_t r, int64_t begin) const { return rows ? r * value_stride : begin; }
  LENS_FN int64_t first_mask(int64_t r, int64_t begin) const { return rows ? r * mask_stride : begin; }
};

struct GroupInputs {
  const double* mean_logprob;  // [N]
  const int64_t* lengths;      // [N]
  const double* correctness;   // [N]
  const double* rewards;       // [N]
  const double* rho;           // [N] or null: appendix C's preference
};

struct GroupOutputs {
  double* advantage;              // [N]
  double* calibrated_reward;      // [N]
  double* confidence;             // [N]
  double* importance_difficulty;  // [Q]
  double* difficulty;             // [Q]
  int8_t* group_kind;             // [Q]
};

LENS_FN bool has_preference(const GroupInputs& in, const Config& config) {
  return in.rho || config.preference != Preference::kNone;
}

#include "formulas.inc"

LENS_FN uint64_t logprob_status(int64_t index, double x) {
  return make_status(index, x != x ? Error::kNanLogprob : Error::kPositiveLogprob, x);
}

// The first fault of one response's scalars, or kStatusOk.
LENS_FN uint64_t check_response(const GroupInputs& in, int64_t i) {
  const double mean = in.mean_logprob[i], c = in.correctness[i];
  const bool preferable = !in.rho || is_preference(in.rho[i]);
  if (is_sound(mean, in.lengths[i], c, in.rewards[i]) && preferable) return kStatusOk;
  if (in.lengths[i] < 0) return make_status(i, Error::kLength, static_cast<double>(in.lengths[i]));
  if (in.lengths[i] > 0 && !is_logprob(mean))
    return make_status(i, mean != mean ? Error::kNanMean : Error::kPositiveMean, mean);
  if (!(c >= 0.0 && c <= 1.0)) return make_status(i, Error::kCorrectness, c);
  if (!(in.rewards[i] - in.rewards[i] == 0.0)) return make_status(i, Error::kReward, in.rewards[i]);
  return make_status(i, Error::kPreference, in.rho[i]);
}

// The fault of segment i = [begin, end) of `count` that share `total` elements, or kStatusOk.
LENS_FN uint64_t check_segment(int64_t begin, int64_t end, int64_t i, int64_t count, int64_t total, Error code) {
  if (i == 0 && begin != 0) return make_status(i, code, static_cast<double>(begin));
  if (begin < 0 || end < begin || end > total || (i == count - 1 && end != total))
    return make_status(i, code, static_cast<double>(end));
  return kStatusOk;
}

}  // namespace lens
