// Segmented mean of packed log-probabilities on the CPU. Raw pointers and sizes; no torch.
//
// The work is split by tokens at the spans of lens.h's tree, so that one long response keeps every thread busy, and the
// result does not depend on the split.
#pragma once

#include <algorithm>
#include <mutex>
#include <vector>

#include "simd.h"

namespace lens {

// 16-bit floats by their bits.
struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

constexpr int64_t kTokensPerTask = 1 << 15;  // below this a thread costs more than it saves

namespace simd {

LENS_INLINE Doubles load(const double* from) { return read<Doubles>(from); }
LENS_INLINE Floats load(const float* from) { return read<Floats>(from); }
LENS_INLINE Floats load(const Bf16* from) { return bit_cast<Floats>(__builtin_convertvector(read<Halves>(from), Words) << 16); }
LENS_INLINE Floats load(const Fp16* from) {
  const Words half = __builtin_convertvector(read<Halves>(from), Words);
  const Words magnitude = (half & 0x7fffu) << 13, exponent = half & 0x7c00u;
  // Rebias the exponent; infinity and NaN have the largest one; subnormal halves are normal floats.
  const Words normal = magnitude + (112u << 23);
  const Words special = normal + (112u << 23);
  const Floats subnormal = bit_cast<Floats>(magnitude + (113u << 23)) - bit_cast<Floats>(Words{} + (113u << 23));
  Words result = exponent == 0x7c00u ? special : normal;
  result = exponent == 0u ? bit_cast<Words>(subnormal) : result;
  return bit_cast<Floats>(result | (half & 0x8000u) << 16);
}

LENS_INLINE Doubles widen(Floats x) { return __builtin_convertvector(x, Doubles); }
LENS_INLINE Doubles widen(Doubles x) { return x; }

LENS_INLINE Floats select(Bytes mask, Floats x) { return __builtin_convertvector(mask, Ints) != 0 ? x : Floats{}; }
LENS_INLINE Doubles select(Bytes mask, Doubles x) { return __builtin_convertvector(mask, Longs) != 0 ? x : Doubles{}; }

// Sums and the largest element of one chunk so far. A NaN shows in the sums.
template <class T>
struct Accumulator {
  using Vector = decltype(load(static_cast<const T*>(nullptr)));
  Doubles lanes[kLanes / kWidth] = {};
  Vector largest = Vector{};

  // kLanes elements; `mask` may be null.
  LENS_INLINE void add(const T* values, const bool* mask) {
#pragma GCC unroll 4
    for (int v = 0; v < kLanes / kWidth; ++v) {
      Vector x = load(values + v * kWidth);
      if (mask) x = select(read<Bytes>(mask + v * kWidth), x);
      largest = x > largest ? x : largest;
      x = x > 0 ? Vector{} : x;
      lanes[v] += widen(x);
    }
  }

  LENS_INLINE double sum() { return tree(lanes); }

  LENS_INLINE bool valid(double sum) const {
    bool valid = sum == sum;
    for (int i = 0; i < kWidth; ++i) valid &= is_logprob(largest[i]);
    return valid;
  }
};

// Sum of one chunk by lens.h's tree. `mask` may be null. Clears `valid` at a value that is no log-probability.
template <class T>
LENS_INLINE double sum_chunk(const T* values, const bool* mask, int64_t size, bool& valid) {
  Accumulator<T> sums;
  int64_t i = 0;
  if (mask)
    for (; i + kLanes <= size; i += kLanes) sums.add(values + i, mask + i);
  else
    for (; i + kLanes <= size; i += kLanes) sums.add(values + i, nullptr);
  if (i < size) {
    T tail[kLanes] = {};
    bool tail_mask[kLanes] = {};
    std::copy(values + i, values + size, tail);
    if (mask) std::copy(mask + i, mask + size, tail_mask);
    sums.add(tail, mask ? tail_mask : nullptr);
  }
  const double sum = sums.sum();
  valid &= sums.valid(sum);
  return sum;
}

template <class T>
using SumChunk = double (*)(const T*, const bool*, int64_t, bool&);

template <class T>
double sum_chunk_baseline(const T* values, const bool* mask, int64_t size, bool& valid) {
  return sum_chunk(values, mask, size, valid);
}

#if defined(__x86_64__)
template <class T>
__attribute__((LENS_AVX2)) double sum_chunk_avx2(const T* values, const bool* mask, int64_t size, bool& valid) {
  return sum_chunk(values, mask, size, valid);
}
template <class T>
__attribute__((LENS_AVX512)) double sum_chunk_avx512(
    const T* values, const bool* mask, int64_t size, bool& valid) {
  return sum_chunk(values, mask, size, valid);
}
#endif

template <class T>
SumChunk<T> best_sum_chunk() {
#if defined(__x86_64__)
  if (level() == Level::kAvx512) return sum_chunk_avx512<T>;
  if (level() == Level::kAvx2) return sum_chunk_avx2<T>;
#endif
  return sum_chunk_baseline<T>;
}

}  // namespace simd

template <class T>
int64_t first_fault(const T* values, const bool* mask, int64_t begin, int64_t end, int64_t response) {
  for (int64_t i = begin; i < end; ++i) {
    if (mask && !mask[i]) continue;
    // As the vectors do it, so that the same values are refused.
    T one[simd::kWidth] = {values[i]};
    const auto x = simd::load(one)[0];
    if (!is_logprob(x)) return logprob_status(response, x);
  }
  return kStatusOk;
}

// Consecutive spans of one response, reduced by one task: each span's sum, or the sum of all if they begin with the
// response's first.
struct Piece {
  int64_t response = 0;
  int64_t first_span = 0;
  int64_t count = 0;
  std::vector<double> sums;
};

// `parallel_for(begin, end, grain, f)` calls f on parts of [begin, end), each at least `grain` long if it can be.
template <class T, class Offset, class ParallelFor>
int64_t segment_mean_cpu(const T* values, const Offset* offsets, const bool* mask, int64_t total, int64_t responses,
                         double* mean, int64_t* lengths, const ParallelFor& parallel_for) {
  std::atomic<int64_t> status{kStatusOk};
  for (int64_t r = 0; r < responses; ++r) {
    mean[r] = kNan;
    lengths[r] = 0;
    const int64_t fault = check_offsets(offsets, r, responses, total, Error::kTokenOffsets);
    if (fault == kStatusOk) continue;
    // Responses before it are sound, and one of them may have the first fault.
    record(status, fault);
    total = r > 0 ? static_cast<int64_t>(offsets[r]) : 0;
    responses = r;
    break;
  }

  const simd::SumChunk<T> sum_chunk = simd::best_sum_chunk<T>();
  std::vector<Piece> pieces;
  std::mutex pieces_lock;
  // A task has the spans that begin in [from, to).
  parallel_for(0, total, kTokensPerTask, [&](int64_t from, int64_t to) {
    int64_t r = std::upper_bound(offsets, offsets + responses, static_cast<Offset>(from)) - offsets - 1;
    for (; r < responses && offsets[r] < to; ++r) {
      const int64_t begin = offsets[r], end = offsets[r + 1];
      const int64_t first = begin >= from ? 0 : (from - begin + kSpan - 1) / kSpan;
      int64_t start = begin + first * kSpan;
      if (start >= std::min(end, to)) continue;
      Piece piece;
      piece.response = r;
      piece.first_span = first;
      double sum = 0.0;
      bool valid = true;
      for (; start < std::min(end, to); start += kSpan) {
        const int64_t stop = std::min(end, start + kSpan);
        double chunks[kLanes] = {};
        for (int64_t chunk = start, c = 0; chunk < stop; chunk += kChunk, ++c)
          chunks[c] = sum_chunk(values + chunk, mask ? mask + chunk : nullptr, std::min(kChunk, stop - chunk), valid);
        if (stop - start > kChunk)
          for (int width = kLanes / 2; width > 0; width /= 2)
            for (int lane = 0; lane < width; ++lane) chunks[lane] += chunks[lane + width];
        if (first == 0)
          sum += chunks[0];
        else
          piece.sums.push_back(chunks[0]);
        piece.count += mask ? std::count(mask + start, mask + stop, true) : stop - start;
        if (!valid) record(status, first_fault(values, mask, start, stop, r));
        valid = true;
      }
      if (first == 0 && start >= end) {
        lengths[r] = piece.count;
        if (piece.count > 0) mean[r] = sum / static_cast<double>(piece.count);
        continue;
      }
      if (first == 0) piece.sums.push_back(sum);
      const std::lock_guard<std::mutex> guard(pieces_lock);
      pieces.push_back(std::move(piece));
    }
  });

  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
    return a.response != b.response ? a.response < b.response : a.first_span < b.first_span;
  });
  for (size_t p = 0; p < pieces.size();) {
    const int64_t r = pieces[p].response;
    double sum = 0.0;
    for (; p < pieces.size() && pieces[p].response == r; ++p) {
      for (const double part : pieces[p].sums) sum += part;
      lengths[r] += pieces[p].count;
    }
    if (lengths[r] > 0) mean[r] = sum / static_cast<double>(lengths[r]);
  }
  return status;
}

}  // namespace lens
