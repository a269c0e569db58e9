// The group stage on the CPU: one thread a group, eight responses at a time. Raw pointers and sizes; no torch.
#pragma once

#include <algorithm>

#include "simd.h"

namespace lens {
namespace simd {

// Up to kWidth responses from `first` on.
struct Part {
  int64_t first;
  int count;
};

// One thread as the crew of lens.h's advantages_of_group. Sums follow a warp's tree, so a GPU gives the same bits.
struct VectorCrew {
  template <class F>
  LENS_INLINE void for_each(int64_t begin, int64_t end, F f) const {
    int64_t i = begin;
    for (; i + kWidth <= end; i += kWidth) f(Part{i, kWidth});
    if (i < end) f(Part{i, static_cast<int>(end - i)});
  }
  template <class F>
  LENS_INLINE double sum(int64_t begin, int64_t end, F f) const {
    constexpr int kParts = kLanes / kWidth;
    Doubles partial[kParts] = {};
    for (int64_t row = begin; row < end; row += kLanes)
#pragma GCC unroll 4
      for (int v = 0; v < kParts; ++v) {
        const int64_t first = row + v * kWidth;
        if (first >= end) break;
        const int count = static_cast<int>(std::min<int64_t>(kWidth, end - first));
        partial[v] += keep(f(Part{first, count}), count, 0.0);
      }
    return tree(partial);
  }
  template <class F>
  LENS_INLINE double max(int64_t begin, int64_t end, F f) const {
    Doubles largest = Doubles{} - kInf;
    for_each(begin, end, [&](Part part) {
      const Doubles x = keep(f(part), part.count, -kInf);
      largest = x > largest ? x : largest;
    });
    double row[kWidth];
    memcpy(row, &largest, sizeof row);
    for (int width = kWidth / 2; width > 0; width /= 2)
      for (int lane = 0; lane < width; ++lane) row[lane] = std::max(row[lane], row[lane + width]);
    return row[0];
  }

  LENS_INLINE Doubles load(const double* from, Part part) const { return read_part<Doubles>(from, part); }
  LENS_INLINE Longs load(const int64_t* from, Part part) const { return read_part<Longs>(from, part); }
  LENS_INLINE void store(double* to, Part part, Doubles x) const {
    if (part.count == kWidth)
      memcpy(to + part.first, &x, sizeof x);
    else
      for (int lane = 0; lane < part.count; ++lane) to[part.first + lane] = x[lane];
  }
  LENS_INLINE Doubles exp(Doubles x) const { return exp_nonpositive<Longs>(x); }
  LENS_INLINE double exp(double x) const { return exp_nonpositive<int64_t>(x); }
  LENS_INLINE Doubles to_double(Longs n) const { return __builtin_convertvector(n, Doubles); }
  LENS_INLINE bool leader() const { return true; }

 private:
  template <class Vector, class T>
  LENS_INLINE static Vector read_part(const T* from, Part part) {
    if (part.count == kWidth) return read<Vector>(from + part.first);
    Vector x{};
    for (int lane = 0; lane < part.count; ++lane) x[lane] = from[part.first + lane];
    return x;
  }
  LENS_INLINE static Doubles keep(Doubles x, int count, double otherwise) {
    if (count == kWidth) return x;
    for (int lane = count; lane < kWidth; ++lane) x[lane] = otherwise;
    return x;
  }
};

template <class Offset>
struct Groups {
  const GroupInputs& in;
  const GroupOutputs& out;
  const Offset* offsets;
  int64_t responses, groups;
  const Config& config;
  std::atomic<int64_t>& status;
};

// Groups [from, to).
template <class Offset>
LENS_INLINE void advantages_of_groups(const Groups<Offset>& all, int64_t from, int64_t to) {
  const VectorCrew crew;
  const GroupInputs& in = all.in;
  for (int64_t g = from; g < to; ++g) {
    const int64_t fault = check_offsets(all.offsets, g, all.groups, all.responses, Error::kGroupOffsets);
    if (fault != kStatusOk) {
      record(all.status, fault);
      continue;
    }
    const int64_t begin = all.offsets[g], end = all.offsets[g + 1];
    Longs unsound{};
    crew.for_each(begin, end, [&](Part part) {
      unsound |= !is_sound(crew.load(in.mean_logprob, part), crew.load(in.lengths, part),
                           crew.load(in.correctness, part), crew.load(in.rewards, part));
    });
    int64_t any = 0;
    for (int lane = 0; lane < kWidth; ++lane) any |= unsound[lane];
    if (any)
      for (int64_t i = begin; i < end; ++i) record(all.status, check_response(in, i));
    advantages_of_group(crew, in, all.out, g, begin, end, all.config);
  }
}

// flatten: lens.h's functions are compiled for the instruction set, too.
template <class Offset>
__attribute__((flatten)) void groups_baseline(const Groups<Offset>& all, int64_t from, int64_t to) {
  advantages_of_groups(all, from, to);
}
#if defined(__x86_64__)
template <class Offset>
__attribute__((LENS_AVX2, flatten)) void groups_avx2(const Groups<Offset>& all, int64_t from, int64_t to) {
  advantages_of_groups(all, from, to);
}
template <class Offset>
__attribute__((LENS_AVX512, flatten)) void groups_avx512(const Groups<Offset>& all, int64_t from, int64_t to) {
  advantages_of_groups(all, from, to);
}
#endif

template <class Offset>
auto best_groups() {
#if defined(__x86_64__)
  if (level() == Level::kAvx512) return groups_avx512<Offset>;
  if (level() == Level::kAvx2) return groups_avx2<Offset>;
#endif
  return groups_baseline<Offset>;
}

}  // namespace simd

constexpr int64_t kGroupsPerTask = 256;

// `parallel_for` as in segment_mean_cpu. Returns the first fault, or kStatusOk.
template <class Offset, class ParallelFor>
int64_t group_advantages_cpu(const GroupInputs& in, const GroupOutputs& out, const Offset* offsets, int64_t responses,
                             int64_t groups, const Config& config, const ParallelFor& parallel_for) {
  std::atomic<int64_t> status{kStatusOk};
  const simd::Groups<Offset> all{in, out, offsets, responses, groups, config, status};
  const auto run = simd::best_groups<Offset>();
  parallel_for(0, groups, kGroupsPerTask, [&](int64_t from, int64_t to) { run(all, from, to); });
  return status;
}

}  // namespace lens
