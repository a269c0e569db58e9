// Vectors, the choice of an instruction set, and the status word of many threads, for the CPU's loops.
//
// One source serves every instruction set: loops are written with the compiler's vector types, compiled once for each
// set, and chosen when the library is loaded. Contraction is off (setup.py), so all give the same bits.
#pragma once

#include <atomic>
#include <cstdlib>
#include <string_view>

#include "lens.h"

// What a loop is compiled for beside the baseline.
#define LENS_AVX2 target("avx2")
#define LENS_AVX512 target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")

namespace lens {
namespace simd {

#define LENS_INLINE inline __attribute__((always_inline))

constexpr int kWidth = 8;  // elements handled at once
using Floats = float __attribute__((vector_size(4 * kWidth)));
using Doubles = double __attribute__((vector_size(8 * kWidth)));
using Words = uint32_t __attribute__((vector_size(4 * kWidth)));
using Halves = uint16_t __attribute__((vector_size(2 * kWidth)));
using Bytes = uint8_t __attribute__((vector_size(kWidth)));
using Longs = int64_t __attribute__((vector_size(8 * kWidth)));
using Ints = int32_t __attribute__((vector_size(4 * kWidth)));

template <class Vector>
LENS_INLINE Vector read(const void* from) {
  Vector vector;
  memcpy(&vector, from, sizeof vector);
  return vector;
}

// Sum of kLanes lanes by lens.h's halving tree.
LENS_INLINE double tree(const Doubles (&lanes)[kLanes / kWidth]) {
  static_assert(kLanes == 4 * kWidth);
  const Doubles row = (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
  double last[kWidth];
  memcpy(last, &row, sizeof last);
  for (int width = kWidth / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) last[i] += last[i + width];
  return last[0];
}

enum class Level { kBaseline, kAvx2, kAvx512 };

// The best instruction set of this processor; LENS_CPU_LEVEL=baseline|avx2|avx512 sets a bound.
inline Level level() {
  static const Level best = [] {
    Level found = Level::kBaseline;
#if defined(__x86_64__)
    const char* variable = std::getenv("LENS_CPU_LEVEL");
    const std::string_view bound = variable ? variable : "avx512";
    if (bound != "baseline" && __builtin_cpu_supports("avx2")) found = Level::kAvx2;
    if (bound == "avx512" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      found = Level::kAvx512;
#endif
    return found;
  }();
  return best;
}

}  // namespace simd

inline void record(std::atomic<int64_t>& status, int64_t found) {
  int64_t first = status.load(std::memory_order_relaxed);
  while (found < first && !status.compare_exchange_weak(first, found, std::memory_order_relaxed)) {
  }
}

}  // namespace lens
