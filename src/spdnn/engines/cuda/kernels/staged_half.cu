// As staged.cu, for activations of fp16, with tiles of 256 rows: a lane of a warp has eight rows of each of two tiles.
//
// Definitions as there, and HALF. What a block has to know before it can send for a chunk goes through shared memory,
// and a warp loads values a part ahead of the sums.
#include "chunked.cuh"
#include "values.cuh"

constexpr int WORDS_OF_BITS = TILE / 32;  // of a slot and tile

// What a block has to know before it can send for a chunk; brought in well before.
struct Order {
  u32 input[SLOTS];       // of each slot
  u32 row[PAIR * TILE];   // where the rows are
};

__device__ __forceinline__ void prepare(const Chunked& layer, const Source& source, const Item& item, u32 head,
                                        Order& order) {
  const u32 first = word(head, FIRST_INPUT), inputs = word(head, INPUTS);
  for (u32 i = threadIdx.x; i < inputs; i += WARPS * 32) copy_async_4(&order.input[i], layer.input + first + i);
  if (!source.list) return;
  for (u32 i = threadIdx.x; i < item.tiles * TILE; i += WARPS * 32)
    copy_async_4(&order.row[i], source.list + min(item.tile0 * TILE + i, source.rows - 1));
}

// Brings in the inputs of listed rows of a tile: asynchronous copies are of four bytes at least, so these aren't.
__device__ __forceinline__ void bring_listed(const Source& source, const Order& order, u32 t, u32 inputs, u8* stage) {
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Value* from[LANE];
#pragma unroll
  for (int q = 0; q < LANE; q++) {  // the rows lane · 2, lane · 2 + 1, both 64 further on, …
    const u32 row = order.row[t * TILE + q / 2 * 64 + lane * 2 + q % 2];
    from[q] = (const Value*)(source.in + row / TILE * source.stride) + row % TILE;
  }
#pragma unroll 2
  for (u32 slot = warp; slot < inputs; slot += WARPS) {
    const u64 at = (u64)order.input[slot] * TILE;
    u32* to = (u32*)stage + (slot * PAIR + t) * (TILE / 2) + lane;
    Value x[LANE];
#pragma unroll
    for (int q = 0; q < LANE; q++) x[q] = from[q][at];
#pragma unroll
    for (int q = 0; q < LANE; q += 2) to[q * 16] = x[q] | (u32)x[q + 1] << 16;
  }
}

// Sends for the inputs of a chunk, to the same stage. Bits stay bits there, a bit a row of a slot and tile.
__device__ __forceinline__ void send_inputs(const Source& source, const Item& item, u32 head, const Order& order,
                                            u8* stage) {
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, inputs = word(head, INPUTS);
  if (source.is_bits) {
    constexpr int PIECES = TILE / 128;  // of 16 bytes, of a slot and tile
    if (threadIdx.x < PAIR * WORDS_OF_BITS) ((u32*)stage)[inputs * PAIR * WORDS_OF_BITS + threadIdx.x] = 0;
    for (u32 i = threadIdx.x; i < inputs * item.tiles * PIECES; i += WARPS * 32) {
      const u32 slot = i / PIECES / item.tiles, t = i / PIECES % item.tiles, piece = i % PIECES;
      const u8* from = source.in + (item.tile0 + t) * source.stride + (u64)order.input[slot] * (TILE / 8);
      copy_async_16(stage + (slot * PAIR + t) * (TILE / 8) + piece * 16, from + piece * 16);
    }
    return;
  }
  float4* slots = (float4*)stage;
  if (warp < PAIR) slots[(inputs * PAIR + warp) * 32 + lane] = make_float4(0, 0, 0, 0);
  for (u32 t = 0; t < item.tiles; t++) {
    if (source.list) {
      bring_listed(source, order, t, inputs, stage);
    } else {
      const Value* from = (const Value*)(source.in + (item.tile0 + t) * source.stride) + lane * LANE;
      for (u32 slot = warp; slot < inputs; slot += WARPS)
        copy_async_16(slots + (slot * PAIR + t) * 32 + lane, from + (u64)order.input[slot] * TILE);
    }
  }
}

// The entries of a step that are loaded at a time: values of the lane's rows, and weights.
template <int TILES, bool BITS, bool CODED>
struct Some {
  static constexpr int MANY = GROUP > 1 ? 1 : 2;
  Packed x[BITS ? 1 : MANY][TILES];
  u32 bits[BITS ? MANY : 1][TILES];
  float w[MANY * GROUP];

  // Entries `first` … of the step that begins at entry k. `mine`: the lane's place in the first slot.
  __device__ __forceinline__ void load(uint2 local, const u8* weights, u32 k, int first, const u8* mine) {
#pragma unroll
    for (int n = 0; n < MANY; n++) {
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        if constexpr (BITS)
          bits[n][t] = ((const u32*)mine)[(slot_of(local, first + n) * PAIR + t) * WORDS_OF_BITS];
        else
          x[n][t] = ((const Packed*)mine)[slot_of(local, first + n) * (PAIR * 32) + t * 32];
      }
    }
    const u32 at = (k + first) * GROUP;
    if constexpr (MANY * GROUP < 4) {
#pragma unroll
      for (int n = 0; n < MANY * GROUP; n += 2) {
        if constexpr (CODED) {
          const u32 two = *(const u32*)(weights + (at + n) * 2);
          w[n] = __uint_as_float(two << 16);
          w[n + 1] = __uint_as_float(two & 0xffff0000);
        } else {
          const float2 two = *(const float2*)(weights + (at + n) * 4);
          w[n] = two.x;
          w[n + 1] = two.y;
        }
      }
    } else {
#pragma unroll
      for (int n = 0; n < MANY * GROUP; n += 4) {
        if constexpr (CODED) {
          const uint2 four = *(const uint2*)(weights + (at + n) * 2);
          w[n] = __uint_as_float(four.x << 16);
          w[n + 1] = __uint_as_float(four.x & 0xffff0000);
          w[n + 2] = __uint_as_float(four.y << 16);
          w[n + 3] = __uint_as_float(four.y & 0xffff0000);
        } else {
          const float4 four = *(const float4*)(weights + (at + n) * 4);
          w[n] = four.x;
          w[n + 1] = four.y;
          w[n + 2] = four.z;
          w[n + 3] = four.w;
        }
      }
    }
  }

  __device__ __forceinline__ void add(Rows (&sum)[GROUP][TILES]) const {
#pragma unroll
    for (int n = 0; n < MANY; n++) {
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        if constexpr (BITS) {
          const u32 field = bits[n][t] >> threadIdx.x * LANE % 32;
#pragma unroll
          for (int g = 0; g < GROUP; g++) {
            const float value = w[n * GROUP + g];
#pragma unroll
            for (int i = 0; i < FOURS; i++) {
              float4& four = sum[g][t].four[i];
              if (field >> 4 * i & 1) four.x += value;
              if (field >> 4 * i & 2) four.y += value;
              if (field >> 4 * i & 4) four.z += value;
              if (field >> 4 * i & 8) four.w += value;
            }
          }
        } else {
          const Rows values = unpack(x[n][t]);
#pragma unroll
          for (int g = 0; g < GROUP; g++) multiply_add(sum[g][t], w[n * GROUP + g], values);
        }
      }
    }
  }
};

// The units of a warp for TILES tiles from a stage, to `to`. `seen`: the lane's rows of each tile that have a value.
template <int TILES, bool BITS, bool CODED>
__device__ __forceinline__ void compute(const Chunked& layer, const Share& share, const u8* stage, Value* to,
                                        u64 out_stride, Seen (&seen)[PAIR]) {
  using Part = Some<TILES, BITS, CODED>;
  const u32 lane = threadIdx.x % 32;
  const u8* weights = stage + SLOT_BYTES;
  const u8* locals = stage + SLOT_BYTES + WEIGHTS * 4;
  const u8* mine = stage + (BITS ? lane * LANE / 32 * 4 : lane * 16);
  u32 k = __shfl_sync(NONE, share.start, 0), stop = __shfl_sync(NONE, share.start, 1), unit = 0;
  const u32 end = __shfl_sync(NONE, share.start, share.units);
  // loads run ahead of the sums: of values by a part, of the slots they are in by a step
  uint2 local = {}, following = {};
  Part part, next;
  if (k < end) {
    local = *(const uint2*)(locals + k);
    part.load(local, weights, k, 0, mine);
  }
  Rows sum[GROUP][TILES] = {};
  while (unit < share.units) {
    if (k < stop) {
      const u32 after = min(k + STEP, end - STEP);
      following = *(const uint2*)(locals + after);
#pragma unroll
      for (int n = 0; n < STEP; n += Part::MANY) {
        if (n + Part::MANY < STEP)
          next.load(local, weights, k, n + Part::MANY, mine);
        else
          next.load(following, weights, after, 0, mine);
        part.add(sum);
        part = next;
      }
      local = following;
      k += STEP;
    }
    if (k < stop) continue;
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
      const u32 neuron = __shfl_sync(NONE, share.output, unit * GROUP + g);
      const float b = __shfl_sync(NONE, share.bias, unit * GROUP + g);
      if (GROUP == 1 || neuron != NONE) {
#pragma unroll
        for (int t = 0; t < TILES; t++) {
          const Packed y = pack(activate(sum[g][t], b, layer));
          seen[t] |= Seen(y);
          *(Packed*)(to + t * out_stride + (u64)neuron * TILE) = y;
        }
      }
#pragma unroll
      for (int t = 0; t < TILES; t++) sum[g][t] = Rows();
    }
    unit++;
    stop = __shfl_sync(NONE, share.start, min(unit + 1, share.units));
  }
}

template <int TILES>
__device__ __forceinline__ void compute(const Chunked& layer, bool is_bits, const Share& share, const u8* stage,
                                        Value* to, u64 out_stride, Seen (&seen)[PAIR]) {
  if (is_bits && layer.coded)
    compute<TILES, true, true>(layer, share, stage, to, out_stride, seen);
  else if (is_bits)
    compute<TILES, true, false>(layer, share, stage, to, out_stride, seen);
  else if (layer.coded)
    compute<TILES, false, true>(layer, share, stage, to, out_stride, seen);
  else
    compute<TILES, false, false>(layer, share, stage, to, out_stride, seen);
}

// Layers first … last − 1. Row r of the tiles is row list[r] of the input, which is tiled alike; list null or *identity:
// row r itself. in_stride: bytes a tile of the input, bits (then no list) or values; out_stride: values a tile of the
// outputs, which go to `out` and `other` in turns. alive[r] (null: not asked for) becomes 1 for rows with a value that is
// not zero in the end. `arrived`: how many blocks have met so far, `met` at the start. For more than one layer all blocks
// must run at the same time.
extern "C" __global__ void __launch_bounds__(WARPS * 32, 1)
    staged_half(const Chunked* layers, u32 first, u32 last, const u8* in, u64 in_stride, u32 is_bits, Value* out, Value* other,
           u64 out_stride, u8* alive, const u32* count, const u32* list, const u32* identity, u32* arrived, u32 met) {
  extern __shared__ __align__(16) u8 memory[];
  __shared__ __align__(16) u32 ring[2][LAYER_WORDS];  // the present layer and the next one, in turns
  __shared__ Order orders[2];                         // of items, in turns
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
    // chunks of the items to come; those past the end aren't prepared
    u32 head = 0, next = 0, later = 0;
    Share share, following;
    if (number < items) {
      head = header(layer, Item(number, chunks, along, tiled));
      next = header(layer, Item(min(number + step, end), chunks, along, tiled));
      later = header(layer, Item(min(number + 2 * step, end), chunks, along, tiled));
      prepare(layer, source, Item(number, chunks, along, tiled), head, orders[turn % 2]);
      if (number + step < items)
        prepare(layer, source, Item(number + step, chunks, along, tiled), next, orders[(turn + 1) % 2]);
      send_entries(layer, head, memory + turn % STAGES * STAGE_BYTES);
      share.load(layer, head);
    }
    u32 record = 0;
    if (threadIdx.x < LAYER_WORDS && l + 1 < last) record = ((const u32*)(layers + l + 1))[threadIdx.x];
    copy_wait_all();
    if (l > first)
      meet(arrived, met += step);
    else
      __syncthreads();
    if (threadIdx.x < LAYER_WORDS && l + 1 < last) ring[(l + 1 - first) % 2][threadIdx.x] = record;
    __syncthreads();  // a block without items comes to no other barrier before it reads the next layer
    if (number < items)
      send_inputs(source, Item(number, chunks, along, tiled), head, orders[turn % 2], memory + turn % STAGES * STAGE_BYTES);
    for (; number < items; turn++, number += step) {
      const Item item(number, chunks, along, tiled);
      u8* stage = memory + turn % STAGES * STAGE_BYTES;
      copy_wait_all();
      __syncthreads();  // the chunk is here, and what the other stage held has been used
      if (STAGES > 1 && number + step < items) {
        u8* other_stage = memory + (turn + 1) % STAGES * STAGE_BYTES;
        send_entries(layer, next, other_stage);
        send_inputs(source, Item(number + step, chunks, along, tiled), next, orders[(turn + 1) % 2], other_stage);
      }
      following.load(layer, next);
      const bool more = number + 2 * step < items;
      if (STAGES > 1 && more)
        prepare(layer, source, Item(number + 2 * step, chunks, along, tiled), later, orders[turn % 2]);
      const u32 latest = header(layer, Item(min(number + 3 * step, end), chunks, along, tiled));
      Seen seen[PAIR] = {};
      Value* to = out + item.tile0 * out_stride + threadIdx.x % 32 * LANE;
      if (item.tiles == 2)
        compute<2>(layer, source.is_bits, share, stage, to, out_stride, seen);
      else
        compute<1>(layer, source.is_bits, share, stage, to, out_stride, seen);
#pragma unroll
      for (int i = 0; i < PAIR * FOURS; i++) {
        const u32 any = seen[i / FOURS].flags(i % FOURS);
        u32* flags = (u32*)(alive + (item.tile0 + i / FOURS) * TILE) + threadIdx.x % 32 * FOURS + i % FOURS;
        if (alive && l + 1 == last && any) atomicOr(flags, any);
      }
      if (STAGES == 1) {
        __syncthreads();
        if (number + step < items) {
          send_entries(layer, next, memory);
          send_inputs(source, Item(number + step, chunks, along, tiled), next, orders[(turn + 1) % 2], memory);
          if (more) prepare(layer, source, Item(number + 2 * step, chunks, along, tiled), later, orders[turn % 2]);
        }
      }
      share = following;
      next = later;
      later = latest;
    }
    source = {(const u8*)out, out_stride * sizeof(Value), nullptr, source.rows, 0};
    Value* swap = out;
    out = other;
    other = swap;
  }
}
