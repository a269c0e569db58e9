// Half precision by its bits.
#pragma once

#include "simt.h"

struct __half {
  uint16_t bits;
};

inline float __half2float(__half x) {
  const int exponent = x.bits >> 10 & 31;
  const float fraction = static_cast<float>(x.bits & 1023) / 1024;
  const float magnitude = exponent == 31 ? (fraction > 0 ? NAN : INFINITY)
                          : exponent == 0 ? std::ldexp(fraction, -14)
                                          : std::ldexp(1 + fraction, exponent - 15);
  return x.bits >> 15 ? -magnitude : magnitude;
}
