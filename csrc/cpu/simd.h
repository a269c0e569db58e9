// Vectors, the choice of an instruction set, and the status word of many threads, for the CPU's loops.
//
// One source serves every instruction set: loops.inc is written with the compiler's vector types, compiled once for each
// set, and chosen when the library is loaded. Contraction is off (setup.py), so all give the same bits.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string_view>
#include <type_traits>
#include <utility>

#if defined(__x86_64__) && !defined(__clang__)
#define LENS_X86
#include <immintrin.h>
#endif

#include "lens.h"

namespace lens {

// 16-bit floats by their bits.
struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

inline void record(std::atomic<uint64_t>& status, uint64_t found) {
  uint64_t first = status.load(std::memory_order_relaxed);
  while (found < first && !status.compare_exchange_weak(first, found, std::memory_order_relaxed)) {
  }
}

struct Groups {
  const GroupInputs& in;
  const GroupOutputs& out;
  const Offsets& offsets;
  int64_t responses, groups;
  const Config& config;
  std::atomic<uint64_t>& status;
};

namespace simd {

#define LENS_INLINE inline __attribute__((always_inline))

enum class Level { kBaseline, kAvx2, kAvx512 };

// The best instruction set of this processor; LENS_CPU_LEVEL=baseline|avx2|avx512 sets a bound (extension.py refuses
// other values).
inline Level level() {
  static const Level best = [] {
    Level found = Level::kBaseline;
#if defined(LENS_X86)
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

#define LENS_VECTOR_BYTES 16
namespace baseline {
#include "formulas.inc"
#include "loops.inc"
}  // namespace baseline
#undef LENS_VECTOR_BYTES

// Clang ignores these pragmas; what it compiles has the baseline alone.
#if defined(LENS_X86)
#pragma GCC push_options
#pragma GCC target("avx2")
#define LENS_VECTOR_BYTES 32
namespace avx2 {
#include "formulas.inc"
#include "loops.inc"
}  // namespace avx2
#undef LENS_VECTOR_BYTES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#define LENS_VECTOR_BYTES 64
namespace avx512 {
#include "formulas.inc"
#include "loops.inc"
}  // namespace avx512
#undef LENS_VECTOR_BYTES
#pragma GCC pop_options

// `function` as it was compiled for this processor.
#define LENS_BEST(function)                                  \
  (::lens::simd::level() == ::lens::simd::Level::kAvx512     \
       ? &::lens::simd::avx512::function                     \
       : ::lens::simd::level() == ::lens::simd::Level::kAvx2 \
             ? &::lens::simd::avx2::function                 \
             : &::lens::simd::baseline::function)
#else
#define LENS_BEST(function) (&::lens::simd::baseline::function)
#endif

}  // namespace simd
}  // namespace lens
