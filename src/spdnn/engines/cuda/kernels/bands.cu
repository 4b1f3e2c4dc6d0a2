// One layer over tiles of four rows, its inputs brought into shared memory band by band (`bands.py`).
//
// Value of row r, neuron n: tiles[r / 4][n][r % 4]. A block has the sums of WARPS · UNITS · 32 outputs for a tile in
// registers, a lane UNITS of them. The CLUSTER blocks of a cluster compute the same outputs for a tile each: entries pass
// through a ring of DEPTH stages in shared memory, of which each block brings a part for all of them.
//
// Definitions: WARPS, UNITS, CLUSTER, STAGE (pairs of entries a warp has in a stage), DEPTH (a power of two).
#include "common.cuh"
#include "barriers.cuh"

// Mirrors `pack.BANDED` in Python.
struct Banded {
  const u32* start;    // (parts · bands + 1): the first stage of a block's outputs and a band
  const u32* entries;  // (stages, WARPS, STAGE, 96): two inputs of each lane, counted from the band's first, the first · 16
                       // | the second << 18, and LAST in a unit's last pair; the weight of the first; that of the second
  const u32* output;   // (parts · WARPS, UNITS, 32), NONE for padding
  const float* bias;   // null: bias0 everywhere
  float bias0, lower, upper;
  u32 inputs, bands, band;  // band: inputs of one
  u32 parts, units;  // units: of a warp
  u32 bias_all;
};

constexpr u32 LAST = 1, INPUT = 0x3fff0;
constexpr u32 AHEAD = 8;  // stages that are brought into the second-level cache before their turn

constexpr u32 PAIR = 384, SLICE = STAGE * PAIR, STAGE_BYTES = WARPS * SLICE;

constexpr u32 RING = DEPTH * STAGE_BYTES;  // bytes of shared memory before the band

// Barriers of a block: of each stage of the ring, that it is full and that all have left it, and the same of the band.
struct Barriers {
  Place first;
  __device__ __forceinline__ Place full(u32 slot) const { return first + 8 * slot; }
  __device__ __forceinline__ Place empty(u32 slot) const { return first + 8 * (DEPTH + slot); }
  __device__ __forceinline__ Place filled() const { return first + 8 * (2 * DEPTH); }
  __device__ __forceinline__ Place left() const { return first + 8 * (2 * DEPTH + 1); }
};

// Sends for all entries, as stages of the ring become empty. By one thread of each block.
__device__ __forceinline__ void send(const Banded& layer, u32 items, u32 rank, Place ring, Barriers barriers) {
  u32 slot = 0, turn = 0;
  for (u32 item = blockIdx.x / CLUSTER; item < items; item += gridDim.x / CLUSTER) {
    const u32 part = item % layer.parts;
    const u32 end = layer.start[(part + 1) * layer.bands];
    for (u32 stage = layer.start[part * layer.bands]; stage < end; stage++) {
      if (turn) barrier_wait(barriers.empty(slot), (turn - 1) & 1);
      barrier_expect(barriers.full(slot), STAGE_BYTES);
      const u32 share = STAGE_BYTES / CLUSTER;
      const u8* from = (const u8*)layer.entries + (u64)stage * STAGE_BYTES + rank * share;
      if (stage + AHEAD < end) prefetch_bulk(from + AHEAD * STAGE_BYTES, share);
      copy_bulk<CLUSTER>(ring + slot * STAGE_BYTES + rank * share, from, share, barriers.full(slot));
      if (++slot == DEPTH) slot = 0, turn++;
    }
  }
}

static_assert((DEPTH & DEPTH - 1) == 0, "a power of two");

// A warp's way through the ring.
struct Reader {
  Place slice;  // the lane's first inputs in the ring
  Barriers barriers;
  u32 passed = 0;  // stages in all
  u32 stages = 0;  // to come of a band, with the one that is being read
  Place at, stop;  // of the lane's next inputs, and where the stage ends

  __device__ __forceinline__ void wait() {
    const u32 slot = passed & DEPTH - 1;
    at = slice + slot * STAGE_BYTES;
    stop = at + SLICE;
    barrier_wait(barriers.full(slot), passed / DEPTH & 1);
  }

  // All lanes: from one stage to the next.
  __device__ __forceinline__ void advance(u32 lane) {
    const u32 slot = passed & DEPTH - 1;
    __syncwarp();
    if (CLUSTER == 1) {
      if (lane == 0) barrier_arrive(barriers.empty(slot));
    } else if (lane < CLUSTER) {
      barrier_arrive(barriers.empty(slot), lane);
    }
    passed++;
    if (--stages) wait();
  }
};

struct Pair {
  u32 inputs;
  float first, second;
};

// in_stride: bytes a tile of the input, bits or values; out_stride: values a tile of the output.
// list: where row r of the input stands (null, or *identity: at r). alive[r] (null: not asked for) becomes 1 for rows with
// a value that is not zero. Any grid of whole clusters will do: items come in order, so that blocks read the same inputs at
// about the same time.
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(WARPS * 32 + 32)
    bands(const Banded* layers, u32 l, const void* in, u64 in_stride, u32 is_bits, float* out, u64 out_stride,
          u8* alive, const u32* count, const u32* list, const u32* identity) {
#if defined(EMULATED) || __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) u8 memory[];
  __shared__ u64 all_barriers[2 * DEPTH + 2];
  float4* const band = (float4*)(memory + RING);
  const Barriers barriers = {place_of(all_barriers)};
  const Banded& layer = layers[l];
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, rank = blockIdx.x % CLUSTER, rows = *count;
  const bool copied = !is_bits && !(list && !*identity);
  const u32 tiles = (rows + 3) / 4, items = (tiles + CLUSTER - 1) / CLUSTER * layer.parts;
  if (blockIdx.x / CLUSTER >= items) return;
  if (threadIdx.x == 0) {
    for (u32 i = 0; i < DEPTH; i++) {
      barrier_init(barriers.full(i), 1);
      barrier_init(barriers.empty(i), WARPS * CLUSTER);
    }
    barrier_init(barriers.filled(), 1);
    barrier_init(barriers.left(), WARPS);
    barriers_ready();
  }
  __syncthreads();
  if (CLUSTER > 1) cluster_sync();
  if (warp == WARPS) {
    if (lane == 0) send(layer, items, rank, place_of(memory), barriers);
    __syncwarp();
    if (CLUSTER > 1) cluster_sync();
    return;
  }
  const Place ring = place_of(memory);
  Reader reader = {ring + warp * SLICE + lane * 4, barriers};
  const Place inputs = ring + RING;
  u32 fills = 0;
  const u32 units = layer.units;
  for (u32 item = blockIdx.x / CLUSTER; item < items; item += gridDim.x / CLUSTER) {
    const u32 part = item % layer.parts, column = part * WARPS + warp;
    const bool mine = item / layer.parts * CLUSTER + rank < tiles;
    const u32 tile = mine ? item / layer.parts * CLUSTER + rank : 0;
    float4 sum[UNITS] = {};
    Pair next = {};
    const auto fetch = [&] {
      if (reader.at == reader.stop) {
        reader.advance(lane);
        if (!reader.stages) reader.at = inputs;  // past a band's last one anything that nobody writes
      }
      next = {load_u32(reader.at), load_float(reader.at + 128), load_float(reader.at + 256)};
      reader.at += PAIR;
    };
    for (u32 b = 0; b < layer.bands; b++) {
      const u32 first = b * layer.band, size = min(layer.band, layer.inputs - first);
      const u32* const start = layer.start + part * layer.bands + b;
      reader.stages = start[1] - start[0];
      if (copied) {
        __syncwarp();
        if (lane == 0) barrier_arrive(barriers.left());
        if (threadIdx.x == 0) {
          barrier_wait(barriers.left(), fills & 1);
          barrier_expect(barriers.filled(), size * 16);
          copy_bulk<1>(inputs, (const u8*)in + tile * in_stride + (u64)first * 16, size * 16, barriers.filled());
          if (part == 0 && b + 1 < layer.bands)
            prefetch_bulk((const u8*)in + tile * in_stride + (u64)(first + size) * 16,
                          min(layer.band, layer.inputs - first - size) * 16);
        }
        barrier_wait(barriers.filled(), fills & 1);
        fills++;
      } else {
        sync_some(WARPS * 32);
        if (is_bits) {
          const u8* from = (const u8*)in + tile * in_stride;
          for (u32 i = threadIdx.x; i < size; i += WARPS * 32)
            band[i] = four_bits(from[(first + i) / 2] >> (first + i) % 2 * 4);
        } else {
          const u32 row = tile * 4 + threadIdx.x % 4, of = row < rows ? list[row] : NONE;
          const u8* from = (const u8*)in + (of == NONE ? 0 : of) / 4 * in_stride + (u64)first * 16 + of % 4 * 4;
          for (u32 i = threadIdx.x; i < size * 4; i += WARPS * 32)
            ((float*)band)[i] = of == NONE ? 0.0f : *(const float*)(from + i / 4 * 16);
        }
        sync_some(WARPS * 32);
      }
      reader.wait();
      fetch();
#pragma unroll
      for (int u = 0; u < UNITS; u++) {
        if (u >= units) break;
        Pair now;
#pragma unroll 1
        do {
          now = next;
          fetch();
          const float4 x = load_float4(inputs + (now.inputs & INPUT));
          const float4 y = load_float4(inputs + (now.inputs >> 14 & INPUT));
          multiply_add(sum[u], now.first, x);
          multiply_add(sum[u], now.second, y);
        } while (!(now.inputs & LAST));
      }
      while (reader.stages) reader.advance(lane);  // other warps may need more
    }
    u32 seen = 0;
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
      const u32 output = layer.output[(column * UNITS + u) * 32 + lane];
      if (output == NONE || !mine) continue;
      const float4 y = activate(sum[u], layer.bias ? layer.bias[output] : layer.bias0, layer);
      seen |= alive_bits(y, 8);
      ((float4*)(out + tile * out_stride))[output] = y;
    }
    if (alive) {
      u32* flags = (u32*)(alive + tile * 4);
      if (seen && (*flags | seen) != *flags) atomicOr(flags, seen);
    }
  }
  if (CLUSTER > 1) cluster_sync();
#endif
}
