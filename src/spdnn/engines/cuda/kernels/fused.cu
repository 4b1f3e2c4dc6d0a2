// Several layers of a tile of ROWS rows without leaving shared memory.
//
// Definitions: ROWS (4, 8, 16, 32) rows of a tile, QUADS (1, 2) groups of four rows that a thread computes at a time,
// THREADS, BLOCKS of a multiprocessor, GROUP (the largest g of any layer: 1 or 8), INDEX, and RING, how many steps of
// entries a warp has on their way through shared memory (0: none; the entries then come straight to registers).
#include "common.cuh"

constexpr int PARTS = ROWS / (4 * QUADS);  // threads that share a unit
constexpr int ALONG = THREADS / PARTS;     // units at a time
constexpr int STEP = 8;
constexpr bool AHEAD = THREADS * BLOCKS < 1024;  // there are registers to bring entries in before they are needed

// The rows of a quad: those of odd units in the other order, so that the threads of a warp use more banks.
__device__ __forceinline__ int quad_row(int q) {
  if (QUADS == 1) return threadIdx.x % PARTS * 4;
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

// Activates a unit's sums and stores them. Returns a bit for each of the thread's rows with a value that is not zero.
template <int G>
__device__ __forceinline__ u32 store(const Layer& layer, u32 unit, const float4 (&sum)[G][QUADS], float* out) {
  u32 alive = 0;
#pragma unroll
  for (int g = 0; g < G; g++) {
    const u32 output = layer.output ? layer.output[unit * G + g] : unit;
    if (output == NONE) continue;
    const float bias = layer.bias ? layer.bias[output] : layer.bias0;
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
      const float4 y = activate(sum[g][q], bias, layer);
      alive |= alive_bits(y, 1) << quad_row(q);
      *(float4*)(out + output * ROWS + quad_row(q)) = y;
    }
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

#if RING
constexpr u32 TOGETHER = 32 / PARTS;              // units of a warp
constexpr u32 RING_BYTES = TOGETHER * STEP * 6;   // of a step: u16 indices, then float weights
constexpr u32 WORDS = sizeof(Layer) / 4;

__device__ __forceinline__ bool even(const Layer& layer) { return layer.sliced && layer.g == 1; }

// The entries of the warp's units, in the order they are computed in, on their way RING steps ahead, across layers: they
// don't depend on the activations. `layers` are the present layer and the next ones, in turns.
struct Ahead {
  const u32 (*layers)[WORDS];
  u8* ring;
  u32 last, layer, unit, step, produced, consumed;

  __device__ __forceinline__ const Layer& at(u32 l) const { return *(const Layer*)layers[l % 3]; }

  __device__ __forceinline__ void begin(u32 l) {
    layer = l;
    unit = threadIdx.x / 32 * TOGETHER;
    step = 0;
  }

  // Send for one more step of the layers up to `limit`, if there is one.
  __device__ __forceinline__ bool produce(u32 limit) {
    while (layer <= limit && even(at(layer)) && unit >= at(layer).units) begin(layer + 1);
    if (layer > limit || !even(at(layer))) return false;
    const Layer& of = at(layer);
    const u64 from = step_start(of, unit) + step * step_stride(of);
    const u32 lane = threadIdx.x % 32;
    u8* to = ring + produced % RING * RING_BYTES;
    if (lane < TOGETHER) copy_async_16(to + lane * 16, of.index + from + lane * 8);
#pragma unroll
    for (u32 i = lane; i < TOGETHER * 2; i += 32) copy_async_16(to + TOGETHER * 16 + i * 16, of.weight + from + i * 4);
    copy_commit();
    produced++;
    if (++step == of.width / STEP) {
      step = 0;
      unit += ALONG;
      if (unit >= of.units) begin(layer + 1);
    }
    return true;
  }

  // The next step's entries, here for the whole warp.
  __device__ __forceinline__ Step take() {
    if (produced - consumed >= RING)
      copy_wait<RING - 1>();
    else
      copy_wait<0>();
    __syncwarp();
    const u8* from = ring + consumed++ % RING * RING_BYTES;
    const u32 mine = threadIdx.x % 32 / PARTS;
    Step got;
    got.index = *(const Indices<STEP>*)(from + mine * 16);
    got.weight = *(const Floats<STEP>*)(from + TOGETHER * 16 + mine * 32);
    __syncwarp();
    return got;
  }
};

// As compute_even, for layer l of `ahead`.
template <bool BITS>
__device__ __forceinline__ u32 compute_ahead(Ahead& ahead, u32 l, const void* in, float* out) {
  const Layer& layer = ahead.at(l);
  const u32 limit = min(l + 1, ahead.last - 1), steps = layer.width / STEP, units = layer.units;
  while (ahead.produced - ahead.consumed < RING && ahead.produce(limit)) {
  }
  u32 alive = 0;
  for (u32 first = threadIdx.x / 32 * TOGETHER; first < units; first += ALONG) {
    float4 sum[1][QUADS] = {};
    for (u32 s = 0; s < steps; s++) {
      const Step now = ahead.take();
      ahead.produce(limit);
#pragma unroll
      for (int n = 0; n < STEP; n++) {
#pragma unroll
        for (int q = 0; q < QUADS; q++)
          multiply_add(sum[0][q], now.weight.at[n], read<BITS>(in, now.index.at[n], quad_row(q)));
      }
    }
    const u32 unit = first + threadIdx.x % 32 / PARTS;
    if (unit < units) alive |= store<1>(layer, unit, sum, out);
  }
  return alive;
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

// Layers first … last − 1 of the rows list[0 … *count − 1] (list null: 0 … *count − 1).
//
// The input is `bits` (tiles of ROWS rows, bit neuron·ROWS + row of a tile, `bits_stride` bytes a tile; rows then
// are 0 … *count − 1) or the rows of x (row-major, stride x_stride). Rows that are not dropped are written to
// `kept`, row-major, in no particular order; `slot[r]` is where row r went, NONE if dropped. `early`: a tile
// whose rows are all zero is left as soon as the network allows it. `drop`: zero rows are not kept at the end.
// With fewer than `least` rows it does nothing: `few` does.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    fused(const Layer* layers, u32 first, u32 last, const u8* bits, u64 bits_stride, const float* x, u64 x_stride,
          const u32* list, const u32* count, float* kept, u64 kept_stride, u64* hashes, u32* slot, u32* kept_count,
          u32 span, u32 early, u32 drop, u32 least) {
  extern __shared__ __align__(16) float memory[];
  __shared__ u32 source[ROWS], target[ROWS], alive_rows;
  __shared__ u64 hash[ROWS];
#if RING
  __shared__ __align__(16) u32 turns[3][WORDS];
  u8* ring = (u8*)(memory + 2 * span);
#endif
  const u32 rows = *count;
  if (rows < least) return;
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
#if RING
    copy_wait_all();
    u32 word = 0;
    for (u32 i = threadIdx.x; i < 3 * WORDS; i += THREADS)
      if (first + i / WORDS < last && i / WORDS < 2) turns[(first + i / WORDS) % 3][i % WORDS] = ((const u32*)(layers + first))[i];
    if (threadIdx.x < WORDS && first + 2 < last) word = ((const u32*)(layers + first + 2))[threadIdx.x];
    __syncthreads();
    Ahead ahead = {turns, ring + threadIdx.x / 32 * RING * RING_BYTES, last};
    ahead.begin(first);
#endif
    for (u32 l = first; l < last; l++) {
#if RING
      if (threadIdx.x < WORDS) {
        if (l + 2 < last) turns[(l + 2) % 3][threadIdx.x] = word;
        if (l + 3 < last) word = ((const u32*)(layers + l + 3))[threadIdx.x];
      }
      const Layer& layer = ahead.at(l);
      if (even(layer)) {
        alive = bits && l == first ? compute_ahead<true>(ahead, l, now, next) : compute_ahead<false>(ahead, l, now, next);
      } else {
        if (ahead.layer <= l) ahead.begin(l + 1);
        alive = bits && l == first ? compute_any<true>(layer, now, next) : compute_any<false>(layer, now, next);
      }
      const bool leave = early && layer.may_drop;
#else
      const Layer layer = layers[l];
      const bool leave = early && layer.may_drop;
      if (bits && l == first)
        alive = compute_any<true>(layer, now, next);
      else
        alive = compute_any<false>(layer, now, next);
#endif
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
      if ((int)threadIdx.x < valid) slot[source[threadIdx.x]] = NONE;
      continue;
    }
    if (alive) atomicOr(&alive_rows, alive);
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
