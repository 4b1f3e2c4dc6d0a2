// Several layers of a tile of ROWS rows without leaving shared memory.
//
// Definitions: ROWS (1, 2, 4, … 32) rows of a tile, THREADS, GROUP (the largest g of any layer: 1 or 8), INDEX.
#include "common.cuh"

constexpr int VECTOR = ROWS < 4 ? ROWS : 4;  // rows a thread computes at a time
constexpr int PARTS = ROWS / VECTOR;
typedef Floats<VECTOR> Values;

__device__ __forceinline__ Values read_bits(const u8* bits, u32 neuron, int part) {
  const u32 at = neuron * ROWS + part * VECTOR;
  const u32 field = bits[at >> 3] >> (at & 7);
  Values x;
#pragma unroll
  for (int v = 0; v < VECTOR; v++) x.at[v] = (field >> v) & 1 ? 1.0f : 0.0f;
  return x;
}

template <bool BITS>
__device__ __forceinline__ Values read(const void* in, u32 neuron, int part) {
  if (BITS) return read_bits((const u8*)in, neuron, part);
  return *(const Values*)((const float*)in + neuron * ROWS + part * VECTOR);
}

// Entries from … to, N at a time, onto the sums of G outputs.
template <bool BITS, int G, int N>
__device__ __forceinline__ void add_entries(const Layer& layer, u64 from, u64 to, const void* in, int part,
                                            float (&sum)[G][VECTOR]) {
  for (u64 k = from; k < to; k += N) {
    const Indices<N> index = *(const Indices<N>*)(layer.index + k);
    float weight[N * G];
#pragma unroll
    for (int e = 0; e < N * G; e += (N * G < 4 ? N * G : 4)) {
      constexpr int W = N * G < 4 ? N * G : 4;
      const Floats<W> w = *(const Floats<W>*)(layer.weight + k * G + e);
#pragma unroll
      for (int q = 0; q < W; q++) weight[e + q] = w.at[q];
    }
#pragma unroll
    for (int n = 0; n < N; n++) {
      const Values x = read<BITS>(in, index.at[n], part);
#pragma unroll
      for (int g = 0; g < G; g++)
#pragma unroll
        for (int v = 0; v < VECTOR; v++) sum[g][v] = fmaf(weight[n * G + g], x.at[v], sum[g][v]);
    }
  }
}

// One layer of the tile. Returns a bit for each of this thread's VECTOR rows with a value that is not zero.
template <bool BITS, int G>
__device__ __forceinline__ u32 compute(const Layer& layer, const void* in, float* out) {
  const int part = threadIdx.x % PARTS;
  u32 alive = 0;
  for (u32 unit = threadIdx.x / PARTS; unit < layer.units; unit += THREADS / PARTS) {
    float sum[G][VECTOR] = {};
    const u64 from = unit_start(layer, unit), to = unit_start(layer, unit + 1);
    if (layer.width % 8 == 0 && layer.width)
      add_entries<BITS, G, (G > 1 ? 2 : 8)>(layer, from, to, in, part, sum);
    else
      add_entries<BITS, G, 2>(layer, from, to, in, part, sum);
#pragma unroll
    for (int g = 0; g < G; g++) {
      const u32 output = layer.output ? layer.output[unit * G + g] : unit;
      if (output == NONE) continue;
      const float bias = layer.bias ? layer.bias[output] : layer.bias0;
      Values y;
#pragma unroll
      for (int v = 0; v < VECTOR; v++) {
        y.at[v] = activate(sum[g][v], bias, layer);
        alive |= (u32)(y.at[v] != 0.0f) << v;
      }
      *(Values*)(out + output * ROWS + part * VECTOR) = y;
    }
  }
  return alive;
}

template <bool BITS>
__device__ __forceinline__ u32 compute_any(const Layer& layer, const void* in, float* out) {
#if GROUP > 1
  if (layer.g == GROUP) return compute<BITS, GROUP>(layer, in, out);
#endif
  return compute<BITS, 1>(layer, in, out);
}

// Layers first … last − 1 of the rows list[0 … *count − 1] (list null: 0 … *count − 1).
//
// The input is `bits` (tiles of ROWS rows, bit neuron·ROWS + row of a tile, `bits_stride` bytes a tile; rows then
// are 0 … *count − 1) or the rows of x (row-major, stride x_stride). Rows that are not dropped are written to
// `kept`, row-major, in no particular order; `slot[r]` is where row r went, NONE if dropped. `early`: a tile
// whose rows are all zero is left as soon as the network allows it. `drop`: zero rows are not kept at the end.
extern "C" __global__ void __launch_bounds__(THREADS)
    fused(const Layer* layers, u32 first, u32 last, const u8* bits, u64 bits_stride, const float* x, u64 x_stride,
          const u32* list, const u32* count, float* kept, u64 kept_stride, u64* hashes, u32* slot, u32* kept_count,
          u32 span, u32 early, u32 drop) {
  extern __shared__ __align__(16) float memory[];
  __shared__ u32 source[ROWS], target[ROWS], alive_rows;
  __shared__ u64 hash[ROWS];
  const u32 rows = *count;
  for (u32 tile = blockIdx.x; tile * ROWS < rows; tile += gridDim.x) {
    __syncthreads();
    const int valid = min((u32)ROWS, rows - tile * ROWS);
    if (threadIdx.x < ROWS) {
      const u32 row = tile * ROWS + threadIdx.x;
      source[threadIdx.x] = (int)threadIdx.x < valid ? (list ? list[row] : row) : NONE;
      hash[threadIdx.x] = 0;
    }
    if (threadIdx.x == 0) alive_rows = 0;
    __syncthreads();
    float *now = memory, *next = memory + span;
    if (bits) {
      const uint4* from = (const uint4*)(bits + tile * bits_stride);
      uint4* to = (uint4*)now;
      for (u32 i = threadIdx.x; i < bits_stride / 16; i += THREADS) to[i] = from[i];
    } else {
      const u32 neurons = layers[first].inputs;
      const u32 row = source[threadIdx.x % ROWS];
      const float* from = x + (u64)(row == NONE ? 0 : row) * x_stride;
      for (u32 n = threadIdx.x / ROWS; n < neurons; n += THREADS / ROWS)
        now[n * ROWS + threadIdx.x % ROWS] = row == NONE ? 0.0f : from[n];
    }
    __syncthreads();
    u32 alive = 0;
    bool dead = false;
    for (u32 l = first; l < last; l++) {
      const Layer layer = layers[l];
      if (bits && l == first)
        alive = compute_any<true>(layer, now, next);
      else
        alive = compute_any<false>(layer, now, next);
      float* swap = now;
      now = next;
      next = swap;
      const bool any = __syncthreads_or(alive);
      if (!any && early && layer.may_drop) {
        dead = true;
        break;
      }
    }
    if (dead) {
      if ((int)threadIdx.x < valid) slot[source[threadIdx.x]] = NONE;
      continue;
    }
    if (alive) atomicOr(&alive_rows, alive << (threadIdx.x % PARTS * VECTOR));
    __syncthreads();
    if (threadIdx.x == 0) {
      u32 keep = valid == 32 ? NONE : (1u << valid) - 1;
      if (drop) keep &= alive_rows;
      u32 free = atomicAdd(kept_count, __popc(keep));
      for (int r = 0; r < ROWS; r++) {
        target[r] = keep >> r & 1 ? free++ : NONE;
        if (r < valid) slot[source[r]] = target[r];
      }
    }
    __syncthreads();
    const u32 neurons = layers[last - 1].outputs;
    const u32 to = target[threadIdx.x % ROWS];
    u64 sum = 0;
    if (to != NONE)
      for (u32 n = threadIdx.x / ROWS; n < neurons; n += THREADS / ROWS) {
        const float value = now[n * ROWS + threadIdx.x % ROWS];
        kept[(u64)to * kept_stride + n] = value;
        sum += hash_term(n, value);
      }
#pragma unroll
    for (int lane = 16; lane >= ROWS; lane /= 2) sum += __shfl_xor_sync(NONE, sum, lane);
    if (threadIdx.x % 32 < ROWS && to != NONE) atomicAdd(&hash[threadIdx.x % ROWS], sum);
    __syncthreads();
    if (threadIdx.x < ROWS && to != NONE) hashes[to] = hash[threadIdx.x];
  }
}
