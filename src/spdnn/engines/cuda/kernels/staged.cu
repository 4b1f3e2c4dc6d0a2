// Layers over tiles of 128 rows (neuron-major within a tile), chunk by chunk (`chunks.py`): a block brings the inputs
// and the entries of a chunk into shared memory and computes all outputs of the chunk from there, while the next chunk
// is on its way. Between two layers all blocks wait for each other; what doesn't depend on activations is sent for
// before.
//
// A warp computes a unit of G outputs for two tiles at a time, a lane four rows of each: what a load of indices and
// weights costs, the same as one of activations, is shared by more of those.
//
// Definitions: GROUP (1 or 8), WARPS of a block, SLOTS and WEIGHTS, the most inputs and weights of a chunk, and STAGES,
// the chunks there is room for: with 1, nothing is on its way while a chunk is computed.
#include "chunked.cuh"

constexpr int TILE = 128;

// What a warp has to know before it can send for a chunk; loaded well before.
struct Order {
  u32 head;             // lane i: word i of the chunk
  u32 neuron;           // lane i: the input that goes to slot i · WARPS + warp
  u32 row[PAIR * 4];    // where the lane's rows are
};

__device__ __forceinline__ void prepare(const Chunked& layer, const Source& source, const Item& item, Order& order) {
  const u32 slot = threadIdx.x % 32 * WARPS + threadIdx.x / 32;
  const u32 first = word(order.head, FIRST_INPUT), inputs = word(order.head, INPUTS);
  order.neuron = slot < inputs ? layer.input[first + slot] : 0;
  if (!source.list) return;
#pragma unroll
  for (int q = 0; q < PAIR * 4; q++) {
    const u32 row = item.tile0 * TILE + q * 32 + threadIdx.x % 32;
    order.row[q] = source.list[min(row, source.rows - 1)];
  }
}

// Sends for the inputs of a chunk, to the same stage. Bits stay bits there, 16 bytes a slot and tile.
__device__ __forceinline__ void send_inputs(const Source& source, const Item& item, const Order& order, u8* stage) {
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, inputs = word(order.head, INPUTS);
  const u32 many = warp < inputs ? (inputs - warp + WARPS - 1) / WARPS : 0;
  if (source.is_bits) {
    if (warp == 0 && lane < PAIR * 4) ((u32*)stage)[inputs * PAIR * 4 + lane] = 0;
    for (u32 t = 0; t < item.tiles; t++) {
      const u8* from = source.in + (item.tile0 + t) * source.stride + (u64)order.neuron * 16;
      if (lane < many) copy_async_16(stage + ((lane * WARPS + warp) * PAIR + t) * 16, from);
    }
    return;
  }
  float4* slots = (float4*)stage;
  if (warp < PAIR) slots[(inputs * PAIR + warp) * 32 + lane] = make_float4(0, 0, 0, 0);
#pragma unroll
  for (int t = 0; t < PAIR; t++) {
    if (t >= item.tiles) break;
    if (source.list) {
      const float* from[4];
#pragma unroll
      for (int q = 0; q < 4; q++) {
        const u32 row = order.row[t * 4 + q];
        from[q] = (const float*)(source.in + row / TILE * source.stride) + row % TILE;
      }
      for (u32 i = 0; i < many; i++) {
        const u64 at = (u64)__shfl_sync(NONE, order.neuron, i) * TILE;
        float* to = (float*)(slots + ((i * WARPS + warp) * PAIR + t) * 32) + lane;
#pragma unroll
        for (int q = 0; q < 4; q++) copy_async_4(to + q * 32, from[q] + at);
      }
    } else {
      const float* from = (const float*)(source.in + (item.tile0 + t) * source.stride) + lane * 4;
      for (u32 i = 0; i < many; i++) {
        const u64 at = (u64)__shfl_sync(NONE, order.neuron, i) * TILE;
        copy_async_16(slots + ((i * WARPS + warp) * PAIR + t) * 32 + lane, from + at);
      }
    }
  }
}

// N weights, 4 or a multiple, from weight `first` of a stage on.
template <int N, bool CODED>
struct Weights {
  float at[N];
  __device__ __forceinline__ Weights(const u8* weights, u32 first) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      if constexpr (CODED) {
        const uint2 two = *(const uint2*)(weights + (first + i) * 2);
        at[i] = __uint_as_float(two.x << 16);
        at[i + 1] = __uint_as_float(two.x & 0xffff0000);
        at[i + 2] = __uint_as_float(two.y << 16);
        at[i + 3] = __uint_as_float(two.y & 0xffff0000);
      } else {
        const float4 four = *(const float4*)(weights + (first + i) * 4);
        at[i] = four.x;
        at[i + 1] = four.y;
        at[i + 2] = four.z;
        at[i + 3] = four.w;
      }
    }
  }
};

constexpr int AT_ONCE = GROUP == 1 ? 4 : 1;  // entries

// One step of a unit, from entry k on, onto the sums for TILES tiles; `mine` is the lane's place in the first slot.
template <int TILES, bool CODED>
__device__ __forceinline__ void add(uint2 local, const u8* weights, u32 k, const float4* mine,
                                    float4 (&sum)[GROUP][TILES]) {
#pragma unroll
  for (int base = 0; base < STEP; base += AT_ONCE) {
    float4 x[AT_ONCE][TILES];
#pragma unroll
    for (int n = 0; n < AT_ONCE; n++) {
#pragma unroll
      for (int t = 0; t < TILES; t++) x[n][t] = mine[slot_of(local, base + n) * (PAIR * 32) + t * 32];
    }
    const Weights<AT_ONCE * GROUP, CODED> w(weights, (k + base) * GROUP);
#pragma unroll
    for (int n = 0; n < AT_ONCE; n++) {
#pragma unroll
      for (int g = 0; g < GROUP; g++) {
#pragma unroll
        for (int t = 0; t < TILES; t++) multiply_add(sum[g][t], w.at[n * GROUP + g], x[n][t]);
      }
    }
  }
}

// The same where the inputs are bits; `mine` is the word of the lane's rows in the first slot, shifted by `shift`.
template <int TILES, bool CODED>
__device__ __forceinline__ void add(uint2 local, const u8* weights, u32 k, const u32* mine, u32 shift,
                                    float4 (&sum)[GROUP][TILES]) {
#pragma unroll
  for (int base = 0; base < STEP; base += AT_ONCE) {
    const Weights<AT_ONCE * GROUP, CODED> w(weights, (k + base) * GROUP);
#pragma unroll
    for (int n = 0; n < AT_ONCE; n++) {
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        const u32 bits = mine[slot_of(local, base + n) * (PAIR * 4) + t * 4] >> shift;
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
          if (bits & 1) sum[g][t].x += w.at[n * GROUP + g];
          if (bits & 2) sum[g][t].y += w.at[n * GROUP + g];
          if (bits & 4) sum[g][t].z += w.at[n * GROUP + g];
          if (bits & 8) sum[g][t].w += w.at[n * GROUP + g];
        }
      }
    }
  }
}

// The units of a warp for TILES tiles from a stage, to `to`. Sets a byte of `any` for each of the lane's rows that has
// a value.
template <int TILES, bool BITS, bool CODED>
__device__ __forceinline__ void compute(const Chunked& layer, const Share& share, const u8* stage, float* to,
                                        u64 out_stride, u32 (&any)[PAIR]) {
  const u32 lane = threadIdx.x % 32;
  const u8* weights = stage + SLOT_BYTES;
  const u8* locals = stage + SLOT_BYTES + WEIGHTS * 4;
  u32 k = __shfl_sync(NONE, share.start, 0);
  for (u32 unit = 0; unit < share.units; unit++) {
    const u32 stop = __shfl_sync(NONE, share.start, unit + 1);
    float4 sum[GROUP][TILES] = {};
    for (; k < stop; k += STEP) {
      const uint2 local = *(const uint2*)(locals + k);
      if constexpr (BITS)
        add<TILES, CODED>(local, weights, k, (const u32*)stage + lane / 8, lane % 8 * 4, sum);
      else
        add<TILES, CODED>(local, weights, k, (const float4*)stage + lane, sum);
    }
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
      const u32 neuron = __shfl_sync(NONE, share.output, unit * GROUP + g);
      const float b = __shfl_sync(NONE, share.bias, unit * GROUP + g);
      if (GROUP > 1 && neuron == NONE) continue;
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        const float4 y = activate(sum[g][t], b, layer);
        any[t] |= alive_bits(y, 8);
        *(float4*)(to + t * out_stride + (u64)neuron * TILE) = y;
      }
    }
  }
}

template <int TILES>
__device__ __forceinline__ void compute(const Chunked& layer, bool is_bits, const Share& share, const u8* stage,
                                        float* to, u64 out_stride, u32 (&any)[PAIR]) {
  if (is_bits && layer.coded)
    compute<TILES, true, true>(layer, share, stage, to, out_stride, any);
  else if (is_bits)
    compute<TILES, true, false>(layer, share, stage, to, out_stride, any);
  else if (layer.coded)
    compute<TILES, false, true>(layer, share, stage, to, out_stride, any);
  else
    compute<TILES, false, false>(layer, share, stage, to, out_stride, any);
}

// Layers first … last − 1. Row r of the tiles is row list[r] of the input, which is tiled alike; list null or *identity:
// row r itself. in_stride: bytes a tile of the input, bits (then no list) or float; out_stride: floats a tile of the
// outputs, which go to `out` and `other` in turns. alive[r] (null: not asked for) becomes 1 for rows with a value that is
// not zero in the end. `arrived`: how many blocks have met so far, `met` at the start. For more than one layer all blocks
// must run at the same time.
extern "C" __global__ void __launch_bounds__(WARPS * 32, 1)
    staged(const Chunked* layers, u32 first, u32 last, const u8* in, u64 in_stride, u32 is_bits, float* out, float* other,
           u64 out_stride, u8* alive, const u32* count, const u32* list, const u32* identity, u32* arrived, u32 met) {
  extern __shared__ __align__(16) u8 memory[];
  __shared__ __align__(16) u32 ring[2][LAYER_WORDS];  // the present layer and the next one, in turns
  Source source = {in, in_stride, list && !*identity ? list : nullptr, *count, is_bits};
  const u32 tiled = (source.rows + TILE - 1) / TILE, paired = (tiled + 1) / 2, step = gridDim.x;
  if (threadIdx.x < LAYER_WORDS) ring[0][threadIdx.x] = ((const u32*)(layers + first))[threadIdx.x];
  __syncthreads();
  u32 turn = 0;  // stages are used in turns
  for (u32 l = first; l < last; l++) {
    const Chunked& layer = *(const Chunked*)ring[(l - first) % 2];
    const u32 chunks = layer.chunks;
    // single tiles where pairs of them would leave blocks idle in the last turn
    const u32 turns1 = (tiled * chunks + step - 1) / step, turns2 = (paired * chunks + step - 1) / step;
    const u32 along = turns1 * 11 < turns2 * 20 ? 1 : PAIR;
    const u32 items = (along == 1 ? tiled : paired) * chunks, end = max(items, 1u) - 1;
    u32 number = blockIdx.x;
    Order now, next;
    Share share, following;
    u32 head = 0;
    if (number < items) {  // what is prepared past the end isn't sent for
      now.head = header(layer, Item(number, chunks, along, tiled));
      next.head = header(layer, Item(min(number + step, end), chunks, along, tiled));
      head = header(layer, Item(min(number + 2 * step, end), chunks, along, tiled));
      prepare(layer, source, Item(number, chunks, along, tiled), now);
      send_entries(layer, now.head, memory + turn % STAGES * STAGE_BYTES);
      share.load(layer, now.head);
      prepare(layer, source, Item(min(number + step, end), chunks, along, tiled), next);
    }
    u32 record = 0;
    if (threadIdx.x < LAYER_WORDS && l + 1 < last) record = ((const u32*)(layers + l + 1))[threadIdx.x];
    if (l > first) meet(arrived, met += step);
    if (threadIdx.x < LAYER_WORDS && l + 1 < last) ring[(l + 1 - first) % 2][threadIdx.x] = record;
    __syncthreads();  // a block without items comes to no other barrier before it reads the next layer
    if (number < items)
      send_inputs(source, Item(number, chunks, along, tiled), now, memory + turn % STAGES * STAGE_BYTES);
    for (; number < items; turn++, number += step) {
      const Item item(number, chunks, along, tiled);
      u8* stage = memory + turn % STAGES * STAGE_BYTES;
      copy_wait_all();
      __syncthreads();  // the chunk is here, and what the other stage held has been used
      if (STAGES > 1 && number + step < items) {
        u8* other_stage = memory + (turn + 1) % STAGES * STAGE_BYTES;
        send_entries(layer, next.head, other_stage);
        send_inputs(source, Item(number + step, chunks, along, tiled), next, other_stage);
      }
      following.load(layer, next.head);
      Order later;
      later.head = head;
      prepare(layer, source, Item(min(number + 2 * step, end), chunks, along, tiled), later);
      head = header(layer, Item(min(number + 3 * step, end), chunks, along, tiled));
      u32 any[PAIR] = {};
      float* to = out + item.tile0 * out_stride + threadIdx.x % 32 * 4;
      if (item.tiles == 2)
        compute<2>(layer, source.is_bits, share, stage, to, out_stride, any);
      else
        compute<1>(layer, source.is_bits, share, stage, to, out_stride, any);
#pragma unroll
      for (int t = 0; t < PAIR; t++)
        if (alive && l + 1 == last && any[t])
          atomicOr((u32*)(alive + (item.tile0 + t) * TILE) + threadIdx.x % 32, any[t]);
      if (STAGES == 1) {
        __syncthreads();
        if (number + step < items) {
          send_entries(layer, next.head, memory);
          send_inputs(source, Item(number + step, chunks, along, tiled), next, memory);
        }
      }
      share = following;
      next = later;
    }
    source = {(const u8*)out, out_stride * 4, nullptr, source.rows, 0};
    float* swap = out;
    out = other;
    other = swap;
  }
}
