#include "faults.h"

#include <map>

#include "simt.h"

// Written as kernels are; every thread of the launch runs one of these. At global scope, where dynamic_shared is.

struct Arrays {
  float* numbers;
  int size;
  const float* constants;
};

static int index_in_grid() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }

// ---- sound

static void scale(Arrays a) {
  const int i = index_in_grid();
  if (i < a.size) a.numbers[i] *= a.constants[0];
}

static void block_sum(Arrays a) {
  __shared__ float partial[256];
  const int t = static_cast<int>(threadIdx.x);
  partial[t] = a.constants[t];
  __syncthreads();
  for (int width = static_cast<int>(blockDim.x) / 2; width > 0; width /= 2) {
    if (t < width) partial[t] += partial[t + width];
    __syncthreads();
  }
  if (t == 0) a.numbers[blockIdx.x] = partial[0];
}

static void warp_exchange(Arrays a) {
  __shared__ float cell[256];
  const int t = static_cast<int>(threadIdx.x);
  cell[t] = static_cast<float>(t);
  __syncwarp();
  const float neighbour = cell[t ^ 1];
  const unsigned odd = __ballot_sync(0xffffffffu, t % 2 == 1);
  a.numbers[t] = odd == 0xaaaaaaaau ? neighbour + __shfl_up_sync(0xffffffffu, 1.0f, 1) : -1.0f;
}

static void atomic_total(Arrays a) { atomicAdd(&a.numbers[0], a.constants[0]); }

static void dynamic_reverse(Arrays a) {
  extern __shared__ unsigned char dynamic_shared[];
  float* staged = reinterpret_cast<float*>(dynamic_shared);
  const int t = static_cast<int>(threadIdx.x), n = static_cast<int>(blockDim.x);
  staged[t] = a.constants[t];
  __syncthreads();
  a.numbers[t] = staged[n - 1 - t];
}

static void vector_copy(Arrays a) {
  const int t = static_cast<int>(threadIdx.x);
  reinterpret_cast<float4*>(a.numbers)[t] = reinterpret_cast<const float4*>(a.constants)[t];
}

// ---- faulty

static void barrier_in_a_branch(Arrays a) {
  if (threadIdx.x < blockDim.x / 2) __syncthreads();
  a.numbers[threadIdx.x] = 1.0f;
}

static void barrier_after_return(Arrays a) {
  if (threadIdx.x == 3) return;
  __syncthreads();
  a.numbers[threadIdx.x] = 1.0f;
}

static void shuffle_with_returned_lane(Arrays a) {
  const int t = static_cast<int>(threadIdx.x);
  if (t % 32 == 5) return;
  a.numbers[t] = __shfl_down_sync(0xffffffffu, 1.0f, 1);
}

static void shuffle_outside_its_mask(Arrays a) {
  const int t = static_cast<int>(threadIdx.x);
  if (t % 32 < 16) a.numbers[t] = __shfl_sync(0x0000ffffu, 1.0f, 20);
}

static void shuffle_mask_without_itself(Arrays a) {
  const int t = static_cast<int>(threadIdx.x);
  a.numbers[t] = __shfl_sync(0x0000ffffu, 1.0f, 0);
}

static void shuffle_in_a_branch(Arrays a) {
  const int t = static_cast<int>(threadIdx.x);
  if (t % 32 < 16) a.numbers[t] = __shfl_down_sync(0xffffffffu, 1.0f, 1);
  __syncthreads();
}

static void misaligned_vector(Arrays a) {
  const float4 four = *reinterpret_cast<const float4*>(a.constants + 1 + 4 * threadIdx.x);
  a.numbers[threadIdx.x] = four.x + four.y + four.z + four.w;
}

static void read_past_the_end(Arrays a) {
  const int i = index_in_grid();
  if (i <= a.size) a.numbers[i < a.size ? i : 0] = a.constants[i + 1];
}

static void write_past_the_end(Arrays a) { a.numbers[index_in_grid() + 1] = 1.0f; }

static void write_to_constants(Arrays a) { const_cast<float*>(a.constants)[index_in_grid()] = 1.0f; }

static void vector_across_the_end(Arrays a) {
  const float4 four = *reinterpret_cast<const float4*>(a.constants + 4 * threadIdx.x);
  a.numbers[threadIdx.x] = four.x + four.y + four.z + four.w;
}

static void read_unwritten(Arrays a) {
  const int i = index_in_grid();
  a.numbers[i] = a.numbers[i] + 1.0f;
}

static void read_unwritten_shared(Arrays a) {
  __shared__ float cell[256];
  const int t = static_cast<int>(threadIdx.x);
  if (t > 0) cell[t] = 1.0f;
  __syncthreads();
  a.numbers[t] = cell[t];
}

static void dynamic_beyond_what_was_asked(Arrays a) {
  extern __shared__ unsigned char dynamic_shared[];
  reinterpret_cast<float*>(dynamic_shared)[threadIdx.x + 1] = 1.0f;
  a.numbers[threadIdx.x] = 1.0f;
}

static void block_sum_without_barrier(Arrays a) {
  __shared__ float partial[256];
  const int t = static_cast<int>(threadIdx.x);
  partial[t] = a.constants[t];
  __syncthreads();
  for (int width = static_cast<int>(blockDim.x) / 2; width > 0; width /= 2)
    if (t < width) partial[t] += partial[t + width];
  if (t == 0) a.numbers[blockIdx.x] = partial[0];
}

static void shuffle_as_if_it_ordered_memory(Arrays a) {
  __shared__ float cell[256];
  const int t = static_cast<int>(threadIdx.x);
  cell[t] = 1.0f;
  const float one = __shfl_sync(0xffffffffu, 1.0f, 0);
  a.numbers[t] = one + cell[t ^ 1];
}

static void blocks_write_the_same(Arrays a) { a.numbers[threadIdx.x] = static_cast<float>(blockIdx.x); }

static void plain_total(Arrays a) { a.numbers[0] += a.constants[0]; }

static void atomic_beside_plain(Arrays a) {
  if (threadIdx.x == 0)
    a.numbers[0] = 1.0f;
  else
    atomicAdd(&a.numbers[0], 1.0f);
}

static void plain_before_two_atomics(Arrays a) {
  if (blockIdx.x == 0 && threadIdx.x == 0) a.numbers[0] = 1.0f;
  __syncthreads();
  if (threadIdx.x == 1) atomicAdd(&a.numbers[0], 1.0f);
}

static void endless(Arrays a) {
  volatile float* numbers = a.numbers;
  while (numbers[threadIdx.x] >= 0.0f) {
  }
}

#define EXAMPLE(name) {#name, name}
static const std::map<std::string, void (*)(Arrays)> kExamples = {
    EXAMPLE(scale),
    EXAMPLE(block_sum),
    EXAMPLE(warp_exchange),
    EXAMPLE(atomic_total),
    EXAMPLE(dynamic_reverse),
    EXAMPLE(vector_copy),
    EXAMPLE(barrier_in_a_branch),
    EXAMPLE(barrier_after_return),
    EXAMPLE(shuffle_with_returned_lane),
    EXAMPLE(shuffle_outside_its_mask),
    EXAMPLE(shuffle_mask_without_itself),
    EXAMPLE(shuffle_in_a_branch),
    EXAMPLE(misaligned_vector),
    EXAMPLE(read_past_the_end),
    EXAMPLE(write_past_the_end),
    EXAMPLE(write_to_constants),
    EXAMPLE(vector_across_the_end),
    EXAMPLE(read_unwritten),
    EXAMPLE(read_unwritten_shared),
    EXAMPLE(dynamic_beyond_what_was_asked),
    EXAMPLE(block_sum_without_barrier),
    EXAMPLE(shuffle_as_if_it_ordered_memory),
    EXAMPLE(blocks_write_the_same),
    EXAMPLE(plain_total),
    EXAMPLE(atomic_beside_plain),
    EXAMPLE(plain_before_two_atomics),
    EXAMPLE(endless),
};

namespace simt {

std::vector<std::string> example_names() {
  std::vector<std::string> names;
  for (const auto& [name, kernel] : kExamples) names.push_back(name);
  return names;
}

void run_example(const std::string& name, Launch launch, std::vector<float>& numbers, const std::vector<float>& constants,
                 bool initialised) {
  struct Arguments {
    void (*example)(Arrays);
    Arrays arrays;
  };
  launch.kernel = name;
  const Arguments arguments{kExamples.at(name),
                            {numbers.data(), static_cast<int>(numbers.size()), constants.data()}};
  const std::vector<Buffer> buffers = {
      {"numbers", numbers.data(), numbers.size() * sizeof(float), true, initialised},
      {"constants", const_cast<float*>(constants.data()), constants.size() * sizeof(float), false, true},
  };
  run(launch, buffers, kernel(arguments, [](const void* of) {
        const auto& a = *static_cast<const Arguments*>(of);
        a.example(a.arrays);
      }));
}

}  // namespace simt
