// Rows of neuron-major tiles of 128: which stay, which are equal, and moving them together.
#include "common.cuh"

constexpr int TILE = 128;

// One block of 1024 threads: list[] the rows with keep[r] != 0 in ascending order, slot[r] where row r goes (NONE
// if it doesn't stay), *kept their number. same[] (null: the identity) sends a row to the one that stands for it.
extern "C" __global__ void __launch_bounds__(1024)
    number(const u8* keep, const u32* same, const u32* count, u32* list, u32* slot, u32* kept) {
  __shared__ u32 totals[32], base;
  const u32 rows = *count, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) base = 0;
  __syncthreads();
  for (u32 start = 0; start < rows; start += 1024) {
    const u32 row = start + threadIdx.x;
    const bool stays = row < rows && keep[row];
    const u32 votes = __ballot_sync(NONE, stays);
    if (lane == 0) totals[warp] = __popc(votes);
    __syncthreads();
    u32 before = base;
    for (u32 w = 0; w < warp; w++) before += totals[w];
    const u32 to = before + __popc(votes & ((1u << lane) - 1));
    if (stays) list[to] = row;
    if (row < rows) slot[row] = stays ? to : NONE;
    __syncthreads();
    if (threadIdx.x == 1023) base = before + __popc(votes);
    __syncthreads();
  }
  if (threadIdx.x == 0) *kept = base;
  if (same) {
    // a row that stands for itself is numbered already, so this reads only entries that no thread writes
    for (u32 row = threadIdx.x; row < rows; row += 1024)
      if (same[row] != row) slot[row] = slot[same[row]];
  }
}

// out row k = in row list[k]; rows past *kept of its last tile become zero. A block moves 8 neurons of a tile.
extern "C" __global__ void gather_rows(const float* in, u64 in_stride, float* out, u64 out_stride, u32 neurons,
                                       const u32* list, const u32* kept) {
  const u32 tile = blockIdx.y, lane = threadIdx.x % TILE;
  if (tile * TILE >= *kept) return;
  const u32 k = tile * TILE + lane;
  const u32 row = k < *kept ? list[k] : NONE;
  const float* from = in + (u64)(row == NONE ? 0 : row / TILE) * in_stride + row % TILE;
  float* to = out + tile * out_stride + lane;
  const u32 step = blockDim.x / TILE;
  u32 n = blockIdx.x * 16 + threadIdx.x / TILE;
  const u32 end = min(neurons, (blockIdx.x + 1) * 16);
  for (; n < end; n += step) to[(u64)n * TILE] = row == NONE ? 0.0f : from[(u64)n * TILE];
}

// hashes[r] += the hash of neurons blockIdx.x·512 … of row r.
extern "C" __global__ void hash_rows(const float* in, u64 in_stride, u32 neurons, const u32* count, u64* hashes) {
  const u32 tile = blockIdx.y, row = tile * TILE + threadIdx.x;
  if (tile * TILE >= *count) return;
  const float* from = in + tile * in_stride + threadIdx.x;
  const u32 end = min(neurons, (blockIdx.x + 1) * 512);
  u64 hash = 0;
  for (u32 n = blockIdx.x * 512; n < end; n++) hash += hash_term(n, from[(u64)n * TILE]);
  atomicAdd(hashes + row, hash);
}

// same[r]: a row with the same hash, the first entered; r itself if that is r or r is dropped (keep[r] = 0).
extern "C" __global__ void match(const u64* hashes, const u8* keep, const u32* count, u64* table, u32 mask, u32 stamp,
                                 u32* same) {
  const u32 row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row < *count) same[row] = keep[row] ? same_hash(hashes, row, table, mask, stamp) : row;
}

// differs[r] = 1 where row r is not bitwise equal to row same[r] in neurons blockIdx.x·512 ….
extern "C" __global__ void verify(const float* in, u64 in_stride, u32 neurons, const u32* count, const u32* same,
                                  u8* differs) {
  const u32 tile = blockIdx.y, row = tile * TILE + threadIdx.x;
  if (row >= *count || same[row] == row) return;
  const u32* a = (const u32*)(in + tile * in_stride + threadIdx.x);
  const u32* b = (const u32*)(in + same[row] / TILE * in_stride + same[row] % TILE);
  const u32 end = min(neurons, (blockIdx.x + 1) * 512);
  bool different = false;
  for (u32 n = blockIdx.x * 512; n < end; n++) different |= a[(u64)n * TILE] != b[(u64)n * TILE];
  if (different) differs[row] = 1;
}

// A row that is equal to another stays no more; one that only had the same hash stands for itself.
extern "C" __global__ void join(const u32* count, u32* same, const u8* differs, u8* keep) {
  const u32 row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= *count || same[row] == row) return;
  if (differs[row])
    same[row] = row;
  else
    keep[row] = 0;
}

// sums[r] of all neurons, each counted copies[n] times (null: once); a thread a row.
extern "C" __global__ void tile_sums(const float* in, u64 in_stride, u32 neurons, const float* copies,
                                     const u32* count, double* sums) {
  const u32 row = blockIdx.x * TILE + threadIdx.x;
  if (row >= *count) return;
  const float* from = in + blockIdx.x * in_stride + threadIdx.x;
  double sum = 0;
  for (u32 n = 0; n < neurons; n++) sum += (double)from[(u64)n * TILE] * (copies ? copies[n] : 1.0f);
  sums[row] = sum;
}

// Row-major rows to tiles; rows past `rows` become zero.
extern "C" __global__ void tile_rows(const float* x, u32 rows, u32 first_row, u32 neurons, float* tiles,
                                     u64 stride, u64 values) {
  for (u64 at = blockIdx.x * (u64)blockDim.x + threadIdx.x; at < values; at += (u64)gridDim.x * blockDim.x) {
    const u64 tile = at / ((u64)neurons * TILE), n = at / TILE % neurons, row = tile * TILE + at % TILE;
    tiles[(first_row / TILE + tile) * stride + n * TILE + at % TILE] = row < rows ? x[row * neurons + n] : 0.0f;
  }
}
