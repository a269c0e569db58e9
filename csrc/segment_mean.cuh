// Segmented mean of packed log-probabilities. Raw pointers and sizes; no torch.
//
// A block owns a tile of neighbouring responses and goes over it three times: teams of 8 threads reduce the short
// ones, warps the middling ones, the whole block the long ones. Who reduces a response depends on its length alone, and
// all follow lens.h's tree, which goes by position within the response: the result depends neither on the grid nor on
// where the response lies. Consecutive threads read consecutive elements, so loads are coalesced wherever it begins;
// wider loads would need it aligned.
#pragma once

#include "warp.cuh"

namespace lens {

constexpr int kSegmentThreads = 256;
constexpr int kSegmentWarps = kSegmentThreads / kLanes;
constexpr int kSegmentBlocks = 3;  // at least, on one multiprocessor: leaves 80 registers a thread, enough not to spill
constexpr int kTeam = 8;
constexpr int64_t kTeamTokens = 128;           // the longest response that a team reduces
constexpr int64_t kWarpTokens = 4 * kChunk;    // the longest response that a warp reduces
constexpr int kLoads = 8;                      // independent loads in flight per thread

// Responses a block owns: two for each team where responses are short, one for each warp elsewhere.
inline int64_t segment_tile(int64_t total, int64_t responses) {
  return total <= responses * kTeamTokens ? 2 * kSegmentThreads / kTeam : kSegmentWarps;
}

template <class T>
struct Tokens {
  const T* __restrict__ values;
  const bool* __restrict__ mask;  // null: all count
};

// What one thread has seen of a response.
struct Seen {
  int64_t count = 0;
  int64_t fault = kStatusOk;
};

// Sum of [begin, stop), at most one chunk, by a team; the same in each of its threads.
template <int kWidth, class T>
__device__ double chunk_sum(const Team<kWidth>& team, const Tokens<T>& tokens, int64_t begin, int64_t stop,
                            int64_t response, Seen& seen) {
  constexpr int kParts = kLanes / kWidth;  // lanes of the tree that fall to one thread
  static_assert(kLoads % kParts == 0);
  using Wide = decltype(widen(T()));
  double partial[kParts] = {};
  for (int64_t base = begin + team.lane; base < stop; base += kLoads * kWidth) {
    Wide x[kLoads];
    bool selected[kLoads];
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
      const int64_t i = base + u * kWidth;
      selected[u] = i < stop && (tokens.mask == nullptr || tokens.mask[i]);
      x[u] = i < stop ? widen(tokens.values[i]) : Wide(0);
    }
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
      if (selected[u] && !is_logprob(x[u])) {
        const int64_t found = logprob_status(response, x[u]);
        seen.fault = found < seen.fault ? found : seen.fault;
      }
      seen.count += selected[u];
      partial[u % kParts] += selected[u] ? static_cast<double>(clean_logprob(x[u])) : 0.0;
    }
  }
#pragma unroll
  for (int parts = kParts / 2; parts > 0; parts /= 2) {
#pragma unroll
    for (int j = 0; j < parts; ++j) partial[j] += partial[j + parts];
  }
  return team.sum(partial[0]);
}

struct SegmentOutputs {
  double* __restrict__ mean;
  int64_t* __restrict__ lengths;
  unsigned long long* __restrict__ status;

  __device__ void report(int64_t fault) const {
    if (fault != kStatusOk) atomicMin(status, static_cast<unsigned long long>(fault));
  }
  __device__ void write(int64_t response, double sum, int64_t count) const {
    mean[response] = count > 0 ? sum / static_cast<double>(count) : kNan;
    lengths[response] = count;
  }
};

template <class T, class Offset>
__global__ void __launch_bounds__(kSegmentThreads, kSegmentBlocks)
    segment_mean_kernel(Tokens<T> tokens, const Offset* __restrict__ offsets, int64_t total, int64_t responses,
                        int64_t tile, SegmentOutputs out) {
  __shared__ double chunk_sums[kLanes];
  __shared__ int64_t counts[kSegmentWarps];
  const auto warp = Team<kLanes>::mine();
  const auto team = Team<kTeam>::mine();
  const int warp_index = static_cast<int>(threadIdx.x) / kLanes, team_index = static_cast<int>(threadIdx.x) / kTeam;

  for (int64_t first = blockIdx.x * tile; first < responses; first += gridDim.x * tile) {
    const int64_t last = first + tile < responses ? first + tile : responses;

    for (int64_t r = first + team_index; r < last; r += kSegmentThreads / kTeam) {
      const int64_t fault = check_offsets(offsets, r, responses, total, Error::kTokenOffsets);
      if (fault != kStatusOk) {  // the same in the whole team
        if (team.leader()) {
          out.report(fault);
          out.write(r, 0.0, 0);
        }
        continue;
      }
      const int64_t begin = static_cast<int64_t>(offsets[r]), end = static_cast<int64_t>(offsets[r + 1]);
      if (end - begin > kTeamTokens) continue;
      Seen seen;
      const double sum = chunk_sum(team, tokens, begin, end, r, seen);
      out.report(seen.fault);
      const int64_t count = team.sum(seen.count);
      if (team.leader()) out.write(r, sum, count);
    }

    for (int64_t r = first + warp_index; r < last; r += kSegmentWarps) {
      if (check_offsets(offsets, r, responses, total, Error::kTokenOffsets) != kStatusOk) continue;
      const int64_t begin = static_cast<int64_t>(offsets[r]), end = static_cast<int64_t>(offsets[r + 1]);
      if (end - begin <= kTeamTokens || end - begin > kWarpTokens) continue;
      Seen seen;
      double mine = 0.0;  // thread c keeps chunk c's sum
      for (int c = 0; begin + c * kChunk < end; ++c) {
        const int64_t chunk = begin + c * kChunk;
        const double sum = chunk_sum(warp, tokens, chunk, chunk + kChunk < end ? chunk + kChunk : end, r, seen);
        if (warp.lane == c) mine = sum;
      }
      out.report(seen.fault);
      const double sum = warp.sum(mine);
      const int64_t count = warp.sum(seen.count);
      if (warp.leader()) out.write(r, sum, count);
    }

    for (int64_t r = first; r < last; ++r) {  // the whole block takes the same way through here
      if (check_offsets(offsets, r, responses, total, Error::kTokenOffsets) != kStatusOk) continue;
      const int64_t begin = static_cast<int64_t>(offsets[r]), end = static_cast<int64_t>(offsets[r + 1]);
      if (end - begin <= kWarpTokens) continue;
      Seen seen;
      double sum = 0.0;  // the first warp's
      for (int64_t span = begin; span < end; span += kSpan) {
        for (int64_t c = warp_index; c < kLanes && span + c * kChunk < end; c += kSegmentWarps) {
          const int64_t chunk = span + c * kChunk;
          const double part = chunk_sum(warp, tokens, chunk, chunk + kChunk < end ? chunk + kChunk : end, r, seen);
          if (warp.leader()) chunk_sums[c] = part;
        }
        __syncthreads();
        if (warp_index == 0) sum += warp.sum(span + warp.lane * kChunk < end ? chunk_sums[warp.lane] : 0.0);
        __syncthreads();  // chunk_sums is written again
      }
      out.report(seen.fault);
      const int64_t count = warp.sum(seen.count);
      if (warp.leader()) counts[warp_index] = count;
      __syncthreads();
      if (threadIdx.x == 0) {
        int64_t all = 0;
        for (int w = 0; w < kSegmentWarps; ++w) all += counts[w];
        out.write(r, sum, all);
      }
      // counts is written again only after the barriers of the next response's spans.
    }
  }
}

}  // namespace lens
