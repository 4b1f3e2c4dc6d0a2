// Rows of neuron-major tiles: which stay, which are equal, and moving them together. The number of rows is on
// the device, so all kernels take any grid. With HALF values are fp16.
#include "values.cuh"

#ifndef ROWS
#define ROWS TILE  // of a tile
#endif

constexpr u32 THREADS = ROWS < 128 ? 128 : ROWS;  // of a block that takes a tile at a time
constexpr u32 ALONG = THREADS / ROWS;             // neurons at a time
// The thread's row of a tile, and which of the neurons taken at a time it has.
__device__ __forceinline__ u32 lane_of() { return ALONG == 1 ? threadIdx.x : threadIdx.x % ROWS; }
__device__ __forceinline__ u32 first_of() { return ALONG == 1 ? 0 : threadIdx.x / ROWS; }
constexpr u32 SLAB = 512;  // neurons a block looks at at a time

// One block of 1024 threads: list[] the rows with keep[r] != 0 in ascending order, slot[r] where row r goes (NONE
// if it doesn't stay), *kept their number, *identity whether all stay. same[] (null: the identity) sends a row to
// the one that stands for it. `keep` has room for a multiple of 16 rows.
extern "C" __global__ void __launch_bounds__(1024) number(const u8* keep, const u32* same, const u32* count, u32* list,
                                                          u32* slot, u32* kept, u32* identity) {
  __shared__ u32 totals[32], base;
  const u32 rows = *count, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) base = 0;
  for (u32 start = 0; start < rows; start += 16 * 1024) {
    const u32 row = start + threadIdx.x * 16;
    u32 stays = 0;  // a bit a row
    if (row < rows) {
      const uint4 flags = *(const uint4*)(keep + row);
      const u32 words[4] = {flags.x, flags.y, flags.z, flags.w};
#pragma unroll
      for (int i = 0; i < 16; i++) stays |= (u32)((words[i / 4] >> i % 4 * 8 & 0xff) != 0) << i;
      if (row + 16 > rows) stays &= (1u << (rows - row)) - 1;
    }
    const u32 mine = __popc(stays);
    u32 upto = mine;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const u32 other = __shfl_up_sync(NONE, upto, step);
      if (lane >= step) upto += other;
    }
    if (lane == 31) totals[warp] = upto;
    __syncthreads();
    u32 to = base + upto - mine;
    for (u32 w = 0; w < warp; w++) to += totals[w];
    if (row < rows) {
      const u32 many = min(16u, rows - row);
      for (u32 i = 0; i < many; i++) {
        const bool stay = stays >> i & 1;
        if (stay) list[to] = row + i;
        slot[row + i] = stay ? to++ : NONE;
      }
    }
    __syncthreads();
    if (threadIdx.x == 1023) base = to;
    __syncthreads();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    *kept = base;
    *identity = base == rows;
  }
  if (same) {
    // a row that stands for itself is numbered already, so this reads only entries that no thread writes
    for (u32 row = threadIdx.x; row < rows; row += 1024)
      if (same[row] != row) slot[row] = slot[same[row]];
  }
}

// out row k = in row list[k] (k itself where *identity); rows past *kept of its last tile become zero.
extern "C" __global__ void gather_rows(const Value* in, u64 in_stride, Value* out, u64 out_stride, u32 neurons,
                                       const u32* list, const u32* identity, const u32* kept) {
  const u32 rows = *kept, lane = threadIdx.x % ROWS, step = blockDim.x / ROWS;
  const u32 slabs = (neurons + 15) / 16, items = (rows + ROWS - 1) / ROWS * slabs;
  for (u32 item = blockIdx.x; item < items; item += gridDim.x) {
    const u32 tile = item / slabs, slab = item - tile * slabs;
    const u32 k = tile * ROWS + lane;
    const u32 row = k < rows ? (*identity ? k : list[k]) : NONE;
    const Value* from = in + (u64)(row == NONE ? 0 : row) / ROWS * in_stride + row % ROWS;
    Value* to = out + tile * out_stride + lane;
    const u32 end = min(neurons, (slab + 1) * 16);
    for (u32 n = slab * 16 + threadIdx.x / ROWS; n < end; n += step)
      to[(u64)n * ROWS] = row == NONE ? Value(0) : from[(u64)n * ROWS];
  }
}

// hashes[r] += the hash of row r.
extern "C" __global__ void hash_rows(const Value* in, u64 in_stride, u32 neurons, const u32* count, u64* hashes) {
  const u32 slabs = (neurons + SLAB - 1) / SLAB, items = (*count + ROWS - 1) / ROWS * slabs;
  const u32 lane = lane_of();
  for (u32 item = blockIdx.x; item < items; item += gridDim.x) {
    const u32 tile = item / slabs, slab = item - tile * slabs;
    const Value* from = in + tile * in_stride + lane;
    const u32 end = min(neurons, (slab + 1) * SLAB);
    u64 hash = 0;
    for (u32 n = slab * SLAB + first_of(); n < end; n += ALONG)
      hash += hash_term(n, to_float(from[(u64)n * ROWS]));
    atomicAdd(hashes + tile * ROWS + lane, hash);
  }
}

// same[r]: a row with the same hash, the first entered; r itself if that is r or r is dropped (keep[r] = 0).
extern "C" __global__ void match(const u64* hashes, const u8* keep, const u32* count, u64* table, u32 mask, u32 stamp,
                                 u32* same) {
  for (u32 row = blockIdx.x * blockDim.x + threadIdx.x; row < *count; row += gridDim.x * blockDim.x)
    same[row] = keep[row] ? same_hash(hashes, row, table, mask, stamp) : row;
}

// differs[r] = 1 where row r is not bitwise equal to row same[r].
extern "C" __global__ void verify(const Value* in, u64 in_stride, u32 neurons, const u32* count, const u32* same,
                                  u8* differs) {
  const u32 rows = *count, slabs = (neurons + SLAB - 1) / SLAB, items = (rows + ROWS - 1) / ROWS * slabs;
  const u32 lane = lane_of();
  for (u32 item = blockIdx.x; item < items; item += gridDim.x) {
    const u32 tile = item / slabs, slab = item - tile * slabs, row = tile * ROWS + lane;
    if (row >= rows || same[row] == row) continue;
    const Pattern* a = (const Pattern*)(in + tile * in_stride + lane);
    const Pattern* b = (const Pattern*)(in + same[row] / ROWS * in_stride + same[row] % ROWS);
    const u32 end = min(neurons, (slab + 1) * SLAB);
    bool different = false;
    for (u32 n = slab * SLAB + first_of(); n < end; n += ALONG)
      different |= a[(u64)n * ROWS] != b[(u64)n * ROWS];
    if (different) differs[row] = 1;
  }
}

// A row that is equal to another stays no more; one that only had the same hash stands for itself.
extern "C" __global__ void join(const u32* count, u32* same, const u8* differs, u8* keep) {
  for (u32 row = blockIdx.x * blockDim.x + threadIdx.x; row < *count; row += gridDim.x * blockDim.x) {
    if (same[row] == row) continue;
    if (differs[row])
      same[row] = row;
    else
      keep[row] = 0;
  }
}

// sums[slice·capacity + r]: the sum of row r over a slice of the neurons, each counted copies[n] times (null: once).
extern "C" __global__ void slice_sums(const Value* in, u64 in_stride, u32 neurons, const float* copies,
                                      const u32* count, u32 slices, u64 capacity, double* sums) {
  __shared__ double of_threads[THREADS];
  const u32 items = (*count + ROWS - 1) / ROWS * slices, lane = lane_of();
  for (u32 item = blockIdx.x; item < items; item += gridDim.x) {
    const u32 tile = item / slices, slice = item - tile * slices;
    const Value* from = in + tile * in_stride + lane;
    const u32 end = (u64)neurons * (slice + 1) / slices;
    double sum = 0;
    for (u32 n = (u64)neurons * slice / slices + first_of(); n < end; n += ALONG)
      sum += (double)to_float(from[(u64)n * ROWS]) * (copies ? copies[n] : 1.0f);
    if (ALONG > 1) {
      __syncthreads();
      of_threads[threadIdx.x] = sum;
      __syncthreads();
      if (threadIdx.x >= ROWS) continue;
      for (u32 i = 1; i < ALONG; i++) sum += of_threads[i * ROWS + lane];
    }
    sums[slice * capacity + tile * ROWS + lane] = sum;
  }
}

// sums[r] = the sum of its slices, in their order.
extern "C" __global__ void add_slices(const u32* count, u32 slices, u64 capacity, double* sums) {
  for (u32 row = blockIdx.x * blockDim.x + threadIdx.x; row < *count; row += gridDim.x * blockDim.x) {
    double sum = 0;
    for (u32 slice = 0; slice < slices; slice++) sum += sums[slice * capacity + row];
    sums[row] = sum;
  }
}

// Row-major rows to tiles; rows past `rows` become zero.
extern "C" __global__ void tile_rows(const float* x, u32 rows, u32 first_row, u32 neurons, Value* tiles,
                                     u64 stride, u64 values) {
  for (u64 at = blockIdx.x * (u64)blockDim.x + threadIdx.x; at < values; at += (u64)gridDim.x * blockDim.x) {
    const u64 tile = at / ((u64)neurons * ROWS), n = at / ROWS % neurons, row = tile * ROWS + at % ROWS;
    tiles[(first_row / ROWS + tile) * stride + n * ROWS + at % ROWS] = to_value(row < rows ? x[row * neurons + n] : 0.0f);
  }
}
