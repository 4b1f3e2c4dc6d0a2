// What kernels share that keep a tile of ROWS rows in shared memory: rows to the tile and back.
#include "turn.cuh"

constexpr u32 WORDS = sizeof(Layer) / 4;

// Rows and tiles: thread t has row t % ROWS and of it four neurons at a time. In which order it takes the four
// depends on its neighbours, so that the threads of a warp use all banks.
__device__ __forceinline__ int turned(int j) {
  const int along = threadIdx.x / ROWS;
  return ROWS == 32 ? j : j ^ (ROWS == 4 ? along >> 1 & 3 : ROWS == 8 ? along & 3 : along & 1);
}
__device__ __forceinline__ float part(float4 v, int j) { return j & 2 ? (j & 1 ? v.w : v.z) : (j & 1 ? v.y : v.x); }

// The row `from` (null: zeros) of so many neurons, to the tile: put(neuron, value) for the thread's row. aligned: four at
// a time can be loaded.
template <class Put>
__device__ __forceinline__ void load_row(const float* from, u32 neurons, bool aligned, const Put& put) {
#pragma unroll 4
  for (u32 n = threadIdx.x / ROWS * 4; n < neurons; n += THREADS / ROWS * 4) {
    float4 v = make_float4(0, 0, 0, 0);
    if (from && aligned && n + 4 <= neurons) {
      v = *(const float4*)(from + n);
    } else if (from) {
      v.x = from[n];
      if (n + 1 < neurons) v.y = from[n + 1];
      if (n + 2 < neurons) v.z = from[n + 2];
      if (n + 3 < neurons) v.w = from[n + 3];
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int j = turned(i);
      if (n + j < neurons) put(n + j, part(v, j));
    }
  }
}

// The thread's row of the tile, value(neuron), to `to`, which is aligned and padded to four values. Returns its part of
// the row's hash where that is asked for.
template <class Value>
__device__ __forceinline__ u64 keep_row(const Value& value, u32 neurons, float* to, bool hashed) {
  u64 sum = 0;
#pragma unroll 4
  for (u32 n = threadIdx.x / ROWS * 4; n < neurons; n += THREADS / ROWS * 4) {
    float4 v = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int j = turned(i);
      if (n + j >= neurons) continue;
      const float found = value(n + j);
      (j & 2 ? (j & 1 ? v.w : v.z) : (j & 1 ? v.y : v.x)) = found;
      if (hashed) sum += hash_term(n + j, found);
    }
    *(float4*)(to + n) = v;
  }
  return sum;
}

// The rows of a tile, in shared memory: where they come from, and where those go that are kept.
struct Ending {
  u32 source[ROWS], target[ROWS];
  u64 hash[ROWS];

  // Rows list[row] … (list null: row …), of which `valid` are.
  __device__ __forceinline__ void begin(u32 row, int valid, const u32* list) {
    if (threadIdx.x >= ROWS) return;
    row += threadIdx.x;
    source[threadIdx.x] = (int)threadIdx.x < valid ? (list ? list[row] : row) : NONE;
    hash[threadIdx.x] = 0;
  }

  __device__ __forceinline__ void drop(int valid, u32* slot) const {
    if ((int)threadIdx.x < valid) slot[source[threadIdx.x]] = NONE;
  }

  // Room for the rows with a bit in `wanted`; the block waits.
  __device__ __forceinline__ void claim(int valid, u32 wanted, u32* kept_count, u32* slot) {
    if (threadIdx.x < 32) {
      const u32 keep = (valid == 32 ? NONE : (1u << valid) - 1) & wanted;
      u32 free = 0;
      if (threadIdx.x == 0) free = atomicAdd(kept_count, __popc(keep));
      free = __shfl_sync(NONE, free, 0);
      const u32 to = keep >> threadIdx.x & 1 ? free + __popc(keep & ((1u << threadIdx.x) - 1)) : NONE;
      if (threadIdx.x < ROWS) target[threadIdx.x] = to;
      if ((int)threadIdx.x < valid) slot[source[threadIdx.x]] = to;
    }
    __syncthreads();
  }

  // The thread's row, value(neuron), to its room; its hash where `hashes` isn't null.
  template <class Value>
  __device__ __forceinline__ void keep(const Value& value, u32 neurons, float* kept, u64 kept_stride, u64* hashes) {
    const u32 to = target[threadIdx.x % ROWS];
    u64 sum = to == NONE ? 0 : keep_row(value, neurons, kept + (u64)to * kept_stride, hashes);
    if (!hashes) return;
#pragma unroll
    for (int lane = 16; lane >= ROWS; lane /= 2) sum += __shfl_xor_sync(NONE, sum, lane);
    if (threadIdx.x % 32 < ROWS && to != NONE) atomicAdd(&hash[threadIdx.x % ROWS], sum);
    __syncthreads();
    if (threadIdx.x < ROWS && to != NONE) hashes[to] = hash[threadIdx.x];
  }
};
