// What the kernels of chunked layers share (staged.cu, staged_half.cu): the layer, what of it a block takes at a time, and
// how blocks meet. Definitions as in staged.cu.
#include "common.cuh"

constexpr int STEP = 8;  // entries of a unit are a multiple of this
constexpr int PAIR = 2;  // tiles at a time
constexpr u32 SLOT_BYTES = (SLOTS + 1) * PAIR * 512;
constexpr u32 STAGE_BYTES = SLOT_BYTES + WEIGHTS * 4 + WEIGHTS;

#ifndef EMULATED
__device__ __forceinline__ u32 load_acquire(const u32* from) {
  u32 value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
// Between two looks at a word that another block will store.
__device__ __forceinline__ void spin_alone() {}
#endif

// Of a chunk, a word for each of a warp's first lanes.
enum Word { FIRST_INPUT, INPUTS, FIRST_UNIT, UNITS, FIRST_ENTRY, ENTRIES, WORDS = 8 };

// A layer. Mirrors `pack.CHUNKED` in Python.
struct Chunked {
  const u32* chunk;  // (chunks, WORDS)
  const u32* input;
  const u32* output;
  const u32* entry_start;
  const u8* local;
  const void* weight;  // float, or where coded the upper halves, which are exact
  const float* bias;   // null: bias0 everywhere
  float bias0, lower, upper;
  u32 chunks, bias_all, coded;
};
constexpr u32 LAYER_WORDS = sizeof(Chunked) / 4;

// Tiles and a chunk for them.
struct Item {
  u32 tile0, tiles, chunk;
  __device__ __forceinline__ Item(u32 number, u32 chunks, u32 along, u32 tiled) {
    tile0 = number / chunks * along;
    tiles = min(along, tiled - tile0);
    chunk = number % chunks;
  }
};

__device__ __forceinline__ u32 header(const Chunked& layer, const Item& item) {
  const u32 lane = threadIdx.x % 32;
  return lane < WORDS ? layer.chunk[item.chunk * WORDS + lane] : 0;
}
// Lane i of `head` has word i of a chunk.
__device__ __forceinline__ u32 word(u32 head, int k) { return __shfl_sync(NONE, head, k); }

__device__ __forceinline__ void copy_all(void* shared, const void* global, u32 bytes) {
  for (u32 i = threadIdx.x * 16; i < bytes; i += WARPS * 32 * 16)
    copy_async_16((u8*)shared + i, (const u8*)global + i);
}

// Sends for the entries of a chunk, to a stage that is free.
__device__ __forceinline__ void send_entries(const Chunked& layer, u32 head, u8* stage) {
  const u32 entry0 = word(head, FIRST_ENTRY), entries = word(head, ENTRIES), bytes = GROUP * (layer.coded ? 2 : 4);
  copy_all(stage + SLOT_BYTES, (const u8*)layer.weight + (u64)entry0 * bytes, entries * bytes);
  copy_all(stage + SLOT_BYTES + WEIGHTS * 4, layer.local + entry0, entries);
}

__device__ __forceinline__ u32 slot_of(uint2 local, int n) { return (n < 4 ? local.x : local.y) >> n % 4 * 8 & 0xff; }

// A warp's units, of which lane i knows where unit i's entries begin and output i and its bias.
struct Share {
  u32 units, start, output;
  float bias;
  __device__ __forceinline__ void load(const Chunked& layer, u32 head) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 unit0 = word(head, FIRST_UNIT), all = word(head, UNITS), entry0 = word(head, FIRST_ENTRY);
    const u32 many = (all + WARPS - 1) / WARPS, begin = unit0 + min(all, warp * many);
    units = unit0 + min(all, (warp + 1) * many) - begin;
    start = lane <= units ? layer.entry_start[begin + lane] - entry0 : 0;
    output = lane < units * GROUP ? layer.output[begin * GROUP + lane] : NONE;
    bias = layer.bias && output != NONE ? layer.bias[output] : layer.bias0;
  }
};

// Until `goal` blocks have come here. What they have written before can then be read, past the first-level cache.
__device__ __forceinline__ void meet(u32* arrived, u32 goal) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(arrived, 1);
    while (load_acquire(arrived) < goal) spin_alone();
  }
  __syncthreads();
}
