// Many layers of a few rows: a block takes one row through all of them, the next layers' weights on their way meanwhile.
//
// Definitions: THREADS, AHEAD (layers on their way besides the present one), INDEX.
#include "common.cuh"
#include "row.cuh"

constexpr u32 WORDS = sizeof(Layer) / 4;
constexpr u32 RECORDS = 2 * AHEAD + 1;  // a layer's record comes before its weights are sent for

__device__ __forceinline__ void copy_all(u8* shared, const void* global, u32 bytes) {
  for (u32 i = threadIdx.x * 16; i < bytes; i += THREADS * 16) copy_async_16(shared + i, (const u8*)global + i);
}

__device__ __forceinline__ void prefetch_all(const void* global, u64 bytes) {
  for (u64 i = threadIdx.x * 128; i < bytes; i += THREADS * 128) prefetch((const u8*)global + i);
}

// Where the arrays of a layer are in a buffer.
struct Places {
  u32 weight, start, output, bias, end;
  __device__ __forceinline__ Places(const Layer& layer) {
    const bool turned = layer.turns;
    weight = turned ? layer.all_steps * vectors(layer) * 512 : up16(layer.entries * (u32)sizeof(INDEX));
    start = weight + (turned ? 0 : up16(layer.entries * layer.g * 4));
    const u32 starts = turned ? (layer.turn_start ? (layer.slices + 1) * 4 : 0) : layer.start ? (layer.units + 1) * 8 : 0;
    output = start + up16(starts);
    bias = output + ((turned ? layer.turn_output : layer.output) ? up16(all_units(layer) * layer.g * 4) : 0);
    end = bias + (layer.bias ? up16(layer.outputs * 4) : 0);
  }
};

// Sends for a layer. One that takes more than `room` is brought as near as L2, and read from there.
__device__ __forceinline__ bool bring(const Layer& layer, u8* to, u32 room) {
  const Places place(layer);
  const Arrays from(layer);
  if (place.end > room) {
    prefetch_all(from.entries, place.weight);
    prefetch_all(from.weight, place.start - place.weight);
    if (from.start) prefetch_all(from.start, place.output - place.start);
    if (from.output) prefetch_all(from.output, place.bias - place.output);
    return false;
  }
  copy_all(to, from.entries, place.weight);
  copy_all(to + place.weight, from.weight, place.start - place.weight);
  if (from.start) copy_all(to + place.start, from.start, place.output - place.start);
  if (from.output) copy_all(to + place.output, from.output, place.bias - place.output);
  if (from.bias) copy_all(to + place.bias, from.bias, place.end - place.bias);
  return true;
}

// `layer` as it is in a buffer.
__device__ __forceinline__ Arrays arrived(const Layer& layer, const u8* at) {
  const Places place(layer);
  Arrays arrays(layer);
  arrays.entries = at;
  arrays.weight = (const float*)(at + place.weight);
  if (arrays.start) arrays.start = at + place.start;
  if (arrays.output) arrays.output = (const u32*)(at + place.output);
  if (arrays.bias) arrays.bias = (const float*)(at + place.bias);
  return arrays;
}

__device__ __forceinline__ bool compute(const Layer& layer, const Arrays& arrays, const float* in, float* out) {
  bool alive = false;
  const u32 items = all_units(layer) * layer.g;
  for (u32 item = threadIdx.x; item < items; item += THREADS) {
    const u32 output = arrays.output ? arrays.output[item] : item;
    if (output == NONE) continue;
    const float y = activate(sum_of(layer, arrays, item, in, 0), arrays.bias ? arrays.bias[output] : layer.bias0, layer);
    alive |= y != 0.0f;
    out[output] = y;
  }
  return alive;
}

// As `fused`, for *count of least … most rows; with any other number it does nothing. `room`: bytes of a buffer for weights;
// layers that take more are read where they are.
extern "C" __global__ void __launch_bounds__(THREADS)
    few(const Layer* layers, u32 first, u32 last, const float* x, u64 x_stride, const u32* list, const u32* count,
        float* kept, u64 kept_stride, u64* hashes, u32* slot, u32* kept_count, u32 span, u32 room, u32 early, u32 drop,
        u32 least, u32 most) {
  extern __shared__ __align__(16) float memory[];
  __shared__ __align__(16) u32 records[RECORDS][WORDS];
  u8* buffers = (u8*)(memory + 2 * span);
  const u32 rows = *count;
  if (rows < least || rows > most) return;
  for (u32 number = blockIdx.x; number < rows; number += gridDim.x) {
    const u32 source = list ? list[number] : number;
    __syncthreads();
    for (u32 i = threadIdx.x; i < 2 * AHEAD * WORDS; i += THREADS)
      if (first + i / WORDS < last) records[i / WORDS][i % WORDS] = ((const u32*)(layers + first))[i];
    float *now = memory, *next = memory + span;
    __syncthreads();
    u32 here = 0;  // a bit for each buffer: its layer is in it
    for (u32 l = 0; l < AHEAD; l++) {
      if (first + l < last) here |= (u32)bring(*(const Layer*)records[l], buffers + l * room, room) << l;
      copy_commit();
    }
    const u32 inputs = ((const Layer*)records[0])->inputs;
    for (u32 n = threadIdx.x; n < inputs; n += THREADS) now[n] = x[(u64)source * x_stride + n];
    copy_wait<AHEAD - 1>();
    __syncthreads();
    bool any = true, dead = false;
    for (u32 l = 0; l < last - first; l++) {
      const Layer& layer = *(const Layer*)records[l % RECORDS];
      const u32 coming = l + AHEAD, into = coming % (AHEAD + 1);
      if (first + coming < last) {
        const bool fits = bring(*(const Layer*)records[coming % RECORDS], buffers + into * room, room);
        here = (here & ~(1u << into)) | (u32)fits << into;
      }
      if (first + coming + AHEAD < last && threadIdx.x < WORDS)
        copy_async_4(&records[(coming + AHEAD) % RECORDS][threadIdx.x],
                     (const u32*)(layers + first + coming + AHEAD) + threadIdx.x);
      copy_commit();
      const bool near = here >> l % (AHEAD + 1) & 1;
      const bool alive = near ? compute(layer, arrived(layer, buffers + l % (AHEAD + 1) * room), now, next)
                              : compute(layer, Arrays(layer), now, next);
      const bool leave = early && layer.may_drop;
      float* swap = now;
      now = next;
      next = swap;
      copy_wait<AHEAD - 1>();
      any = __syncthreads_or(alive);
      if (!any && leave) {
        dead = true;
        break;
      }
    }
    copy_wait_all();
    hand_on(now, layers[last - 1].outputs, !dead && (any || !drop), source, kept, kept_stride, hashes, slot, kept_count);
  }
}
