// One layer at a time over activations in device memory: tiles of 128 rows, neuron-major within a tile.
//
// Value of row r, neuron n: tiles[r / 128][n][r % 128]. A warp computes a unit for the 128 rows of a tile, a lane
// four rows. Definitions: GROUP (1 or 8), INDEX.
#include "common.cuh"

constexpr int TILE = 128;
constexpr int WARPS = 8;

template <bool BITS>
__device__ __forceinline__ float4 read(const void* in, u32 neuron, u32 lane) {
  if (BITS) return four_bits(__ldg((const u32*)in + neuron * (TILE / 32) + lane / 8) >> (lane % 8 * 4));
  return __ldg((const float4*)((const float*)in + (u64)neuron * TILE) + lane);
}

template <bool BITS, int G, int N>
__device__ __forceinline__ void add_entries(const Layer& layer, u64 from, u64 to, u32 stride, const void* in,
                                            u32 lane, float4 (&sum)[G]) {
  constexpr int W = N * G < 4 ? N * G : 4;  // weights a load brings
#pragma unroll 1
  for (u64 k = from; k != to; k += stride) {
    const Indices<N> index = *(const Indices<N>*)(layer.index + k);
    float4 x[N];
#pragma unroll
    for (int n = 0; n < N; n++) x[n] = read<BITS>(in, index.at[n], lane);
#pragma unroll
    for (int i = 0; i < N * G; i += W) {
      const Floats<W> w = *(const Floats<W>*)(layer.weight + k * G + i);
#pragma unroll
      for (int q = 0; q < W; q++) multiply_add(sum[(i + q) % G], w.at[q], x[(i + q) / G]);
    }
  }
}

template <bool BITS, int G>
__device__ __forceinline__ u32 compute(const Layer& layer, u32 unit, const void* in, float* out, u32 lane) {
  float4 sum[G] = {};
  if (layer.width % 8 == 0 && layer.width) {
    const u64 from = step_start(layer, unit);
    const u32 stride = step_stride(layer);
    add_entries<BITS, G, 8>(layer, from, from + layer.width / 8 * stride, stride, in, lane, sum);
  } else {
    add_entries<BITS, G, 2>(layer, unit_start(layer, unit), unit_start(layer, unit + 1), 2, in, lane, sum);
  }
  u32 alive = 0;
#pragma unroll
  for (int g = 0; g < G; g++) {
    const u32 output = layer.output ? layer.output[unit * G + g] : unit;
    if (output == NONE) continue;
    const float bias = layer.bias ? layer.bias[output] : layer.bias0;
    const float4 y = activate(sum[g], bias, layer);
    alive |= alive_bits(y, 8);
    *((float4*)(out + (u64)output * TILE) + lane) = y;
  }
  return alive;
}

// A block computes WARPS · units_per_warp units at a time.
template <bool BITS, int G>
__device__ __forceinline__ void layer_tiles(const Layer& layer, u32 units_per_warp, const void* in, u64 in_stride,
                                            float* out, u64 out_stride, u8* alive, u32 rows) {
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 parts = (layer.units + WARPS * units_per_warp - 1) / (WARPS * units_per_warp);
  const u32 items = (rows + TILE - 1) / TILE * parts;
  for (u32 item = blockIdx.x; item < items; item += gridDim.x) {
    const u32 tile = item / parts, part = item - tile * parts;
    const void* from = (const u8*)in + tile * in_stride;
    float* to = out + tile * out_stride;
    u32 any = 0;
    for (u32 i = 0; i < units_per_warp; i++) {
      const u32 unit = (part * units_per_warp + i) * WARPS + warp;
      if (unit >= layer.units) break;
      any |= compute<BITS, G>(layer, unit, from, to, lane);
    }
    if (alive && any) {
      u32* flags = (u32*)(alive + tile * TILE) + lane;
      if ((*flags | any) != *flags) atomicOr(flags, any);
    }
  }
}

// in_stride: bytes a tile of the input, bits or float; out_stride: floats a tile of the output.
// alive[r] (null: not asked for) becomes 1 for rows with a value that is not zero. Any grid will do.
extern "C" __global__ void __launch_bounds__(WARPS * 32)
    stream(const Layer* layers, u32 l, u32 units_per_warp, const void* in, u64 in_stride, u32 is_bits, float* out,
           u64 out_stride, u8* alive, const u32* count) {
  const Layer layer = layers[l];
  const u32 rows = *count;
#if GROUP > 1
  if (layer.g == GROUP) {
    if (is_bits)
      layer_tiles<true, GROUP>(layer, units_per_warp, in, in_stride, out, out_stride, alive, rows);
    else
      layer_tiles<false, GROUP>(layer, units_per_warp, in, in_stride, out, out_stride, alive, rows);
    return;
  }
#endif
  if (is_bits)
    layer_tiles<true, 1>(layer, units_per_warp, in, in_stride, out, out_stride, alive, rows);
  else
    layer_tiles<false, 1>(layer, units_per_warp, in, in_stride, out, out_stride, alive, rows);
}
