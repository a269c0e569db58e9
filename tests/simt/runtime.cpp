// The emulator. A block in flight is an operating-system thread, its threads are fibres on it, and one fibre of all
// runs at a time, in an order drawn from a seed: a fibre gives way at each barrier, warp operation and atomic, and now
// and then at a load or store. So a fault found once is found again with the same seed.
//
// Loads and stores arrive through the functions that -fsanitize=thread calls (__tsan_*, at the end). For each byte
// that a kernel may write, the last write and the reads since are remembered with the vector clocks of their threads;
// __syncthreads and __syncwarp join clocks. Shuffles do not: CUDA gives them no memory ordering.
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <sstream>
#include <thread>
#include <utility>

#include "emulator.h"
#include "simt.h"

// Functions that leave a stack for another: AddressSanitizer would expect them to return.
#define SIMT_SWITCH __attribute__((noinline, no_sanitize("address")))

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#else
// AddressSanitizer has to know which stack is in use.
inline void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
inline void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
#endif

extern "C" void* __tls_get_addr(size_t*);

// What `extern __shared__ unsigned char dynamic_shared[]` at global scope means.
constexpr size_t kDynamicShared = 48 << 10;
alignas(16) thread_local unsigned char dynamic_shared[kDynamicShared];

namespace simt {
namespace {

constexpr unsigned kWarpSize = 32;
constexpr unsigned kMaxBlock = 1024;
constexpr size_t kStackBytes = 64 << 10;
constexpr unsigned kPreemptOneIn = 64;       // loads and stores before which a fibre gives way
constexpr unsigned kChangeBlockOneIn = 16;   // slices after which another block goes on

struct Access {
  uint32_t block, thread, clock;
};

// One byte that can be written.
struct Cell {
  bool initialised = false;
  bool has_write = false;
  Access write{};
  std::vector<Access> reads, atomics;  // since that write, the last of each thread
};

enum class State { kReady, kAtBarrier, kAtWarpOp, kReturned };

// A fibre's stack; whoever runs over its end meets a page that cannot be touched.
class Stack {
 public:
  Stack() : memory_(mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (memory_ == MAP_FAILED || mprotect(memory_, kGuardBytes, PROT_NONE)) throw std::bad_alloc();
  }
  Stack(Stack&& other) noexcept : memory_(std::exchange(other.memory_, MAP_FAILED)) {}
  Stack& operator=(Stack&&) = delete;
  ~Stack() {
    if (memory_ != MAP_FAILED) munmap(memory_, kGuardBytes + kStackBytes);
  }
  char* get() const { return static_cast<char*>(memory_) + kGuardBytes; }

 private:
  static constexpr size_t kGuardBytes = 64 << 10;  // a page, however large pages are
  void* memory_;
};

struct Fibre {
  unsigned thread = 0;
  State state = State::kReady;
  bool started = false;
  Stack stack;
  void* context[5];  // for __builtin_setjmp, which makes no system call
  void* fake_stack = nullptr;
  std::vector<uint32_t> clock;
  // The warp operation it waits in.
  WarpOp op = WarpOp::kSync;
  unsigned mask = 0;
  uint64_t value = 0;
  int argument = 0, width = 0;
};

struct Machine;

// An operating-system thread that runs one block after the other.
struct Slot {
  Machine* machine;
  unsigned index;
  unsigned block = 0;
  bool live = true;
  std::condition_variable turn;
  std::thread thread;
  std::vector<Fibre> fibres;
  std::vector<unsigned> ready;
  void* scheduler[5];
  void* fake_stack = nullptr;
  const void* stack = nullptr;  // the scheduler's
  size_t stack_bytes = 0;
  ucontext_t entry;
  char* shared_begin = nullptr;
  size_t shared_bytes = 0;
  std::vector<Cell> shared;

  void main();
  void run_block();
  void resume(Fibre& fibre);
  void give_way(Fibre& fibre);
  void make_ready(Fibre& fibre);
  void resolve_barrier();
  bool resolve_warp_op(Fibre& fibre);
  void returned(Fibre& fibre);
  [[noreturn]] void stuck();
};

struct Region {
  const Buffer* buffer;
  std::vector<Cell> cells;  // none for what cannot be written
};

struct Machine {
  const Launch& launch;
  const Kernel& kernel;
  std::vector<Region> regions;
  std::vector<unsigned> queue;  // blocks still to run, the next one last
  std::vector<std::unique_ptr<Slot>> slots;
  std::mutex baton;
  unsigned running = 0;
  std::mt19937_64 random;
  std::optional<Fault> fault;
  uint64_t accesses = 0;

  uint64_t draw(uint64_t below) { return random() % below; }
};

// Only the fibre that runs reads and writes these.
Machine* machine = nullptr;
Slot* slot = nullptr;
Fibre* current = nullptr;

// ---- the module's own segments

struct Module {
  size_t tls_id = 0, tls_bytes = 0;
  std::vector<std::pair<const char*, const char*>> constants;
};

const Module& this_module() {
  static const Module found = [] {
    Module result;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* out) {
          auto& module = *static_cast<Module*>(out);
          const auto here = reinterpret_cast<uintptr_t>(&this_module);
          bool ours = false;
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& header = info->dlpi_phdr[i];
            const uintptr_t begin = info->dlpi_addr + header.p_vaddr;
            if (header.p_type == PT_LOAD && here >= begin && here < begin + header.p_memsz) ours = true;
          }
          if (!ours) return 0;
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& header = info->dlpi_phdr[i];
            const auto* begin = reinterpret_cast<const char*>(info->dlpi_addr + header.p_vaddr);
            if (header.p_type == PT_TLS) {
              module.tls_id = info->dlpi_tls_modid;
              module.tls_bytes = header.p_memsz;
            } else if (header.p_type == PT_LOAD && !(header.p_flags & PF_W)) {
              module.constants.emplace_back(begin, begin + header.p_memsz);
            }
          }
          return 1;
        },
        &result);
    return result;
  }();
  return found;
}

// ---- faults

std::string describe(const void* address, size_t bytes) {
  std::ostringstream text;
  const auto at = reinterpret_cast<uintptr_t>(address);
  const Region* nearest = nullptr;
  uintptr_t least = UINTPTR_MAX;
  for (const auto& region : machine->regions) {
    const auto begin = reinterpret_cast<uintptr_t>(region.buffer->data), end = begin + region.buffer->bytes;
    const uintptr_t distance = at < begin ? begin - at : at >= end ? at - end : 0;
    if (distance < least) least = distance, nearest = &region;
  }
  text << bytes << " bytes at ";
  if (slot && at - reinterpret_cast<uintptr_t>(slot->shared_begin) < slot->shared_bytes)
    text << "byte " << at - reinterpret_cast<uintptr_t>(slot->shared_begin) << " of shared memory";
  else if (nearest)
    text << "byte " << static_cast<int64_t>(at - reinterpret_cast<uintptr_t>(nearest->buffer->data)) << " of "
         << nearest->buffer->name << " (" << nearest->buffer->bytes << " bytes)";
  else
    text << "an unknown address";
  return text.str();
}

SIMT_SWITCH void jump(void** context) { __builtin_longjmp(context, 1); }

// Ends the run: a fibre that calls this never goes on; the scheduler unwinds.
[[noreturn]] void fail(const std::string& kind, const std::string& what, unsigned thread) {
  std::ostringstream text;
  text << machine->launch.kernel << ", block " << slot->block << ", thread " << thread << ": " << what;
  {
    const std::lock_guard lock(machine->baton);
    if (!machine->fault) machine->fault.emplace(kind, text.str());
  }
  if (!current) throw *machine->fault;
  __sanitizer_start_switch_fiber(nullptr, slot->stack, slot->stack_bytes);
  jump(slot->scheduler);
  __builtin_unreachable();
}

// ---- races

bool ordered(const Access& earlier) {
  return earlier.block == slot->block && earlier.clock <= current->clock[earlier.thread];
}

std::string who(const Access& access) {
  return "block " + std::to_string(access.block) + ", thread " + std::to_string(access.thread);
}

// Replaces the thread's own earlier access in `list`.
void remember(std::vector<Access>& list, const Access& mine) {
  for (Access& other : list)
    if (other.block == mine.block && other.thread == mine.thread) {
      other = mine;
      return;
    }
  list.push_back(mine);
}

void check_cell(Cell& cell, const void* address, unsigned bytes, bool write, bool atomic) {
  if ((!write || atomic) && !cell.initialised)
    fail("uninitialised", (atomic ? "updates " : "reads ") + describe(address, bytes) + ", which nothing wrote",
         current->thread);
  const auto races_with = [&](const Access& other, const char* did) {
    if (!ordered(other))
      fail("race", (write ? "writes " : "reads ") + describe(address, bytes) + ", " + did + " by " + who(other) +
                       " with nothing in between that orders them",
           current->thread);
  };
  // Atomics exclude each other, but order nothing: what came before one may still race with what comes after.
  if (cell.has_write) races_with(cell.write, "written");
  if (!atomic)
    for (const Access& other : cell.atomics) races_with(other, "written");
  if (write)
    for (const Access& other : cell.reads) races_with(other, "read");

  const Access mine{slot->block, current->thread, current->clock[current->thread]};
  if (atomic) {
    remember(cell.atomics, mine);
  } else if (write) {
    cell.initialised = cell.has_write = true;
    cell.write = mine;
    cell.reads.clear();
    cell.atomics.clear();
  } else {
    remember(cell.reads, mine);
  }
}

void access(const void* address, unsigned bytes, bool write, bool atomic, bool aligned) {
  if (!current) return;
  const auto at = reinterpret_cast<uintptr_t>(address);
  const auto stack = reinterpret_cast<uintptr_t>(current->stack.get());
  if (at - stack < kStackBytes) return;
  if (++machine->accesses > machine->launch.max_accesses) fail("endless", "the kernel does not come to an end", current->thread);
  if (!atomic && machine->draw(kPreemptOneIn) == 0) slot->give_way(*current);
  const char* verb = write ? "writes " : "reads ";
  if (aligned && at % bytes)
    fail("misaligned", verb + describe(address, bytes) + ": not aligned to " + std::to_string(bytes), current->thread);

  for (Region& region : machine->regions) {
    const auto begin = reinterpret_cast<uintptr_t>(region.buffer->data);
    if (at - begin >= region.buffer->bytes) continue;
    if (at - begin + bytes > region.buffer->bytes)
      fail("bounds", verb + describe(address, bytes) + ": beyond its end", current->thread);
    if (write && !region.buffer->writable)
      fail("bounds", "writes " + describe(address, bytes) + ": it is read-only", current->thread);
    if (region.buffer->writable)
      for (unsigned i = 0; i < bytes; ++i) check_cell(region.cells[at - begin + i], address, bytes, write, atomic);
    return;
  }
  const size_t offset = at - reinterpret_cast<uintptr_t>(slot->shared_begin);
  if (offset < slot->shared_bytes) {
    const size_t dynamic = at - reinterpret_cast<uintptr_t>(dynamic_shared);
    if (dynamic < kDynamicShared && dynamic + bytes > machine->launch.dynamic_shared)
      fail("bounds",
           verb + describe(address, bytes) + ": only " + std::to_string(machine->launch.dynamic_shared) +
               " bytes of dynamic shared memory were asked for",
           current->thread);
    for (unsigned i = 0; i < bytes; ++i) check_cell(slot->shared[offset + i], address, bytes, write, atomic);
    return;
  }
  const auto* byte = static_cast<const char*>(address);
  for (const auto& [begin, end] : this_module().constants)
    if (!write && byte >= begin && byte < end) return;
  fail("bounds", verb + describe(address, bytes) + ": in no array", current->thread);
}

// ---- fibres

void join(const std::vector<Fibre*>& group) {
  std::vector<uint32_t> latest = group.front()->clock;
  for (const Fibre* fibre : group)
    for (size_t i = 0; i < latest.size(); ++i) latest[i] = std::max(latest[i], fibre->clock[i]);
  for (Fibre* fibre : group) {
    fibre->clock = latest;
    ++fibre->clock[fibre->thread];
  }
}

SIMT_SWITCH void fibre_main() {
  __sanitizer_finish_switch_fiber(nullptr, &slot->stack, &slot->stack_bytes);
  machine->kernel.call(machine->kernel.arguments);
  current->state = State::kReturned;
  slot->give_way(*current);
  std::terminate();
}

SIMT_SWITCH void start(Fibre& fibre, ucontext_t& entry) {
  getcontext(&entry);
  entry.uc_stack.ss_sp = fibre.stack.get();
  entry.uc_stack.ss_size = kStackBytes;
  entry.uc_link = nullptr;
  makecontext(&entry, fibre_main, 0);
  setcontext(&entry);
}

void Slot::make_ready(Fibre& fibre) {
  fibre.state = State::kReady;
  ready.push_back(fibre.thread);
}

// From the scheduler to a fibre and back.
SIMT_SWITCH void Slot::resume(Fibre& fibre) {
  current = &fibre;
  __sanitizer_start_switch_fiber(&fake_stack, fibre.stack.get(), kStackBytes);
  if (__builtin_setjmp(scheduler) == 0) {
    if (fibre.started) jump(fibre.context);
    fibre.started = true;
    start(fibre, entry);
  }
  __sanitizer_finish_switch_fiber(slot->fake_stack, nullptr, nullptr);
  current = nullptr;
}

// From a fibre to the scheduler; comes back when the fibre is resumed.
SIMT_SWITCH void Slot::give_way(Fibre& fibre) {
  if (fibre.state == State::kReady) ready.push_back(fibre.thread);
  __sanitizer_start_switch_fiber(&fibre.fake_stack, stack, stack_bytes);
  if (__builtin_setjmp(fibre.context) == 0) jump(scheduler);
  __sanitizer_finish_switch_fiber(current->fake_stack, &slot->stack, &slot->stack_bytes);
}

void Slot::resolve_barrier() {
  std::vector<Fibre*> all;
  for (Fibre& fibre : fibres) {
    if (fibre.state != State::kAtBarrier) return;
    all.push_back(&fibre);
  }
  join(all);
  for (Fibre* fibre : all) make_ready(*fibre);
}

std::vector<Fibre*> lanes_of(std::vector<Fibre>& fibres, unsigned warp, unsigned mask) {
  std::vector<Fibre*> lanes;
  for (unsigned lane = 0; lane < kWarpSize; ++lane)
    if (mask >> lane & 1) lanes.push_back(&fibres[warp * kWarpSize + lane]);
  return lanes;
}

// Finishes the operation that `fibre` waits in if all the lanes it names have come.
bool Slot::resolve_warp_op(Fibre& fibre) {
  const unsigned warp = fibre.thread / kWarpSize;
  const auto lanes = lanes_of(fibres, warp, fibre.mask);
  for (const Fibre* lane : lanes)
    if (lane->state != State::kAtWarpOp || lane->op != fibre.op || lane->mask != fibre.mask) return false;

  unsigned ballot = 0;
  std::vector<uint64_t> results;
  for (const Fibre* lane : lanes) {
    const int me = static_cast<int>(lane->thread % kWarpSize), width = lane->width;
    const int base = me - me % width;
    int from = me;
    switch (lane->op) {
      case WarpOp::kIndex: from = base + ((lane->argument % width) + width) % width; break;
      case WarpOp::kUp: from = me - lane->argument >= base ? me - lane->argument : me; break;
      case WarpOp::kDown: from = me + lane->argument < base + width ? me + lane->argument : me; break;
      case WarpOp::kXor: from = (me ^ lane->argument) < base + width ? me ^ lane->argument : me; break;
      case WarpOp::kBallot: ballot |= static_cast<unsigned>(lane->value != 0) << me; break;
      case WarpOp::kSync: break;
    }
    if (!(lane->mask >> from & 1))
      fail("shuffle", "a shuffle reads lane " + std::to_string(from) + ", which is not in its mask", lane->thread);
    results.push_back(fibres[warp * kWarpSize + static_cast<unsigned>(from)].value);
  }
  if (fibre.op == WarpOp::kSync) join(lanes);
  for (size_t i = 0; i < lanes.size(); ++i) {
    lanes[i]->value = lanes[i]->op == WarpOp::kBallot ? ballot : results[i];
    make_ready(*lanes[i]);
  }
  return true;
}

void Slot::returned(Fibre& fibre) {
  const unsigned warp = fibre.thread / kWarpSize, lane = fibre.thread % kWarpSize;
  for (unsigned t = warp * kWarpSize; t < std::min<size_t>((warp + 1) * kWarpSize, fibres.size()); ++t)
    if (fibres[t].state == State::kAtWarpOp && fibres[t].mask >> lane & 1)
      fail("shuffle", "a warp operation names lane " + std::to_string(lane) + ", which has returned", t);
}

void Slot::stuck() {
  const char* names[] = {"is ready", "waits in __syncthreads", "waits in a warp operation", "has returned"};
  const Fibre* waiting = nullptr;
  for (const Fibre& fibre : fibres)
    if (fibre.state == State::kAtBarrier) waiting = &fibre;
  if (waiting) {
    for (const Fibre& fibre : fibres)
      if (fibre.state != State::kAtBarrier)
        fail("barrier",
             "waits in __syncthreads, which thread " + std::to_string(fibre.thread) + " does not reach: it " +
                 names[static_cast<int>(fibre.state)],
             waiting->thread);
  }
  for (const Fibre& fibre : fibres)
    if (fibre.state == State::kAtWarpOp)
      for (const Fibre* lane : lanes_of(fibres, fibre.thread / kWarpSize, fibre.mask))
        if (lane->state != State::kAtWarpOp || lane->op != fibre.op || lane->mask != fibre.mask)
          fail("shuffle",
               "a warp operation waits for lane " + std::to_string(lane->thread % kWarpSize) + ", which " +
                   (lane->state == State::kAtWarpOp ? "waits in another" : names[static_cast<int>(lane->state)]),
               fibre.thread);
  std::terminate();  // nothing waits and nothing is ready: run_block ends before
}

void Slot::run_block() {
  // Shared memory holds what the block before left there, and must not be read.
  std::memset(shared_begin, 0xa5, shared_bytes);
  shared.assign(shared_bytes, Cell{});
  ready.clear();
  fibres.resize(machine->launch.block);
  for (unsigned t = 0; t < fibres.size(); ++t) {
    Fibre& fibre = fibres[t];
    fibre.thread = t;
    fibre.started = false;
    fibre.clock.assign(fibres.size(), 0);
    fibre.clock[t] = 1;
    make_ready(fibre);
  }
  size_t left = fibres.size();
  while (left) {
    if (ready.empty()) stuck();
    std::swap(ready[machine->draw(ready.size())], ready.back());
    Fibre& fibre = fibres[ready.back()];
    ready.pop_back();
    resume(fibre);
    if (machine->fault) return;
    if (fibre.state == State::kReturned) {
      --left;
      returned(fibre);
    } else if (fibre.state == State::kAtBarrier) {
      resolve_barrier();
    } else if (fibre.state == State::kAtWarpOp) {
      resolve_warp_op(fibre);
    }
    if (machine->slots.size() > 1 && machine->draw(kChangeBlockOneIn) == 0) {
      std::vector<unsigned> others;
      for (const auto& other : machine->slots)
        if (other->live) others.push_back(other->index);
      const unsigned next = others[machine->draw(others.size())];
      if (next != index) {
        std::unique_lock lock(machine->baton);
        machine->running = next;
        machine->slots[next]->turn.notify_one();
        turn.wait(lock, [&] { return machine->running == index || machine->fault; });
        if (machine->fault) return;
        slot = this;
      }
    }
  }
}

void Slot::main() {
  {
    std::unique_lock lock(machine->baton);
    turn.wait(lock, [&] { return machine->running == index || machine->fault; });
  }
  size_t tls[2] = {this_module().tls_id, 0};
  shared_begin = static_cast<char*>(__tls_get_addr(tls));
  shared_bytes = this_module().tls_bytes;
  slot = this;
  while (!machine->fault && !machine->queue.empty()) {
    block = machine->queue.back();
    machine->queue.pop_back();
    try {
      run_block();
    } catch (const Fault&) {
      break;  // the machine has it
    }
  }
  const std::lock_guard lock(machine->baton);
  live = false;
  for (const auto& other : machine->slots)
    if (other->live) {
      machine->running = other->index;
      break;
    }
  for (const auto& other : machine->slots) other->turn.notify_one();
}

}  // namespace

dim3 thread_index() { return {current->thread, 0, 0}; }
dim3 block_index() { return {slot->block, 0, 0}; }
dim3 block_size() { return {machine->launch.block, 1, 1}; }
dim3 grid_size() { return {machine->launch.grid, 1, 1}; }

void sync_threads() {
  Fibre& fibre = *current;
  fibre.state = State::kAtBarrier;
  slot->give_way(fibre);
}

uint64_t warp_op(WarpOp op, unsigned mask, uint64_t value, int argument, int width) {
  Fibre& fibre = *current;
  const unsigned warp = fibre.thread / kWarpSize, lane = fibre.thread % kWarpSize;
  if (!(mask >> lane & 1)) fail("shuffle", "a warp operation's mask leaves its own lane out", fibre.thread);
  if (width < 1 || width > 32 || (width & (width - 1))) fail("shuffle", "width is no power of two", fibre.thread);
  for (unsigned other = 0; other < kWarpSize; ++other) {
    if (!(mask >> other & 1)) continue;
    const unsigned thread = warp * kWarpSize + other;
    if (thread >= slot->fibres.size())
      fail("shuffle", "a warp operation names lane " + std::to_string(other) + ", which does not exist", fibre.thread);
    if (slot->fibres[thread].state == State::kReturned)
      fail("shuffle", "a warp operation names lane " + std::to_string(other) + ", which has returned", fibre.thread);
  }
  fibre.op = op;
  fibre.mask = mask;
  fibre.value = value;
  fibre.argument = argument;
  fibre.width = width;
  fibre.state = State::kAtWarpOp;
  slot->give_way(fibre);
  return fibre.value;
}

void begin_atomic(void* address, unsigned bytes) {
  slot->give_way(*current);
  access(address, bytes, true, true, true);
}

void run(const Launch& launch, std::vector<Buffer> buffers, const Kernel& kernel) {
  if (launch.grid < 1 || launch.block < 1 || launch.block > kMaxBlock || launch.in_flight < 1 ||
      launch.dynamic_shared > kDynamicShared)
    throw std::invalid_argument(launch.kernel + ": a launch that no device accepts");
  buffers.push_back({"the arguments", const_cast<void*>(kernel.arguments), kernel.bytes, false, true});
  Machine run{launch, kernel, {}, launch.blocks, {}, {}, 0, std::mt19937_64(launch.seed), {}, 0};
  for (const Buffer& buffer : buffers) {
    run.regions.push_back({&buffer, {}});
    if (buffer.writable) run.regions.back().cells.resize(buffer.bytes, Cell{buffer.initialised, false, {}, {}, {}});
  }
  if (run.queue.empty())
    for (unsigned block = 0; block < launch.grid; ++block) run.queue.push_back(block);
  std::shuffle(run.queue.begin(), run.queue.end(), run.random);

  machine = &run;
  for (unsigned s = 0; s < std::min<size_t>(launch.in_flight, run.queue.size()); ++s) {
    run.slots.push_back(std::make_unique<Slot>());
    run.slots.back()->machine = &run;
    run.slots.back()->index = s;
  }
  for (const auto& one : run.slots) one->thread = std::thread([&one] { one->main(); });
  for (const auto& one : run.slots) one->thread.join();
  machine = nullptr;
  if (run.fault) throw *run.fault;
}

}  // namespace simt

// ---- what -fsanitize=thread calls

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
#define SIMT_ACCESS(bytes)                                                                              \
  void __tsan_read##bytes(void* at) { simt::access(at, bytes, false, false, true); }                    \
  void __tsan_write##bytes(void* at) { simt::access(at, bytes, true, false, true); }                    \
  void __tsan_unaligned_read##bytes(void* at) { simt::access(at, bytes, false, false, false); }         \
  void __tsan_unaligned_write##bytes(void* at) { simt::access(at, bytes, true, false, false); }
SIMT_ACCESS(1)
SIMT_ACCESS(2)
SIMT_ACCESS(4)
SIMT_ACCESS(8)
SIMT_ACCESS(16)
void __tsan_read_range(void* at, unsigned long bytes) {
  simt::access(at, static_cast<unsigned>(bytes), false, false, false);
}
void __tsan_write_range(void* at, unsigned long bytes) {
  simt::access(at, static_cast<unsigned>(bytes), true, false, false);
}
void __tsan_vptr_update(void**, void*) {}
}
