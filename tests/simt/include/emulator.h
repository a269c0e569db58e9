// Running a kernel in the emulator, from the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace simt {

// Memory a kernel may touch, exactly.
struct Buffer {
  std::string name;
  void* data;
  size_t bytes;
  bool writable;
  bool initialised;  // false: reading before writing is a fault
};

struct Launch {
  std::string kernel;
  unsigned grid = 1;
  unsigned block = 1;
  size_t dynamic_shared = 0;
  uint64_t seed = 0;
  unsigned in_flight = 4;         // blocks that run side by side
  std::vector<unsigned> blocks;   // the blocks to run; empty: all
  uint64_t max_accesses = 200'000'000;  // loads and stores after which a kernel counts as endless
};

// What a device, or one of its checkers, would have found or failed on. Stricter than CUDA in one thing: a thread that
// has returned counts as missing at barriers and in masks.
struct Fault : std::runtime_error {
  Fault(std::string kind, const std::string& message) : std::runtime_error(message), kind(std::move(kind)) {}
  std::string kind;
};

// A kernel and its arguments, which its threads may read.
struct Kernel {
  void (*call)(const void* arguments);
  const void* arguments;
  size_t bytes;
};

// `call(arguments)` calls the kernel itself.
template <class Arguments>
Kernel kernel(const Arguments& arguments, void (*call)(const void*)) {
  return {call, &arguments, sizeof(Arguments)};
}

// Calls the kernel once for every thread of every block. Throws Fault at the first fault.
void run(const Launch& launch, std::vector<Buffer> buffers, const Kernel& kernel);

}  // namespace simt
