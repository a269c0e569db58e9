// Half precision by its bits; the conversion is the compiler's.
#pragma once

#include "simt.h"

struct __half {
  uint16_t bits;
};

inline float __half2float(__half x) {
  _Float16 value;
  std::memcpy(&value, &x.bits, sizeof value);
  return static_cast<float>(value);
}
