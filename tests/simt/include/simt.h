// CUDA's device side for g++: enough of it to compile the project's kernels as they are and run them in the emulator
// (runtime.cpp). Loads and stores need no wrapping: the kernels are compiled with -fsanitize=thread, whose calls
// before each access the emulator answers itself.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

// A call of its own, whose arguments are copied, as a launch does it.
#define __global__ __attribute__((noipa))
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
// A block in flight is an operating-system thread of its own, so that its shared memory is.
#define __shared__ thread_local

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// Vector loads; the emulator checks their alignment.
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};

namespace simt {

dim3 thread_index();
dim3 block_index();
dim3 block_size();
dim3 grid_size();
void sync_threads();

enum class WarpOp { kSync, kIndex, kUp, kDown, kXor, kBallot };

// A warp-wide operation of the calling thread; returns another lane's value or the ballot.
uint64_t warp_op(WarpOp op, unsigned mask, uint64_t value, int argument, int width);
// Around a read-modify-write, which the emulator then knows to be atomic.
void begin_atomic(void* address, unsigned bytes);

template <class T>
T shuffle(WarpOp op, unsigned mask, T value, int argument, int width) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_op(op, mask, bits, argument, width);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// Not instrumented: the emulator is told by begin_atomic.
template <class T, class F>
__attribute__((no_sanitize("thread"), noinline)) T atomic(T* address, F update) {
  begin_atomic(address, sizeof(T));
  const T old = *address;
  *address = update(old);
  return old;
}

}  // namespace simt

#define threadIdx (::simt::thread_index())
#define blockIdx (::simt::block_index())
#define blockDim (::simt::block_size())
#define gridDim (::simt::grid_size())

inline void __syncthreads() { simt::sync_threads(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { simt::warp_op(simt::WarpOp::kSync, mask, 0, 0, 32); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __ballot_sync(unsigned mask, bool vote) {
  return static_cast<unsigned>(simt::warp_op(simt::WarpOp::kBallot, mask, vote, 0, 32));
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  return simt::shuffle(simt::WarpOp::kIndex, mask, value, lane, width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return simt::shuffle(simt::WarpOp::kUp, mask, value, static_cast<int>(delta), width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return simt::shuffle(simt::WarpOp::kDown, mask, value, static_cast<int>(delta), width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  return simt::shuffle(simt::WarpOp::kXor, mask, value, lane_mask, width);
}
template <class T>
T atomicMin(T* address, T value) {
  return simt::atomic(address, [=](T old) { return std::min(old, value); });
}
template <class T>
T atomicMax(T* address, T value) {
  return simt::atomic(address, [=](T old) { return std::max(old, value); });
}
template <class T>
T atomicAdd(T* address, T value) {
  return simt::atomic(address, [=](T old) { return static_cast<T>(old + value); });
}
