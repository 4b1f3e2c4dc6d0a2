// A layer over tiles of 128 rows (neuron-major within a tile), piece by piece (`pieces.py`): a block brings the inputs of a
// piece of the layer for 32 rows into shared memory, and a lane computes an output for half of them, while the next inputs
// are on their way.
//
// Definitions: THREADS, twice as many as a piece has outputs at most; SLOTS, the most inputs of a piece; STAGES, the inputs
// there is room for: with 1, nothing is on its way while a piece is computed; INDEX.
#include "turn.cuh"

constexpr u32 TILE = 128, ROWS = 32, HALF = ROWS / 2, QUADS = HALF / 4, PARTS = TILE / ROWS, NUMBERS = 4;
constexpr u32 PITCH = ROWS + 4;  // floats from a slot to the next: neighbours are in different banks
constexpr u32 STAGE = (SLOTS + 1) * PITCH;
constexpr u32 RECORD = SLOTS + NUMBERS;

// A layer. Mirrors `pack.PIECED` in Python.
struct Pieced {
  const u32* piece;  // (pieces, RECORD): of a piece its inputs' number, its first slice, its slices, 0, and its inputs
  const uint4* turns;
  const u32* turn_start;  // null: slice s has the steps s · turn_steps …
  const u32* output;      // of each of the slices' units, NONE for padding
  const float* bias;      // null: bias0 everywhere
  float bias0, lower, upper;
  u32 pieces, turn_steps, bias_all, coded, unused;
};

// 32 rows of a tile, and a piece for them.
struct Item {
  u32 piece, tile, part;
  __device__ __forceinline__ Item(u32 number, u32 pieces)
      : piece(number / PARTS % pieces), tile(number / PARTS / pieces), part(number % PARTS) {}
  __device__ __forceinline__ u32 row() const { return tile * TILE + part * ROWS; }
};

__device__ __forceinline__ void send_record(const Pieced& layer, const Item& item, u32* record) {
  const u32* from = layer.piece + (u64)item.piece * RECORD;
  for (u32 i = threadIdx.x * 4; i < RECORD; i += THREADS * 4) copy_async_16(record + i, from + i);
}

// The row of the list that the thread sends for.
__device__ __forceinline__ u32 listed(const Source& source, const Item& item) {
  return source.list ? source.list[min(item.row() + threadIdx.x % ROWS, source.rows - 1)] : 0;
}

// Sends for the inputs of a piece, to a stage that is free. Bits stay bits there, a word a slot.
__device__ __forceinline__ void send_inputs(const Source& source, const Item& item, const u32* record, u32 row,
                                            float* stage) {
  const u32 inputs = record[0];
  const u32* input = record + NUMBERS;
  if (source.is_bits) {
    const u8* from = source.in + item.tile * source.stride + item.part * (ROWS / 8);
    for (u32 n = threadIdx.x; n < inputs; n += THREADS) copy_async_4(stage + n, from + (u64)input[n] * (TILE / 8));
  } else if (source.list) {
    const float* from = (const float*)(source.in + row / TILE * source.stride) + row % TILE;
    float* to = stage + threadIdx.x % ROWS;
    for (u32 n = threadIdx.x / ROWS; n < inputs; n += THREADS / ROWS)
      copy_async_4(to + n * PITCH, from + (u64)input[n] * TILE);
  } else {
    constexpr u32 FOURS = ROWS / 4;
    const u32 four = threadIdx.x % FOURS * 4;
    const float* from = (const float*)(source.in + item.tile * source.stride) + item.part * ROWS + four;
    float* to = stage + four;
    for (u32 n = threadIdx.x / FOURS; n < inputs; n += THREADS / FOURS)
      copy_async_16(to + n * PITCH, from + (u64)input[n] * TILE);
  }
}

__device__ __forceinline__ u32 first_step(const Pieced& layer, u32 slice) {
  return layer.turn_start ? layer.turn_start[slice] : slice * layer.turn_steps;
}

template <bool CODED>
__device__ __forceinline__ const uint4* turn(const Pieced& layer, u32 step) {
  return layer.turns + (u64)step * (32 * Turn<CODED>::VECTORS) + threadIdx.x % 32;
}

// The rows of an item that the warp computes; its neighbour computes the others of the same slice.
__device__ __forceinline__ u32 half() { return threadIdx.x / 32 % 2 * HALF; }

// What a warp has to know of its slice of a piece.
template <bool CODED>
struct Share {
  u32 step, steps, output;
  Turn<CODED> first;
  __device__ __forceinline__ void load(const Pieced& layer, const u32* record) {
    const u32 mine = threadIdx.x / 64, slice = record[1] + mine;
    step = steps = 0;
    output = NONE;
    if (mine >= record[2]) return;
    step = first_step(layer, slice);
    steps = first_step(layer, slice + 1) - step;
    output = layer.output[slice * 32 + threadIdx.x % 32];
    if (steps) first.load(turn<CODED>(layer, step));
  }
};

template <bool BITS>
__device__ __forceinline__ void add(float4 (&sum)[QUADS], float w, const float* stage, u32 slot, u32 shift) {
  const u32 bits = BITS ? ((const u32*)stage)[slot] >> shift : 0;
#pragma unroll
  for (u32 q = 0; q < QUADS; q++) {
    if (BITS) {
      const u32 field = bits >> 4 * q;
      if (field & 1) sum[q].x += w;
      if (field & 2) sum[q].y += w;
      if (field & 4) sum[q].z += w;
      if (field & 8) sum[q].w += w;
    } else {
      multiply_add(sum[q], w, ((const float4*)(stage + slot * PITCH))[q]);
    }
  }
}

// Among four lanes that each have the four quads of a unit: each gets the quad of its number of the four units.
__device__ __forceinline__ void exchange(float4 (&quad)[QUADS]) {
#pragma unroll
  for (int apart = 1; apart < 4; apart *= 2) {
    const bool upper = threadIdx.x & apart;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (i & apart) continue;
      float4 &low = quad[i], &high = quad[i | apart];
      const float4 mine = upper ? low : high;
      float4 theirs;
      theirs.x = __shfl_xor_sync(NONE, mine.x, apart);
      theirs.y = __shfl_xor_sync(NONE, mine.y, apart);
      theirs.z = __shfl_xor_sync(NONE, mine.z, apart);
      theirs.w = __shfl_xor_sync(NONE, mine.w, apart);
      (upper ? low : high) = theirs;
    }
  }
}

template <bool BITS, bool CODED>
__device__ __forceinline__ void compute(const Pieced& layer, const Item& item, const Share<CODED>& share,
                                        const float* stage, float* out, u64 out_stride, u8* alive) {
  float4 sum[QUADS] = {};
  Turn<CODED> next = share.first;
  const uint4* from = turn<CODED>(layer, share.step);
  if (!BITS) stage += half();
  for (u32 s = 0; s < share.steps; s++) {
    const Turn<CODED> now = next;
    from += 32 * Turn<CODED>::VECTORS;
    if (s + 1 < share.steps) next.load(from);
#pragma unroll
    for (int n = 0; n < 4; n++) add<BITS>(sum, now.weight(n), stage, now.index(n), half());
  }
  const float bias = layer.bias && share.output != NONE ? layer.bias[share.output] : layer.bias0;
  u32 seen = 0;
#pragma unroll
  for (u32 q = 0; q < QUADS; q++) {
    sum[q] = activate(sum[q], bias, layer);
    seen |= alive_bits(sum[q], 1) << 4 * q;
  }
  if (share.output == NONE) seen = 0;
  // whole sectors: four lanes write the 16 rows of an output together
  exchange(sum);
  const u32 lane = threadIdx.x % 32;
  float* to = out + item.tile * out_stride + item.part * ROWS + half() + lane % 4 * 4;
#pragma unroll
  for (u32 i = 0; i < 4; i++) {
    const u32 output = __shfl_sync(NONE, share.output, lane & ~3u | i);
    if (output != NONE) *(float4*)(to + (u64)output * TILE) = sum[i];
  }
  if (!alive) return;
#pragma unroll
  for (int apart = 16; apart; apart /= 2) seen |= __shfl_xor_sync(NONE, seen, apart);
  if (lane < HALF && seen >> lane & 1) alive[item.row() + half() + lane] = 1;
}

template <bool CODED>
__device__ __forceinline__ void run(const Pieced& layer, const Source& source, float* out, u64 out_stride, u8* alive,
                                    float* memory) {
  u32* records = (u32*)(memory + STAGES * STAGE);  // of three items, in turns
  const u32 groups = (source.rows + ROWS - 1) / ROWS, tiles = (source.rows + TILE - 1) / TILE;
  const u32 items = tiles * layer.pieces * PARTS;
  // the next item with rows, `items` or more if there is none
  const auto after = [&](u32 number) {
    number += gridDim.x;
    while (number < items && Item(number, layer.pieces).row() / ROWS >= groups) number += gridDim.x;
    return number;
  };
  u32 number = blockIdx.x;
  if (number < items && Item(number, layer.pieces).row() / ROWS >= groups) number = after(number);
  if (number >= items) return;
  // what padding reads, of floats and of bits
  for (u32 i = threadIdx.x; i < STAGES * PITCH; i += THREADS) {
    float* stage = memory + i / PITCH * STAGE;
    stage[SLOTS * PITCH + i % PITCH] = stage[SLOTS] = 0.0f;
  }
  u32 next = after(number), turns = 0;
  send_record(layer, Item(number, layer.pieces), records);
  if (next < items) send_record(layer, Item(next, layer.pieces), records + RECORD);
  u32 row = listed(source, Item(number, layer.pieces));
  copy_wait_all();
  __syncthreads();
  send_inputs(source, Item(number, layer.pieces), records, row, memory);
  if (next < items) row = listed(source, Item(next, layer.pieces));
  Share<CODED> share;
  share.load(layer, records);
  while (number < items) {
    const Item item(number, layer.pieces);
    float* stage = memory + turns % STAGES * STAGE;
    const u32* record = records + (turns + 1) % 3 * RECORD;  // of the next item
    const u32 later = next < items ? after(next) : next;
    copy_wait_all();
    __syncthreads();  // the inputs and the next record are here, and what the other stage held has been used
    if (later < items) send_record(layer, Item(later, layer.pieces), records + (turns + 2) % 3 * RECORD);
    if (STAGES > 1 && next < items)
      send_inputs(source, Item(next, layer.pieces), record, row, memory + (turns + 1) % STAGES * STAGE);
    if (source.is_bits)
      compute<true, CODED>(layer, item, share, stage, out, out_stride, alive);
    else
      compute<false, CODED>(layer, item, share, stage, out, out_stride, alive);
    if (next < items) share.load(layer, record);
    if (STAGES == 1 && next < items) {
      __syncthreads();
      send_inputs(source, Item(next, layer.pieces), record, row, memory);
    }
    if (later < items) row = listed(source, Item(later, layer.pieces));
    number = next;
    next = later;
    turns++;
  }
}

// Layer l. Row r of the tiles is row list[r] of the input, which is tiled alike; list null or *identity: row r itself.
// in_stride: bytes a tile of the input, bits (then no list) or float; out_stride: floats a tile of the output.
// alive[r] (null: not asked for) becomes 1 for rows with a value that is not zero.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    pieces(const Pieced* layers, u32 l, const u8* in, u64 in_stride, u32 is_bits, float* out, u64 out_stride, u8* alive,
           const u32* count, const u32* list, const u32* identity) {
  extern __shared__ __align__(16) float memory[];
  __shared__ __align__(16) u32 words[sizeof(Pieced) / 4];
  if (threadIdx.x < sizeof(Pieced) / 4) words[threadIdx.x] = ((const u32*)(layers + l))[threadIdx.x];
  __syncthreads();
  const Pieced& layer = *(const Pieced*)words;
  const Source source = {in, in_stride, list && !*identity ? list : nullptr, *count, is_bits};
  if (layer.coded)
    run<true>(layer, source, out, out_stride, alive, memory);
  else
    run<false>(layer, source, out, out_stride, alive, memory);
}
