// Several layers of a tile of ROWS rows without leaving shared memory.
//
// Definitions: ROWS (4, 8, 16, 32) rows of a tile, QUADS (1, 2, 4) groups of four rows that a thread computes at a time,
// THREADS, BLOCKS of a multiprocessor, PITCH (0, or the floats from one row to the next of the block's next tile, which is
// brought in row by row while a tile is computed), GROUP (the largest g of any layer: 1 or 8), INDEX. QUADS = 4 is for 16 rows,
// g = 1 and layers that have the second form; TAKEN (14 or, by default, all) of the rows are then used, 14 where
// neighbouring outputs read the same inputs: a last quarter of two rows is a load of half the size. Not for bits.
#include "tile.cuh"

#ifndef TAKEN
#define TAKEN ROWS
#endif
constexpr int PARTS = ROWS / (4 * QUADS);  // threads that share a unit
constexpr int ALONG = THREADS / PARTS;     // units at a time
constexpr int STEP = 8;
constexpr bool AHEAD = THREADS * BLOCKS < 1024;  // there are registers to bring entries in before they are needed

// The rows of a quad: neighbours take them in different orders, so that the threads of a warp use more banks.
__device__ __forceinline__ int quad_row(int q) {
  if (QUADS == 1) return threadIdx.x % PARTS * 4;
  if (QUADS == 4) return (TAKEN < ROWS ? q : q ^ (threadIdx.x & 3)) * 4;
  return threadIdx.x % PARTS * 8 + (q ^ (threadIdx.x / PARTS & 1)) * 4;
}

template <bool BITS>
__device__ __forceinline__ float4 read(const void* in, u32 neuron, int row) {
  const u32 at = neuron * ROWS + row;
  if (!BITS) return *(const float4*)((const float*)in + at);
  return four_bits(((const u8*)in)[at >> 3] >> (at & 7));
}

// Entries from … to, N at a time, onto the sums of G outputs.
template <bool BITS, int G, int N>
__device__ __forceinline__ void add_entries(const Layer& layer, u64 from, u64 to, const void* in,
                                            float4 (&sum)[G][QUADS]) {
  constexpr int W = N * G < 4 ? N * G : 4;  // weights a load brings
  for (u64 k = from; k < to; k += N) {
    const Indices<N> index = *(const Indices<N>*)(layer.index + k);
    float weight[N * G];
#pragma unroll
    for (int e = 0; e < N * G; e += W) {
      const Floats<W> w = *(const Floats<W>*)(layer.weight + k * G + e);
#pragma unroll
      for (int i = 0; i < W; i++) weight[e + i] = w.at[i];
    }
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
      for (int q = 0; q < QUADS; q++) {
        const float4 x = read<BITS>(in, index.at[n], quad_row(q));
#pragma unroll
        for (int g = 0; g < G; g++) multiply_add(sum[g][q], weight[n * G + g], x);
      }
    }
  }
}

// Activates an output's sums and stores them. Returns a bit for each of the thread's rows with a value that is not zero.
__device__ __forceinline__ u32 activate_and_store(const Layer& layer, u32 output, const float4 (&sum)[QUADS], float* out) {
  const float bias = layer.bias ? layer.bias[output] : layer.bias0;
  u32 alive = 0;
#pragma unroll
  for (int q = 0; q < QUADS; q++) {
    const float4 y = activate(sum[q], bias, layer);
    if (TAKEN < ROWS && q == QUADS - 1) {
      alive |= (alive_bits(y, 1) & 3) << q * 4;
      *(float2*)(out + output * ROWS + q * 4) = make_float2(y.x, y.y);
    } else {
      alive |= alive_bits(y, 1) << quad_row(q);
      *(float4*)(out + output * ROWS + quad_row(q)) = y;
    }
  }
  return alive;
}

template <int G>
__device__ __forceinline__ u32 store(const Layer& layer, u32 unit, const float4 (&sum)[G][QUADS], float* out) {
  u32 alive = 0;
#pragma unroll
  for (int g = 0; g < G; g++) {
    const u32 output = layer.output ? layer.output[unit * G + g] : unit;
    if (output != NONE) alive |= activate_and_store(layer, output, sum[g], out);
  }
  return alive;
}

struct Step {
  Indices<STEP> index;
  Floats<STEP> weight;
  __device__ __forceinline__ void load(const Layer& layer, u64 at) {
    index = *(const Indices<STEP>*)(layer.index + at);
    weight = *(const Floats<STEP>*)(layer.weight + at);
  }
};

// One layer of single outputs, all with the same number of entries, a multiple of STEP.
template <bool BITS>
__device__ __forceinline__ u32 compute_even(const Layer& layer, const void* in, float* out) {
  const u32 steps = layer.width / STEP;
  u32 unit = threadIdx.x / PARTS, alive = 0;
  if (unit >= layer.units) return 0;
  Step step;
  u64 at = step_start(layer, unit);
  if (AHEAD) step.load(layer, at);
  for (; unit < layer.units; unit += ALONG) {
    float4 sum[1][QUADS] = {};
    for (u32 s = 0; s < steps; s++) {
      if (!AHEAD) step.load(layer, at);
      const Step now = step;
      const bool more = s + 1 < steps;
      at = more ? at + step_stride(layer) : step_start(layer, unit + ALONG);
      if (AHEAD && (more || unit + ALONG < layer.units)) step.load(layer, at);
#pragma unroll
      for (int n = 0; n < STEP; n++) {
#pragma unroll
        for (int q = 0; q < QUADS; q++)
          multiply_add(sum[0][q], now.weight.at[n], read<BITS>(in, now.index.at[n], quad_row(q)));
      }
    }
    alive |= store<1>(layer, unit, sum, out);
  }
  return alive;
}

#if QUADS == 4
// One layer, a unit a lane for all of the tile's rows.
template <bool BITS, bool CODED>
__device__ __forceinline__ u32 compute_turns(const Layer& layer, const void* in, float* out) {
  u32 alive = 0;
  for (u32 slice = threadIdx.x / 32; slice < layer.slices; slice += THREADS / 32) {
    const u32 at = layer.turn_start ? layer.turn_start[slice] : slice * layer.turn_steps;
    const u32 steps = layer.turn_start ? layer.turn_start[slice + 1] - at : layer.turn_steps;
    const u32 unit = slice * 32 + threadIdx.x % 32;
    const uint4* from = layer.turns + (u64)at * (32 * Turn<CODED>::VECTORS) + threadIdx.x % 32;
    Turn<CODED> next;
    next.load(from);
    const u32 output = layer.turn_output ? layer.turn_output[unit] : unit;
    float4 sum[1][QUADS] = {};
    for (u32 s = 0; s < steps; s++) {
      const Turn<CODED> now = next;
      from += 32 * Turn<CODED>::VECTORS;
      if (s + 1 < steps) next.load(from);
#pragma unroll
      for (int n = 0; n < 4; n++) {
        const u32 bits = BITS ? ((const u16*)in)[now.index(n)] : 0;
#pragma unroll
        for (int q = 0; q < QUADS; q++) {
          if (BITS) {
            const u32 field = bits >> quad_row(q);
            if (field & 1) sum[0][q].x += now.weight(n);
            if (field & 2) sum[0][q].y += now.weight(n);
            if (field & 4) sum[0][q].z += now.weight(n);
            if (field & 8) sum[0][q].w += now.weight(n);
          } else if (TAKEN < ROWS && q == QUADS - 1) {
            const float2 x = *(const float2*)((const float*)in + now.index(n) * ROWS + q * 4);
            sum[0][q].x = fmaf(now.weight(n), x.x, sum[0][q].x);
            sum[0][q].y = fmaf(now.weight(n), x.y, sum[0][q].y);
          } else {
            multiply_add(sum[0][q], now.weight(n), read<BITS>(in, now.index(n), quad_row(q)));
          }
        }
      }
    }
    if (output < layer.outputs) alive |= activate_and_store(layer, output, sum[0], out);
  }
  return alive;
}

template <bool BITS>
__device__ __forceinline__ u32 compute_turned(const Layer& layer, const void* in, float* out) {
  return layer.coded ? compute_turns<BITS, true>(layer, in, out) : compute_turns<BITS, false>(layer, in, out);
}

// What the warp will read first of a layer, on its way to the first-level cache while others still compute.
__device__ __forceinline__ void expect(const Layer& layer) {
  const u32 slice = threadIdx.x / 32;
  if (slice >= layer.slices || layer.turn_start) return;
  const u32 vectors = layer.coded ? 1 : 2;
  prefetch(layer.turns + (u64)slice * layer.turn_steps * (32 * vectors) + threadIdx.x % 32 * vectors);
}
#endif

template <bool BITS, int G>
__device__ __forceinline__ u32 compute(const Layer& layer, const void* in, float* out) {
  if (G == 1 && layer.width % STEP == 0 && layer.width) return compute_even<BITS>(layer, in, out);
  u32 alive = 0;
  for (u32 unit = threadIdx.x / PARTS; unit < layer.units; unit += ALONG) {
    float4 sum[G][QUADS] = {};
    add_entries<BITS, G, 2>(layer, unit_start(layer, unit), unit_start(layer, unit + 1), in, sum);
    alive |= store<G>(layer, unit, sum, out);
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

#if PITCH
// Sends for a tile's rows x[list[0]] … (list null: x[0] …), or its bits.
__device__ __forceinline__ void send_tile(u32 tile, u32 rows, const u8* bits, u64 bits_stride, const float* x,
                                          u64 x_stride, const u32* list, u32 neurons, float* coming) {
  if (bits) {
    for (u32 i = threadIdx.x * 16; i < bits_stride; i += THREADS * 16)
      copy_async_16((u8*)coming + i, bits + tile * bits_stride + i);
    return;
  }
  constexpr u32 WARPS = THREADS / 32;
  const u32 pieces = (neurons + 3) / 4, warp = threadIdx.x / 32;
  for (u32 r = warp % ROWS; r < TAKEN && tile * TAKEN + r < rows; r += WARPS) {
    const u32 row = tile * TAKEN + r;
    const float* from = x + (u64)(list ? list[row] : row) * x_stride;
    const u32 helpers = WARPS > ROWS ? (WARPS - r + ROWS - 1) / ROWS : 1;  // warps of this row
    for (u32 i = threadIdx.x % 32 + warp / ROWS * 32; i < pieces; i += helpers * 32)
      copy_async_16(coming + r * PITCH + i * 4, from + i * 4);
  }
}
#endif

// Layers first … last − 1 of the rows list[0 … *count − 1] (list null: 0 … *count − 1).
//
// The input is `bits` (tiles of ROWS rows, bit neuron·ROWS + row of a tile, `bits_stride` bytes a tile; rows then
// are 0 … *count − 1) or the rows of x (row-major, stride x_stride). Rows that are not dropped are written to
// `kept`, row-major, in no particular order; `slot[r]` is where row r went, NONE if dropped. `early`: a tile
// whose rows are all zero is left as soon as the network allows it. `drop`: zero rows are not kept at the end.
// `hashes` null: not asked for.
// With fewer than `least` or more than `most` rows it does nothing: another kernel does.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    fused(const Layer* layers, u32 first, u32 last, const u8* bits, u64 bits_stride, const float* x, u64 x_stride,
          const u32* list, const u32* count, float* kept, u64 kept_stride, u64* hashes, u32* slot, u32* kept_count,
          u32 span, u32 early, u32 drop, u32 least, u32 most) {
  extern __shared__ __align__(16) float memory[];
  __shared__ u32 alive_rows;
  __shared__ Ending ending;
#if QUADS == 4
  __shared__ __align__(16) u32 ring[3][WORDS];  // the present layer and the next ones, in turns
#endif
  const u32 rows = *count;
  if (rows < least || rows > most) return;
#if PITCH
  float* coming = memory + 2 * span;
  const bool sent = bits || x_stride % 4 == 0;
  if (sent && blockIdx.x * TAKEN < rows)
    send_tile(blockIdx.x, rows, bits, bits_stride, x, x_stride, list, layers[first].inputs, coming);
#endif
  for (u32 tile = blockIdx.x; tile * TAKEN < rows; tile += gridDim.x) {
    __syncthreads();
    const int valid = min((u32)TAKEN, rows - tile * TAKEN);
    ending.begin(tile * TAKEN, valid, list);
    if (threadIdx.x == 0) alive_rows = 0;
#if QUADS == 4
    for (u32 i = threadIdx.x; i < 2 * WORDS; i += THREADS)
      if (first + i / WORDS < last) ring[i / WORDS][i % WORDS] = ((const u32*)(layers + first))[i];
#endif
#if PITCH
    copy_wait_all();
#endif
    __syncthreads();
    float *now = memory, *next = memory + span;
    const auto put = [to = now + threadIdx.x % ROWS](u32 n, float value) { to[n * ROWS] = value; };
#if QUADS == 4
    expect(*(const Layer*)ring[0]);
#endif
#if PITCH
    if (bits) {
      for (u32 i = threadIdx.x; i < bits_stride / 16; i += THREADS) ((uint4*)now)[i] = ((const uint4*)coming)[i];
    } else if (sent) {
      const int r = threadIdx.x % ROWS;
      load_row(r < valid ? coming + r * PITCH : nullptr, layers[first].inputs, true, put);
    } else
#endif
    if (bits) {
      const uint4* from = (const uint4*)(bits + tile * bits_stride);
      uint4* to = (uint4*)now;
      for (u32 i = threadIdx.x; i < bits_stride / 16; i += THREADS) to[i] = from[i];
    } else {
      const u32 row = ending.source[threadIdx.x % ROWS];
      load_row(row == NONE ? nullptr : x + (u64)row * x_stride, layers[first].inputs, x_stride % 4 == 0, put);
    }
    __syncthreads();
#if PITCH
    if (sent && (tile + gridDim.x) * TAKEN < rows)
      send_tile(tile + gridDim.x, rows, bits, bits_stride, x, x_stride, list, layers[first].inputs, coming);
#endif
    u32 alive = 0;
    bool dead = false;
    for (u32 l = first; l < last; l++) {
#if QUADS == 4
      const Layer& layer = *(const Layer*)ring[(l - first) % 3];
      u32 word = 0;
      if (threadIdx.x < WORDS && l + 2 < last) word = ((const u32*)(layers + l + 2))[threadIdx.x];
      if (l + 1 < last) expect(*(const Layer*)ring[(l + 1 - first) % 3]);
      alive = bits && l == first ? compute_turned<true>(layer, now, next) : compute_turned<false>(layer, now, next);
      if (threadIdx.x < WORDS && l + 2 < last) ring[(l + 2 - first) % 3][threadIdx.x] = word;
#else
      const Layer layer = layers[l];
      alive = bits && l == first ? compute_any<true>(layer, now, next) : compute_any<false>(layer, now, next);
#endif
      const bool leave = early && layer.may_drop;
      float* swap = now;
      now = next;
      next = swap;
      const bool any = __syncthreads_or(alive);
      if (!any && leave) {
        dead = true;
        break;
      }
    }
    if (dead) {
      ending.drop(valid, slot);
      continue;
    }
    if (alive) atomicOr(&alive_rows, alive);
    __syncthreads();
    ending.claim(valid, drop ? alive_rows : NONE, kept_count, slot);
    const float* mine = now + threadIdx.x % ROWS;
    const auto value = [&](u32 n) { return mine[n * ROWS]; };
    ending.keep(value, layers[last - 1].outputs, kept, kept_stride, hashes);
  }
}
