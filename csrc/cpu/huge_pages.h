// Large pages for large new outputs: their first touch then costs a fault for every 2 MiB, not for every 4 KiB, which
// otherwise takes longer than computing them.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace lens {

constexpr uintptr_t kPage = 4096;
constexpr int64_t kHugePage = 1 << 21;

// A request that the kernel may refuse; nothing depends on it.
inline void advise_huge_pages(void* memory, int64_t bytes) {
#if defined(__linux__)
  if (bytes < 2 * kHugePage) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + static_cast<uintptr_t>(bytes)) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

}  // namespace lens
