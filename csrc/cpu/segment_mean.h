// Segmented mean of packed log-probabilities on the CPU. Raw pointers and sizes; no torch.
//
// The work is split by tokens at the spans of lens.h's tree, so that one long response keeps every thread busy, and the
// result does not depend on the split.
#pragma once

#include <algorithm>
#include <mutex>
#include <vector>

#include "simd.h"

namespace lens {

constexpr int64_t kTokensPerTask = 1 << 15;  // below this a thread costs more than it saves

template <class T>
uint64_t first_fault(const T* values, const bool* mask, int64_t size, int64_t response) {
  for (int64_t i = 0; i < size; ++i) {
    if (mask && !mask[i]) continue;
    // As the vectors do it, so that the same values are refused.
    T one[kLanes] = {values[i]};
    const auto x = simd::baseline::load(one).part[0][0];
    if (!is_logprob(x)) return logprob_status(response, x);
  }
  return kStatusOk;
}

// The last of the responses that begin at `position` or before it, of which there is one.
inline int64_t last_at_or_before(const Offsets& offsets, int64_t responses, int64_t position) {
  int64_t low = 0, high = responses;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (offsets.at(middle) <= position ? low : high) = middle;
  }
  return low;
}

// Consecutive spans of one response, reduced by one task: each span's sum, or the sum of all if they begin with the
// response's first.
struct Piece {
  int64_t response = 0;
  int64_t first_span = 0;
  int64_t count = 0;
  std::vector<double> sums;
};

// `parallel_for(begin, end, grain, f)` calls f on parts of [begin, end), each at least `grain` long if it can be.
template <class T, class ParallelFor>
uint64_t segment_mean_cpu(const T* values, const bool* mask, const Layout& layout, double* mean, int64_t* lengths,
                          const ParallelFor& parallel_for) {
  const Offsets& offsets = layout.offsets;
  int64_t responses = layout.responses, total = layout.total;
  std::atomic<uint64_t> status{kStatusOk};
  for (int64_t r = 0; r < responses; ++r) {
    mean[r] = kNan;
    lengths[r] = 0;
    const uint64_t fault =
        check_segment(offsets.at(r), offsets.at(r + 1), r, responses, total, Error::kTokenOffsets);
    if (fault == kStatusOk) continue;
    // Responses before it are sound, and one of them may have the first fault.
    record(status, fault);
    std::fill(mean + r, mean + responses, kNan);
    std::fill(lengths + r, lengths + responses, 0);
    responses = r;
    total = offsets.at(r);
    break;
  }
  if (responses == 0) return status;

  const auto sum_chunk = LENS_BEST(sum_chunk<T>);
  std::vector<Piece> pieces;
  std::mutex pieces_lock;
  // A task has the spans that begin in [from, to).
  parallel_for(0, total, kTokensPerTask, [&](int64_t from, int64_t to) {
    for (int64_t r = last_at_or_before(offsets, responses, from); r < responses && offsets.at(r) < to; ++r) {
      const int64_t begin = offsets.at(r), end = offsets.at(r + 1);
      const auto tokens = [&](int64_t from) { return values + (layout.first_value(r, begin) + from - begin); };
      const auto selected = [&](int64_t from) {
        return mask ? mask + (layout.first_mask(r, begin) + from - begin) : nullptr;
      };
      const int64_t first = begin >= from ? 0 : (from - begin + kSpan - 1) / kSpan;
      int64_t start = begin + first * kSpan;
      if (start >= std::min(end, to)) continue;
      Piece piece;
      piece.response = r;
      piece.first_span = first;
      double sum = 0.0;
      bool valid = true;
      for (; start < std::min(end, to); start += kSpan) {
        const int64_t stop = std::min(end, start + kSpan);
        double chunks[kLanes] = {};
        for (int64_t chunk = start, c = 0; chunk < stop; chunk += kChunk, ++c)
          chunks[c] = sum_chunk(tokens(chunk), selected(chunk), std::min(kChunk, stop - chunk), piece.count, valid);
        if (stop - start > kChunk)
          for (int width = kLanes / 2; width > 0; width /= 2)
            for (int lane = 0; lane < width; ++lane) chunks[lane] += chunks[lane + width];
        if (first == 0)
          sum += chunks[0];
        else
          piece.sums.push_back(chunks[0]);
        if (!valid) record(status, first_fault(tokens(start), selected(start), stop - start, r));
        valid = true;
      }
      if (first == 0 && start >= end) {
        lengths[r] = piece.count;
        if (piece.count > 0) mean[r] = sum / static_cast<double>(piece.count);
        continue;
      }
      if (first == 0) piece.sums.push_back(sum);
      const std::lock_guard<std::mutex> guard(pieces_lock);
      pieces.push_back(std::move(piece));
    }
  });

  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
    return a.response != b.response ? a.response < b.response : a.first_span < b.first_span;
  });
  for (size_t p = 0; p < pieces.size();) {
    const int64_t r = pieces[p].response;
    double sum = 0.0;
    for (; p < pieces.size() && pieces[p].response == r; ++p) {
      for (const double part : pieces[p].sums) sum += part;
      lengths[r] += pieces[p].count;
    }
    if (lengths[r] > 0) mean[r] = sum / static_cast<double>(lengths[r]);
  }
  return status;
}

}  // namespace lens
