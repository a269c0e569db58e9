// Small kernels with one fault each, and their sound counterparts, for the emulator's own tests.
#pragma once

#include <string>
#include <vector>

#include "emulator.h"

namespace simt {

// Runs kernel `name` on `numbers` (writable; all of it initialised or none) and `constants` (read-only). Throws
// std::out_of_range for an unknown name.
void run_example(const std::string& name, Launch launch, std::vector<float>& numbers, const std::vector<float>& constants,
                 bool initialised);
std::vector<std::string> example_names();

}  // namespace simt
