// Segmented mean of log-probabilities. Raw pointers and sizes; no torch.
//
// The grid is as large as the device: each warp takes every so-manieth response and goes on by itself, so that none
// waits for another's. Neighbours that are all short are reduced four at a time, by teams of 8 threads. What would keep
// one warp longer than its share is left for the end, where the block's warps reduce it together. Whoever reduces a
// response follows lens.h's tree, which goes by position within the response: the result depends neither on that choice
// and the grid nor on where the response lies. Consecutive threads read consecutive elements, so loads are coalesced
// wherever it begins; wider loads would need it aligned.
#pragma once

#include "warp.cuh"

namespace lens {

constexpr int kSegmentThreads = 256;
constexpr int kSegmentWarps = kSegmentThreads / kLanes;
constexpr int kTeam = 8;
constexpr int kTeams = kLanes / kTeam;
constexpr int kTeamTokens = 128;               // the longest response that a team reduces
constexpr int64_t kLeastWarpTokens = 4 * kChunk;  // a warp reduces at least these alone

// How the work is dealt out; it has no influence on the result. For a device that holds `blocks` at once.
struct SegmentPlan {
  int blocks;
  int unit;         // neighbouring responses that a warp takes at once: 1, or kTeams
  int warp_tokens;  // the longest response that a warp reduces alone, at most a span
};

// Blocks on one multiprocessor, as far as registers go: 64 a thread are enough not to spill, but for one kind.
template <class T>
constexpr int segment_blocks(bool masked) {
  return masked && sizeof(T) == 8 ? 2 : 4;
}

inline SegmentPlan segment_plan(int64_t total, int64_t responses, int64_t blocks) {
  const int64_t warps = blocks * kSegmentWarps;
  const int64_t unit = responses > warps && total <= responses * kTeamTokens ? kTeams : 1;
  const int64_t units = (responses + unit - 1) / unit, share = total / warps;
  return {static_cast<int>(units < blocks ? units : blocks), static_cast<int>(unit),
          static_cast<int>(share < kLeastWarpTokens ? kLeastWarpTokens : share > kSpan ? kSpan : share)};
}

template <class T>
struct Tokens {
  const T* __restrict__ values;
  const bool* __restrict__ mask;  // null: all count
};

// What a thread has seen of a response. A value above the tolerance shows in `largest`, a NaN in the sum; which fault it
// was is looked up afterwards, as only broken data asks.
template <class Wide>
struct Seen {
  int count = 0;  // of selected elements, if there is a mask
  Wide largest = Wide(0);
};

__device__ inline float larger(float x, float y) { return fmaxf(x, y); }
__device__ inline double larger(double x, double y) { return fmax(x, y); }

// Consecutive rows of a team: its threads' next elements, all loaded before any is used.
template <int kWidth, bool kMasked, class T>
struct Rows {
  static constexpr int kCount = kMasked || sizeof(T) == 8 ? 4 : 8;  // as many as the registers hold, twice
  static constexpr int kTokens = kCount * kWidth;
  T value[kCount];
  uint8_t selected[kCount];

  // From kSkip elements on, of the `size` that are left for the team's threads, of which this is number `lane`.
  template <int kSkip>
  __device__ void load(const T* values, const uint8_t* mask, int size, int lane) {
    if (size >= kSkip + kTokens) {
#pragma unroll
      for (int u = 0; u < kCount; ++u) value[u] = values[kSkip + u * kWidth];
      if (kMasked) {
#pragma unroll
        for (int u = 0; u < kCount; ++u) selected[u] = mask[kSkip + u * kWidth];
      }
    } else {
#pragma unroll
      for (int u = 0; u < kCount; ++u) value[u] = kSkip + u * kWidth + lane < size ? values[kSkip + u * kWidth] : T{};
      if (kMasked) {
#pragma unroll
        for (int u = 0; u < kCount; ++u) selected[u] = kSkip + u * kWidth + lane < size ? mask[kSkip + u * kWidth] : 0;
      }
    }
  }

  template <class Wide>
  __device__ void add(double* partial, Seen<Wide>& seen) const {
#pragma unroll
    for (int u = 0; u < kCount; ++u) {
      Wide x = widen(value[u]);
      if (kMasked) {
        x = selected[u] != 0 ? x : Wide(0);
        seen.count += selected[u] != 0;
      }
      seen.largest = larger(seen.largest, x);
      partial[u % (kLanes / kWidth)] += static_cast<double>(clean_logprob(x));
    }
  }
};

// Sum of `size` elements by a team, the same in each of its threads: at most a chunk, or with kSpans, by a warp, at most a
// span.
template <bool kSpans, int kWidth, bool kMasked, class T, class Wide>
__device__ double tree_sum(const Team<kWidth>& team, const T* values, const uint8_t* mask, int size,
                           Seen<Wide>& seen) {
  using Batch = Rows<kWidth, kMasked, T>;
  constexpr int kParts = kLanes / kWidth;  // lanes of the tree that fall to one thread
  constexpr int kTokens = Batch::kTokens;
  static_assert(Batch::kCount % kParts == 0 && kParts <= (kSpans ? 1 : kLanes) && kChunk % (2 * kTokens) == 0);
  double partial[kParts] = {};
  double chunks = 0.0;  // thread c keeps chunk c's sum
  values += team.lane;
  if (kMasked) mask += team.lane;
  Batch even, odd;  // two batches are in flight
  even.template load<0>(values, mask, size, team.lane);
#pragma unroll 1
  for (int done = 2 * kTokens;; done += 2 * kTokens) {
    const int left = size - done;
    if (left > -kTokens) odd.template load<kTokens>(values, mask, left + 2 * kTokens, team.lane);
    even.add(partial, seen);
    if (left > 0) even.template load<2 * kTokens>(values, mask, left + 2 * kTokens, team.lane);
    if (left > -kTokens) odd.add(partial, seen);
    values += 2 * kTokens;
    if (kMasked) mask += 2 * kTokens;
    if (left > 0 && (!kSpans || done % kChunk != 0)) continue;
#pragma unroll
    for (int parts = kParts / 2; parts > 0; parts /= 2) {
#pragma unroll
      for (int j = 0; j < parts; ++j) partial[j] += partial[j + parts];
    }
    const double sum = team.sum(partial[0]);
    if (!kSpans || size <= kChunk) return sum;
    partial[0] = 0.0;
    if (team.lane == (done - 1) / static_cast<int>(kChunk)) chunks = sum;
    if (left <= 0) return team.sum(chunks);
  }
}

// The first fault of a response, by those of its elements that are first, first + step, ...
template <class T>
__device__ uint64_t find_fault(const T* values, const uint8_t* mask, int64_t first, int64_t step, int64_t size, int response) {
  uint64_t fault = kStatusOk;
#pragma unroll 1
  for (int64_t i = first; i < size; i += step) {
    if (mask && mask[i] == 0) continue;
    const auto x = widen(values[i]);
    if (is_logprob(x)) continue;
    const uint64_t found = logprob_status(response, x);
    fault = found < fault ? found : fault;
  }
  return fault;
}

template <class Wide>
__device__ bool is_sound_sum(double sum, const Seen<Wide>& seen) {
  return sum == sum && is_logprob(seen.largest);
}

struct SegmentOutputs {
  double* __restrict__ mean;
  int64_t* __restrict__ lengths;
  unsigned long long* __restrict__ status;

  __device__ void report(uint64_t fault) const {
    if (fault != kStatusOk) atomicMin(status, static_cast<unsigned long long>(fault));
  }
  __device__ void write(int64_t response, double sum, int64_t count) const {
    mean[response] = count > 0 ? sum / static_cast<double>(count) : kNan;
    lengths[response] = count;
  }
};

// What the warps of a block share of a response that they reduce together.
struct Together {
  double chunk_sums[kLanes];  // of the span
  int counts[kSegmentWarps];
  bool left_over[kSegmentWarps];  // whether a warp has met a response that is too long for it
  double sum;  // so far, the first thread's
  int64_t count;
};

// The kernel's work, by who does it.
template <class T, bool kMasked>
struct SegmentWork {
  using Wide = decltype(widen(T()));
  Tokens<T> tokens;
  Layout layout;
  SegmentOutputs out;

  // What there is to read of a response; where its offsets are at fault, nothing.
  struct Response {
    uint64_t fault;
    int64_t size;
    const T* values;
    const uint8_t* mask;
  };
  __device__ Response response(int r) const {
    const int64_t begin = layout.offsets.at(r), end = layout.offsets.at(r + 1);
    const uint64_t fault = check_segment(begin, end, r, layout.responses, layout.total, Error::kTokenOffsets);
    return {fault, fault == kStatusOk ? end - begin : 0, tokens.values + layout.first_value(r, begin),
            kMasked ? reinterpret_cast<const uint8_t*>(tokens.mask) + layout.first_mask(r, begin) : nullptr};
  }

  // A response that one team reduces.
  template <int kWidth>
  __device__ void reduce(const Team<kWidth>& team, int r, const Response& which) const {
    const int size = static_cast<int>(which.size);
    Seen<Wide> seen;
    const double sum = tree_sum<kWidth == kLanes, kWidth, kMasked>(team, which.values, which.mask, size, seen);
    if (!is_sound_sum(sum, seen)) out.report(find_fault(which.values, which.mask, team.lane, kWidth, size, r));
    const int count = kMasked ? team.sum(seen.count) : size;
    if (team.leader()) {
      out.report(which.fault);
      out.write(r, sum, count);
    }
  }

  // A response that the whole block reduces, chunk by chunk.
  __device__ void reduce_together(const Team<kLanes>& warp, int warp_index, Together& shared, int r,
                                  const Response& which) const {
    Seen<Wide> seen;
    bool sound = true;
#pragma unroll 1
    for (int64_t span = 0; span < which.size; span += kSpan) {
#pragma unroll 1
      for (int c = warp_index; c < kLanes && span + c * kChunk < which.size; c += kSegmentWarps) {
        const int64_t first = span + c * kChunk, left = which.size - first;
        const double part = tree_sum<false, kLanes, kMasked>(warp, which.values + first, kMasked ? which.mask + first : nullptr,
                                                      static_cast<int>(left < kChunk ? left : kChunk), seen);
        sound = sound && part == part;
        if (warp.leader()) shared.chunk_sums[c] = part;
      }
      if (kMasked) {
        const int count = warp.sum(seen.count);
        seen.count = 0;
        if (warp.leader()) shared.counts[warp_index] = count;
      }
      __syncthreads();
      if (warp_index == 0) {
        const double sum = warp.sum(span + warp.lane * kChunk < which.size ? shared.chunk_sums[warp.lane] : 0.0);
        if (warp.leader()) {
          shared.sum = span == 0 ? sum : shared.sum + sum;
          int64_t count = span == 0 ? 0 : shared.count;
          if (kMasked) {
#pragma unroll 1
            for (int w = 0; w < kSegmentWarps; ++w) count += shared.counts[w];
          }
          shared.count = count;
        }
      }
      __syncthreads();  // all is written again
    }
    if (!sound || !is_logprob(seen.largest)) {
#pragma unroll 1
      for (int64_t c = warp_index; c * kChunk < which.size; c += kSegmentWarps) {  // what this thread has read
        const int64_t end = c * kChunk + kChunk;
        out.report(find_fault(which.values, which.mask, c * kChunk + warp.lane, kLanes,
                              end < which.size ? end : which.size, r));
      }
    }
    if (threadIdx.x == 0) out.write(r, shared.sum, kMasked ? shared.count : which.size);
  }
};

template <class T, bool kMasked>
__global__ void __launch_bounds__(kSegmentThreads, segment_blocks<T>(kMasked))
    segment_mean_kernel(Tokens<T> tokens, Layout layout, int unit, int warp_tokens, SegmentOutputs out) {
  __shared__ Together shared;
  const SegmentWork<T, kMasked> work{tokens, layout, out};
  const auto warp = Team<kLanes>::mine();
  const auto team = Team<kTeam>::mine();
  const int warp_index = static_cast<int>(threadIdx.x) / kLanes, team_index = static_cast<int>(threadIdx.x) % kLanes / kTeam;
  const int responses = static_cast<int>(layout.responses), blocks = static_cast<int>(gridDim.x);
  const int block = static_cast<int>(blockIdx.x);

  // Neighbours go to different blocks, so that a small batch spreads over the device.
  bool left_over = false;
#pragma unroll 1
  for (int first = (warp_index * blocks + block) * unit; first < responses; first += kSegmentWarps * blocks * unit) {
    if (unit == kTeams) {
      const int mine = first + team_index;
      const auto which = mine < responses ? work.response(mine) : typename SegmentWork<T, kMasked>::Response{kStatusOk, 0, nullptr, nullptr};
      if (__ballot_sync(kFullWarp, which.size > kTeamTokens) == 0) {
        if (mine < responses) work.reduce(team, mine, which);
        continue;
      }
    }
#pragma unroll 1
    for (int r = first; r < first + unit && r < responses; ++r) {
      const auto which = work.response(r);
      if (which.size <= warp_tokens)
        work.reduce(warp, r, which);
      else
        left_over = true;
    }
  }
  if (warp.leader()) shared.left_over[warp_index] = left_over;
  __syncthreads();
  bool any = false;
#pragma unroll 1
  for (int w = 0; w < kSegmentWarps; ++w) any = any || shared.left_over[w];
  if (!any) return;  // as nearly always; to look at all offsets again takes long where there are many

  // The whole block takes the same way through here: each warp looks for long responses among the block's, 32 at a time.
  const auto place = [&](int i) { return i % unit + i / unit * unit * blocks; };
#pragma unroll 1
  for (int first = block * unit; first < responses; first += kLanes * blocks) {
    const int mine = first + place(warp.lane);
    unsigned left = __ballot_sync(kFullWarp, mine < responses && work.response(mine).size > warp_tokens);
#pragma unroll 1
    for (; left != 0; left &= left - 1) {
      const int r = first + place(__ffs(static_cast<int>(left)) - 1);
      work.reduce_together(warp, warp_index, shared, r, work.response(r));
    }
  }
}

}  // namespace lens
