// One layer over tiles of 128 rows (neuron-major within a tile), chunk by chunk (`chunks.py`): a block brings the
// inputs and the entries of a chunk into shared memory and computes all outputs of the chunk from there.
//
// A warp computes a unit of G outputs for two tiles at a time, a lane four rows of each: what a load of indices and
// weights costs, the same as one of activations, is shared by more of those.
//
// Definitions: GROUP (1 or 8), SLOTS and WEIGHTS, the most inputs and weights of a chunk.
#include "common.cuh"

constexpr int TILE = 128;
constexpr int WARPS = GROUP > 1 ? 8 : 10;
constexpr int STEP = 8;  // entries of a unit are a multiple of this
constexpr int PAIR = 2;  // tiles at a time

struct Chunked {
  const u32* input_start;
  const u32* input;
  const u32* unit_start;
  const u32* output;
  const u32* entry_start;
  const u8* local;
  const float* weight;
  const float* bias;  // null: bias0 everywhere
  float bias0, lower, upper;
  u32 chunks, bias_all;
};

__device__ __forceinline__ void copy_all(void* shared, const void* global, u32 bytes) {
  for (u32 i = threadIdx.x * 16; i < bytes; i += WARPS * 32 * 16)
    copy_async_16((u8*)shared + i, (const u8*)global + i);
}

// One step of a unit onto the sums of G outputs for TILES tiles; `mine` is the lane's place in the first slot.
template <int G, int TILES>
__device__ __forceinline__ void add(const u8* locals, const float* weights, const float4* mine,
                                    float4 (&sum)[G][TILES]) {
  constexpr int AT_ONCE = G == 1 ? 4 : 1;
  const uint2 local = *(const uint2*)locals;
#pragma unroll
  for (int base = 0; base < STEP; base += AT_ONCE) {
    float4 x[AT_ONCE][TILES];
#pragma unroll
    for (int n = 0; n < AT_ONCE; n++) {
      const u32 slot = (base + n < 4 ? local.x : local.y) >> (base + n) % 4 * 8 & 0xff;
#pragma unroll
      for (int t = 0; t < TILES; t++) x[n][t] = mine[slot * (PAIR * 32) + t * 32];
    }
    alignas(16) float w[AT_ONCE * G];
#pragma unroll
    for (int i = 0; i < AT_ONCE * G; i += 4) *(float4*)(w + i) = *(const float4*)(weights + base * G + i);
#pragma unroll
    for (int n = 0; n < AT_ONCE; n++) {
#pragma unroll
      for (int g = 0; g < G; g++) {
#pragma unroll
        for (int t = 0; t < TILES; t++) multiply_add(sum[g][t], w[n * G + g], x[n][t]);
      }
    }
  }
}

// A warp's units, of which lane i knows where unit i's entries begin and output i and its bias.
struct Share {
  u32 units, start, output;
  float bias;
};

// The units of a warp for TILES tiles from the slots, to `to`. Sets a byte of `any` for each of the lane's rows that
// has a value.
template <int TILES>
__device__ __forceinline__ void compute(const Chunked& layer, const Share& share, const u8* locals,
                                        const float* weights, const float4* mine, float* to, u64 out_stride,
                                        u32 (&any)[PAIR]) {
  u32 k = __shfl_sync(NONE, share.start, 0);
  for (u32 unit = 0; unit < share.units; unit++) {
    const u32 stop = __shfl_sync(NONE, share.start, unit + 1);
    float4 sum[GROUP][TILES] = {};
    for (; k < stop; k += STEP) add<GROUP, TILES>(locals + k, weights + k * GROUP, mine, sum);
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

// Row r of the tiles is row list[r] of the input, which is tiled alike; list null or *identity: row r itself.
// in_stride: bytes a tile of the input, bits (then no list) or float; out_stride: floats a tile of the output.
// alive[r] (null: not asked for) becomes 1 for rows with a value that is not zero. Any grid will do.
extern "C" __global__ void __launch_bounds__(WARPS * 32, 2)
    staged(const u32* input_start, const u32* input, const u32* unit_start, const u32* output, const u32* entry_start,
           const u8* local, const float* weight, const float* bias, float bias0, float lower, float upper, u32 chunks,
           u32 bias_all, const void* in, u64 in_stride, u32 is_bits, float* out, u64 out_stride, u8* alive,
           const u32* count, const u32* list, const u32* identity) {
  const Chunked layer = {input_start, input, unit_start, output, entry_start, local,  weight,
                         bias,        bias0, lower,      upper,  chunks,      bias_all};
  extern __shared__ __align__(16) float4 slots[];
  float* weights = (float*)(slots + (SLOTS + 1) * PAIR * 32);
  u8* locals = (u8*)(weights + WEIGHTS);
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 rows = *count;
  const bool gather = list && !*identity;
  // single tiles where pairs of them would leave blocks idle in the last turn
  const u32 tiled = (rows + TILE - 1) / TILE, paired = (tiled + 1) / 2;
  const u32 turns1 = (tiled * chunks + gridDim.x - 1) / gridDim.x, turns2 = (paired * chunks + gridDim.x - 1) / gridDim.x;
  const u32 along = turns1 * 11 < turns2 * 20 ? 1 : PAIR;
  const u32 items = (along == 1 ? tiled : paired) * chunks;
  for (u32 item = blockIdx.x; item < items; item += gridDim.x) {
    const u32 tile0 = item / chunks * along, chunk = item % chunks;
    const u32 tiles = min(along, tiled - tile0);
    const u32 first = layer.input_start[chunk], inputs = layer.input_start[chunk + 1] - first;
    const u32 unit0 = layer.unit_start[chunk], units = layer.unit_start[chunk + 1] - unit0;
    __syncthreads();  // the slots are free
    const u32 entry0 = layer.entry_start[unit0], entries = layer.entry_start[unit0 + units] - entry0;
    copy_all(locals, layer.local + entry0, entries);
    copy_all(weights, layer.weight + (u64)entry0 * GROUP, entries * GROUP * 4);
    if (warp < PAIR) slots[(inputs * PAIR + warp) * 32 + lane] = make_float4(0, 0, 0, 0);
    for (u32 t = 0; t < tiles; t++) {
      const u32 tile = tile0 + t;
      const float* from[4];
      if (gather) {
#pragma unroll
        for (int q = 0; q < 4; q++) {
          const u32 row = tile * TILE + q * 32 + lane;
          const u32 source = list[row < rows ? row : rows - 1];
          from[q] = (const float*)((const u8*)in + source / TILE * in_stride) + source % TILE;
        }
      } else if (is_bits) {
        from[0] = (const float*)((const u8*)in + tile * in_stride) + lane / 8;
      } else {
        from[0] = (const float*)((const u8*)in + tile * in_stride) + lane * 4;
      }
      for (u32 base = 0; base < inputs; base += WARPS * 32) {
        const u32 u0 = base + lane * WARPS + warp;
        const u32 mine = u0 < inputs ? layer.input[first + u0] : 0;
        const u32 many = warp < inputs - base ? min(32u, (inputs - base + WARPS - 1 - warp) / WARPS) : 0;
        for (u32 i = 0; i < many; i++) {
          const u64 neuron = __shfl_sync(NONE, mine, i);
          float4* to = slots + ((base + i * WARPS + warp) * PAIR + t) * 32;
          if (gather) {
#pragma unroll
            for (int q = 0; q < 4; q++) copy_async_4((float*)to + q * 32 + lane, from[q] + neuron * TILE);
          } else if (is_bits) {
            to[lane] = four_bits(__ldg((const u32*)from[0] + neuron * (TILE / 32)) >> (lane % 8 * 4));
          } else {
            copy_async_16(to + lane, from[0] + neuron * TILE);
          }
        }
      }
    }
    // a warp's units follow one another
    const u32 many = (units + WARPS - 1) / WARPS, begin = unit0 + min(units, warp * many);
    Share share;
    share.units = unit0 + min(units, (warp + 1) * many) - begin;
    share.start = lane <= share.units ? layer.entry_start[begin + lane] - entry0 : 0;
    share.output = lane < share.units * GROUP ? layer.output[begin * GROUP + lane] : NONE;
    share.bias = layer.bias && share.output != NONE ? layer.bias[share.output] : layer.bias0;
    copy_wait_all();
    __syncthreads();
    u32 any[PAIR] = {};
    float* to = out + tile0 * out_stride + lane * 4;
    if (tiles == 2)
      compute<2>(layer, share, locals, weights, slots + lane, to, out_stride, any);
    else
      compute<1>(layer, share, locals, weights, slots + lane, to, out_stride, any);
    for (u32 t = 0; alive && t < tiles; t++) {
      u32* flags = (u32*)(alive + (tile0 + t) * TILE) + lane;
      if (any[t] && (*flags | any[t]) != *flags) atomicOr(flags, any[t]);
    }
  }
}
