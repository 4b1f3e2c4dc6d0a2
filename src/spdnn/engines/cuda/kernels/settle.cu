// Between two stages of row-major rows: who stands for whom, and which rows are equal.
#include "common.cuh"

// owner[o], for each of `originals` rows, is the computed row that stands for it, NONE where it is dead.
// It follows the last stage: same[] (null: the identity) joined rows before it, slot[] says where they went.
extern "C" __global__ void follow(u32* owner, u32 originals, const u32* same, const u32* slot) {
  for (u32 o = blockIdx.x * blockDim.x + threadIdx.x; o < originals; o += gridDim.x * blockDim.x) {
    u32 row = owner[o];
    if (row != NONE && same) row = same[row];
    owner[o] = row == NONE ? NONE : slot[row];
  }
}

// One warp a row of x (row-major, `neurons` values): same[r] becomes a row bitwise equal to r, itself where
// there is none entered before; list[0 … *listed − 1] the rows that stand for themselves.
extern "C" __global__ void merge(const float* x, u64 stride, u32 neurons, const u64* hashes, const u32* count,
                                 u64* table, u32 mask, u32 stamp, u32* same, u32* list, u32* listed) {
  const u32 lane = threadIdx.x % 32, rows = *count;
  const u32 warps = gridDim.x * blockDim.x / 32;
  for (u32 row = (blockIdx.x * blockDim.x + threadIdx.x) / 32; row < rows; row += warps) {
    u32 other = 0;
    if (lane == 0) other = same_hash(hashes, row, table, mask, stamp);
    other = __shfl_sync(NONE, other, 0);
    if (other != row) {
      const u32* a = (const u32*)(x + row * stride);
      const u32* b = (const u32*)(x + other * stride);
      bool differs = false;
      for (u32 n = lane; n < neurons && !differs; n += 32) differs = a[n] != b[n];
      if (__any_sync(NONE, differs)) other = row;
    }
    if (lane == 0) {
      same[row] = other;
      if (other == row) list[atomicAdd(listed, 1)] = row;
    }
  }
}

// sums[r] of row r; copies[n] is how many neurons of the unfolded layer column n stands for (null: one each).
// One warp a row.
extern "C" __global__ void row_sums(const float* x, u64 stride, u32 neurons, const float* copies, const u32* count,
                                    double* sums) {
  const u32 lane = threadIdx.x % 32, rows = *count;
  const u32 warps = gridDim.x * blockDim.x / 32;
  for (u32 row = (blockIdx.x * blockDim.x + threadIdx.x) / 32; row < rows; row += warps) {
    double sum = 0;
    for (u32 n = lane; n < neurons; n += 32) sum += (double)x[row * stride + n] * (copies ? copies[n] : 1.0f);
    for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(NONE, sum, step);
    if (lane == 0) sums[row] = sum;
  }
}

// flag[o] = 1 for each original row whose computed row sums to more than 0, else 0.
extern "C" __global__ void positive(const u32* owner, u32 originals, const double* sums, u8* flag) {
  for (u32 o = blockIdx.x * blockDim.x + threadIdx.x; o < originals; o += gridDim.x * blockDim.x)
    flag[o] = owner[o] != NONE && sums[owner[o]] > 0.0;
}

// owner[o] = o, and *count = originals.
extern "C" __global__ void everyone(u32* owner, u32 originals, u32* count) {
  for (u32 o = blockIdx.x * blockDim.x + threadIdx.x; o < originals; o += gridDim.x * blockDim.x) owner[o] = o;
  if (blockIdx.x == 0 && threadIdx.x == 0) *count = originals;
}
