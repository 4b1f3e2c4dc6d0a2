// Many layers of a few rows: a block takes one row through all of them, the next layer's weights on their way meanwhile.
//
// Definitions: THREADS, INDEX. Same results, bit for bit, as fused.cu.
#include "common.cuh"

constexpr u32 WORDS = sizeof(Layer) / 4;

__device__ __forceinline__ void copy_all(u8* shared, const void* global, u32 bytes) {
  for (u32 i = threadIdx.x * 16; i < bytes; i += THREADS * 16) copy_async_16(shared + i, (const u8*)global + i);
}

__device__ __forceinline__ u32 up16(u32 bytes) { return (bytes + 15) & ~15u; }

// Where the arrays of a layer are in a buffer.
struct Places {
  u32 weight, start, output, bias, end;
  __device__ __forceinline__ Places(const Layer& layer) {
    weight = up16(layer.entries * (u32)sizeof(INDEX));
    start = weight + up16(layer.entries * layer.g * 4);
    output = start + (layer.start ? up16((layer.units + 1) * 8) : 0);
    bias = output + (layer.output ? up16(layer.units * layer.g * 4) : 0);
    end = bias + (layer.bias ? up16(layer.outputs * 4) : 0);
  }
};

__device__ __forceinline__ bool bring(const Layer& layer, u8* to, u32 room) {
  const Places place(layer);
  if (place.end > room) return false;
  copy_all(to, layer.index, place.weight);
  copy_all(to + place.weight, layer.weight, place.start - place.weight);
  if (layer.start) copy_all(to + place.start, layer.start, place.output - place.start);
  if (layer.output) copy_all(to + place.output, layer.output, place.bias - place.output);
  if (layer.bias) copy_all(to + place.bias, layer.bias, place.end - place.bias);
  return true;
}

__device__ __forceinline__ bool compute(const Layer& layer, const INDEX* index, const float* weight, const u64* start,
                                        const u32* outputs, const float* biases, const float* in, float* out) {
  bool alive = false;
  const u32 g = layer.g, items = layer.units * g;
  for (u32 item = threadIdx.x; item < items; item += THREADS) {
    const u32 unit = g == 1 ? item : item / g, member = item - unit * g;
    const u32 output = outputs ? outputs[item] : unit;
    if (output == NONE) continue;
    const u64 from = start ? start[unit] : (u64)unit * layer.width;
    const u64 to = start ? start[unit + 1] : from + layer.width;
    float sum = 0;
    if (layer.sliced) {
      const u32 stride = step_stride(layer);
      u64 at = step_start(layer, unit);
#pragma unroll 2
      for (u32 s = 0; s < layer.width; s += 8, at += stride) {
        const Indices<8> i = *(const Indices<8>*)(index + at);
        const Floats<8> w = *(const Floats<8>*)(weight + at);
#pragma unroll
        for (int n = 0; n < 8; n++) sum = fmaf(w.at[n], in[i.at[n]], sum);
      }
    } else if (g == 1) {
#pragma unroll 4
      for (u64 k = from; k < to; k += 2) {
        const Indices<2> i = *(const Indices<2>*)(index + k);
        const Floats<2> w = *(const Floats<2>*)(weight + k);
        sum = fmaf(w.at[0], in[i.at[0]], sum);
        sum = fmaf(w.at[1], in[i.at[1]], sum);
      }
    } else {
#pragma unroll 4
      for (u64 k = from; k < to; k++) sum = fmaf(weight[k * g + member], in[index[k]], sum);
    }
    const float y = activate(sum, biases ? biases[output] : layer.bias0, layer);
    alive |= y != 0.0f;
    out[output] = y;
  }
  return alive;
}

// As `fused`, for *count of 1 … most rows; with any other number it does nothing. `room`: bytes of a buffer for weights;
// layers that take more are read where they are.
extern "C" __global__ void __launch_bounds__(THREADS)
    few(const Layer* layers, u32 first, u32 last, const float* x, u64 x_stride, const u32* list, const u32* count,
        float* kept, u64 kept_stride, u64* hashes, u32* slot, u32* kept_count, u32 span, u32 room, u32 early, u32 drop,
        u32 most) {
  extern __shared__ __align__(16) float memory[];
  __shared__ __align__(16) u32 ring[3][WORDS];
  __shared__ u32 target;
  __shared__ u64 hash;
  u8* buffers = (u8*)(memory + 2 * span);
  const u32 rows = *count;
  if (rows > most) return;
  for (u32 number = blockIdx.x; number < rows; number += gridDim.x) {
    const u32 source = list ? list[number] : number;
    __syncthreads();
    for (u32 i = threadIdx.x; i < 2 * WORDS; i += THREADS)
      if (first + i / WORDS < last) ring[i / WORDS][i % WORDS] = ((const u32*)(layers + first))[i];
    if (threadIdx.x == 0) hash = 0;
    float *now = memory, *next = memory + span;
    __syncthreads();
    bool here = bring(*(const Layer*)ring[0], buffers, room);
    const u32 inputs = ((const Layer*)ring[0])->inputs;
    for (u32 n = threadIdx.x; n < inputs; n += THREADS) now[n] = x[(u64)source * x_stride + n];
    copy_wait_all();
    __syncthreads();
    bool any = true, dead = false;
    for (u32 l = 0; l < last - first; l++) {
      const Layer& layer = *(const Layer*)ring[l % 3];
      bool following = false;
      if (first + l + 1 < last) following = bring(*(const Layer*)ring[(l + 1) % 3], buffers + (l + 1) % 2 * room, room);
      if (first + l + 2 < last && threadIdx.x < WORDS)
        copy_async_4(&ring[(l + 2) % 3][threadIdx.x], (const u32*)(layers + first + l + 2) + threadIdx.x);
      bool alive;
      if (here) {
        const Places place(layer);
        const u8* at = buffers + l % 2 * room;
        alive = compute(layer, (const INDEX*)at, (const float*)(at + place.weight),
                        layer.start ? (const u64*)(at + place.start) : nullptr,
                        layer.output ? (const u32*)(at + place.output) : nullptr,
                        layer.bias ? (const float*)(at + place.bias) : nullptr, now, next);
      } else {
        alive = compute(layer, layer.index, layer.weight, layer.start, layer.output, layer.bias, now, next);
      }
      here = following;
      const bool leave = early && layer.may_drop;
      float* swap = now;
      now = next;
      next = swap;
      copy_wait_all();
      any = __syncthreads_or(alive);
      if (!any && leave) {
        dead = true;
        break;
      }
    }
    const bool keep = !dead && (any || !drop);
    if (threadIdx.x == 0) {
      target = keep ? atomicAdd(kept_count, 1) : NONE;
      slot[source] = target;
    }
    __syncthreads();
    if (!keep) continue;
    const u32 to = target;
    const u32 neurons = layers[last - 1].outputs;
    u64 sum = 0;
    for (u32 n = threadIdx.x; n < neurons; n += THREADS) {
      const float value = now[n];
      kept[(u64)to * kept_stride + n] = value;
      sum += hash_term(n, value);
    }
#pragma unroll
    for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(NONE, sum, step);
    if (threadIdx.x % 32 == 0) atomicAdd(&hash, sum);
    __syncthreads();
    if (threadIdx.x == 0) hashes[to] = hash;
  }
}
