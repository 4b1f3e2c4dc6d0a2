// One layer at a time over activations in device memory: tiles of 128 rows (256 of fp16), neuron-major within a tile.
//
// Value of row r, neuron n: tiles[r / TILE][n][r % TILE]. A warp computes a unit for the rows of a tile, a lane
// four or eight of them. Definitions: GROUP (1 or 8), INDEX, HALF, for activations of fp16.
#include "values.cuh"

constexpr int WARPS = 8;

template <bool BITS>
__device__ __forceinline__ Packed read(const void* in, u32 neuron, u32 lane) {
  if (BITS) return pack(unpack(__ldg((const u32*)in + neuron * (TILE / 32) + lane * LANE / 32) >> lane * LANE % 32));
  return __ldg((const Packed*)((const Value*)in + (u64)neuron * TILE) + lane);
}

template <bool BITS, int G, int N>
__device__ __forceinline__ void add_entries(const Layer& layer, u64 from, u64 to, u32 stride, const void* in,
                                            u32 lane, Rows (&sum)[G]) {
  constexpr int W = N * G < 4 ? N * G : 4;  // weights a load brings
#pragma unroll 1
  for (u64 k = from; k != to; k += stride) {
    const Indices<N> index = *(const Indices<N>*)(layer.index + k);
    Packed x[N];
#pragma unroll
    for (int n = 0; n < N; n++) x[n] = read<BITS>(in, index.at[n], lane);
    Rows of;  // an entry
#pragma unroll
    for (int i = 0; i < N * G; i += W) {
      const Floats<W> w = *(const Floats<W>*)(layer.weight + k * G + i);
#pragma unroll
      for (int q = 0; q < W; q++) {
        if ((i + q) % G == 0) of = unpack(x[(i + q) / G]);
        multiply_add(sum[(i + q) % G], w.at[q], of);
      }
    }
  }
}

template <bool BITS, int G>
__device__ __forceinline__ Seen compute(const Layer& layer, u32 unit, const void* in, Value* out, u32 lane) {
  Rows sum[G] = {};
  if (layer.width % 8 == 0 && layer.width) {
    const u64 from = step_start(layer, unit);
    const u32 stride = step_stride(layer);
    add_entries<BITS, G, 8>(layer, from, from + layer.width / 8 * stride, stride, in, lane, sum);
  } else {
    add_entries<BITS, G, 2>(layer, unit_start(layer, unit), unit_start(layer, unit + 1), 2, in, lane, sum);
  }
  Seen seen = {};
#pragma unroll
  for (int g = 0; g < G; g++) {
    const u32 output = layer.output ? layer.output[unit * G + g] : unit;
    if (output == NONE) continue;
    const float bias = layer.bias ? layer.bias[output] : layer.bias0;
    const Packed y = pack(activate(sum[g], bias, layer));
    seen |= Seen(y);
    *((Packed*)(out + (u64)output * TILE) + lane) = y;
  }
  return seen;
}

// A block computes WARPS · units_per_warp units at a time.
template <bool BITS, int G>
__device__ __forceinline__ void layer_tiles(const Layer& layer, u32 units_per_warp, const void* in, u64 in_stride,
                                            Value* out, u64 out_stride, u8* alive, u32 rows) {
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 parts = (layer.units + WARPS * units_per_warp - 1) / (WARPS * units_per_warp);
  const u32 items = (rows + TILE - 1) / TILE * parts;
  for (u32 item = blockIdx.x; item < items; item += gridDim.x) {
    const u32 tile = item / parts, part = item - tile * parts;
    const void* from = (const u8*)in + tile * in_stride;
    Value* to = out + tile * out_stride;
    Seen seen = {};
    for (u32 i = 0; i < units_per_warp; i++) {
      const u32 unit = (part * units_per_warp + i) * WARPS + warp;
      if (unit >= layer.units) break;
      seen |= compute<BITS, G>(layer, unit, from, to, lane);
    }
    if (!alive) continue;
#pragma unroll
    for (int i = 0; i < FOURS; i++) {
      const u32 any = seen.flags(i);
      u32* flags = (u32*)(alive + tile * TILE) + lane * FOURS + i;
      if (any && (*flags | any) != *flags) atomicOr(flags, any);
    }
  }
}

// in_stride: bytes a tile of the input, bits or values; out_stride: values a tile of the output.
// alive[r] (null: not asked for) becomes 1 for rows with a value that is not zero. Any grid will do.
extern "C" __global__ void __launch_bounds__(WARPS * 32)
    stream(const Layer* layers, u32 l, u32 units_per_warp, const void* in, u64 in_stride, u32 is_bits, Value* out,
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
