// Several layers of a tile of 14 rows that doesn't fit shared memory twice: outputs take the places of inputs.
//
// The value of a row at a place p is tile[p · 12 + row], of the last two rows tile[places · 12 + p · 2 + row − 12]: an odd
// number of 16 bytes from one place to the next, so that neighbouring places are in different banks. A layer is computed
// in passes of THREADS units. The outputs of a pass go to places that hold no value, or one that no later pass reads
// (`places.py`); where there are too few of those, all outputs go `through` main memory instead.
//
// Definitions: THREADS, INDEX.
#define ROWS 16  // that the threads bring in and take out at a time
#include "tile.cuh"

constexpr u32 TAKEN = 14, FOURS = 3, WARPS = THREADS / 32, NOWHERE = 0xffff;

struct Rows {
  float4 four[FOURS];
  float2 two;
};

__device__ __forceinline__ float* at(float* tile, u32 places, u32 place, u32 row) {
  return row < 4 * FOURS ? tile + place * 4 * FOURS + row : tile + places * 4 * FOURS + place * 2 + row - 4 * FOURS;
}

__device__ __forceinline__ void multiply_add(Rows& sum, float w, const float* tile, u32 places, u32 place) {
  const float4* four = (const float4*)(tile + place * 4 * FOURS);
#pragma unroll
  for (u32 q = 0; q < FOURS; q++) multiply_add(sum.four[q], w, four[q]);
  const float2 x = ((const float2*)(tile + places * 4 * FOURS))[place];
  sum.two.x = fmaf(w, x.x, sum.two.x);
  sum.two.y = fmaf(w, x.y, sum.two.y);
}

// The weight onto the sums of rows whose bit is set.
__device__ __forceinline__ void add_where(Rows& sum, float w, u32 bits) {
#pragma unroll
  for (u32 q = 0; q < FOURS; q++) {
    const u32 field = bits >> 4 * q;
    if (field & 1) sum.four[q].x += w;
    if (field & 2) sum.four[q].y += w;
    if (field & 4) sum.four[q].z += w;
    if (field & 8) sum.four[q].w += w;
  }
  if (bits >> 4 * FOURS & 1) sum.two.x += w;
  if (bits >> 4 * FOURS & 2) sum.two.y += w;
}

// Returns a bit for each row with a value that is not zero.
__device__ __forceinline__ u32 activate_rows(Rows& sum, float bias, const Layer& layer) {
  u32 alive = 0;
#pragma unroll
  for (u32 q = 0; q < FOURS; q++) {
    sum.four[q] = activate(sum.four[q], bias, layer);
    alive |= alive_bits(sum.four[q], 1) << 4 * q;
  }
  sum.two = make_float2(activate(sum.two.x, bias, layer), activate(sum.two.y, bias, layer));
  return alive | ((sum.two.x != 0.0f) | (sum.two.y != 0.0f) << 1) << 4 * FOURS;
}

__device__ __forceinline__ void put(const Rows& rows, float* tile, u32 places, u32 place) {
  float4* four = (float4*)(tile + place * 4 * FOURS);
#pragma unroll
  for (u32 q = 0; q < FOURS; q++) four[q] = rows.four[q];
  ((float2*)(tile + places * 4 * FOURS))[place] = rows.two;
}

template <bool CODED>
__device__ __forceinline__ const uint4* slice_start(const Layer& layer, u32 slice) {
  const u32 step = layer.turn_start ? layer.turn_start[slice] : slice * layer.turn_steps;
  return layer.placed + (u64)step * (32 * Turn<CODED>::VECTORS) + threadIdx.x % 32;
}

// One layer; of bits, a u16 an input, if BITS.
template <bool BITS, bool CODED>
__device__ __forceinline__ u32 compute(const Layer& layer, const u16* bits, float* tile, u32 places, Rows* scratch) {
  const bool through = !BITS && layer.through;
  u32 alive = 0;
  Turn<CODED> next;
  if (threadIdx.x / 32 < layer.slices) next.load(slice_start<CODED>(layer, threadIdx.x / 32));
  for (u32 pass = 0; pass < layer.slices; pass += WARPS) {
    const u32 slice = pass + threadIdx.x / 32, unit = slice * 32 + threadIdx.x % 32;
    Rows sum = {};
    u32 place = NOWHERE;
    if (slice < layer.slices) {
      place = layer.place[unit];
      const u32 steps = layer.turn_start ? layer.turn_start[slice + 1] - layer.turn_start[slice] : layer.turn_steps;
      const uint4* from = slice_start<CODED>(layer, slice);
      for (u32 s = 0; s < steps; s++) {
        const Turn<CODED> now = next;
        from += 32 * Turn<CODED>::VECTORS;
        if (s + 1 < steps) {
          next.load(from);
        } else if (slice + WARPS < layer.slices) {
          next.load(slice_start<CODED>(layer, slice + WARPS));
        }
#pragma unroll
        for (int n = 0; n < 4; n++) {
          if (BITS)
            add_where(sum, now.weight(n), __ldg(bits + now.index(n)));
          else
            multiply_add(sum, now.weight(n), tile, places, now.index(n));
        }
      }
      if (steps == 0 && slice + WARPS < layer.slices) next.load(slice_start<CODED>(layer, slice + WARPS));
      if (place != NOWHERE) {
        const u32 output = layer.bias && layer.turn_output ? layer.turn_output[unit] : unit;
        alive |= activate_rows(sum, layer.bias ? layer.bias[output] : layer.bias0, layer);
      }
    }
    if (!BITS && !through) __syncthreads();
    if (place == NOWHERE) continue;
    if (through)
      scratch[unit] = sum;
    else
      put(sum, tile, places, place);
  }
  if (!through) return alive;
  __syncthreads();
  for (u32 unit = threadIdx.x; unit < layer.slices * 32; unit += THREADS) {
    const u32 place = layer.place[unit];
    if (place != NOWHERE) put(scratch[unit], tile, places, place);
  }
  return alive;
}

template <bool BITS>
__device__ __forceinline__ u32 compute(const Layer& layer, const u16* bits, float* tile, u32 places, Rows* scratch) {
  return layer.coded ? compute<BITS, true>(layer, bits, tile, places, scratch)
                     : compute<BITS, false>(layer, bits, tile, places, scratch);
}

// As `fused`. Bits are in tiles of 14 rows, a u16 a neuron. `scratch`: `units` sums for each block, null where no layer
// goes through it; `places` of the tile, the last of which is zero always.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    placed(const Layer* layers, u32 first, u32 last, const u8* bits, u64 bits_stride, const float* x, u64 x_stride,
           const u32* list, const u32* count, float* kept, u64 kept_stride, u64* hashes, u32* slot, u32* kept_count,
           u32 places, u32 early, u32 drop, u32 least, Rows* scratch, u64 units) {
  extern __shared__ __align__(16) float tile[];
  __shared__ u32 alive_rows;
  __shared__ Ending ending;
  __shared__ __align__(16) u32 ring[3][WORDS];  // the present layer and the next ones, in turns
  const u32 rows = *count;
  if (rows < least) return;
  if (scratch) scratch += blockIdx.x * units;
  if (threadIdx.x < TAKEN) *at(tile, places, places - 1, threadIdx.x) = 0.0f;
  for (u32 number = blockIdx.x; number * TAKEN < rows; number += gridDim.x) {
    __syncthreads();
    const int valid = min(TAKEN, rows - number * TAKEN);
    ending.begin(number * TAKEN, valid, list);
    if (threadIdx.x == 0) alive_rows = 0;
    for (u32 i = threadIdx.x; i < 2 * WORDS; i += THREADS)
      if (first + i / WORDS < last) ring[i / WORDS][i % WORDS] = ((const u32*)(layers + first))[i];
    __syncthreads();
    const u32 row = threadIdx.x % ROWS;
    if (!bits && row < TAKEN) {
      const u32 source = ending.source[row];
      const u16* place = ((const Layer*)ring[0])->place_in;
      const auto to = [=](u32 n, float value) { *at(tile, places, place ? place[n] : n, row) = value; };
      load_row(source == NONE ? nullptr : x + (u64)source * x_stride, layers[first].inputs, x_stride % 4 == 0, to);
    }
    __syncthreads();
    u32 alive = 0;
    bool dead = false;
    for (u32 l = first; l < last; l++) {
      const Layer& layer = *(const Layer*)ring[(l - first) % 3];
      u32 word = 0;
      if (threadIdx.x < WORDS && l + 2 < last) word = ((const u32*)(layers + l + 2))[threadIdx.x];
      if (bits && l == first)
        alive = compute<true>(layer, (const u16*)(bits + number * bits_stride), tile, places, scratch);
      else
        alive = compute<false>(layer, nullptr, tile, places, scratch);
      if (threadIdx.x < WORDS && l + 2 < last) ring[(l + 2 - first) % 3][threadIdx.x] = word;
      const bool leave = early && layer.may_drop;
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
    const u16* place = layers[last - 1].place_out;
    const auto value = [=](u32 n) { return row < TAKEN ? *at(tile, places, place[n], row) : 0.0f; };
    ending.keep(value, layers[last - 1].outputs, kept, kept_stride, hashes);
  }
}
