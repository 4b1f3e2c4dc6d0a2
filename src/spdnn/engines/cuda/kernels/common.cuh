// Types, the packed layer and the activation that all kernels share.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifndef INDEX
#define INDEX u16  // of an input neuron: u16 up to 65,536 inputs, else u32
#endif

#define NONE 0xffffffffu

// A layer in units: `g` outputs that read the same inputs (g = 1: any output by itself).
// Unit u has the entries start(u) … start(u + 1) − 1: one input and g weights each, weights of an entry adjacent.
// The entries of a unit are a multiple of 2; padding has weight 0. Mirrors `pack.LAYER` in Python.
struct Layer {
  const INDEX* index;
  const float* weight;
  const u64* start;  // null: every unit has `width` entries
  const u32* output; // (units · g) output neurons, NONE for padding; null: unit u is output u
  const float* bias; // null: bias0 everywhere
  // A second form of layers with g = 1, for fused.cu with QUADS = 4 and for few rows: slices of 32 units, lane i of a
  // warp having unit i of a slice and four entries of it a step; slice s has the steps turn_start[s] …
  // turn_start[s + 1] − 1.
  const uint4* turns;
  const u32* turn_start;
  const u32* turn_output;  // null: unit u is output u
  // For placed.cu: `turns` with places in the place of inputs, the place of each of the slices' units (0xffff: none), of
  // each input (null: that of its number) and of each output.
  const uint4* placed;
  const u16* place;
  const u16* place_in;
  const u16* place_out;
  float bias0, lower, upper;
  u32 inputs, outputs, units, g, width;
  u32 bias_all;      // bias to every entry, not only to those that are not zero
  u32 may_drop;      // rows that are zero after this layer stay so
  u32 entries;
  u32 sliced;        // g = 1 and width a multiple of 8: the entries of 16 units in turns of 8, see step_start
  u32 slices;        // of the second form
  u32 turn_steps;    // of every slice where turn_start is null
  u32 coded;         // the second form's entries are one word, a bfloat16 above an index, else an index and a float
  u32 all_steps;     // of all slices
  u32 through;       // placed.cu brings the outputs to their places through main memory
  u32 unused;
};

__device__ __forceinline__ u64 unit_start(const Layer& layer, u32 unit) {
  return layer.start ? layer.start[unit] : (u64)unit * layer.width;
}

// Where the first 8 entries of a unit are, and how far apart its eights are, in a layer whose width is a multiple of 8.
__device__ __forceinline__ u64 step_start(const Layer& layer, u32 unit) {
  if (!layer.sliced) return (u64)unit * layer.width;
  return (u64)(unit / 16) * layer.width * 16 + unit % 16 * 8;
}
__device__ __forceinline__ u32 step_stride(const Layer& layer) { return layer.sliced ? 128 : 8; }

// Rows that a layer reads from tiles in device memory.
struct Source {
  const u8* in;
  u64 stride;       // bytes of a tile
  const u32* list;  // null: rows are where they are
  u32 rows, is_bits;
};

template <class Of>
__device__ __forceinline__ float activate(float z, float bias, const Of& layer) {
  if (layer.bias_all || z != 0.0f) z += bias;
  return fminf(fmaxf(z, layer.lower), layer.upper);
}

// The lowest four bits as values of four rows.
__device__ __forceinline__ float4 four_bits(u32 field) {
  return make_float4(field & 1 ? 1.0f : 0.0f, field & 2 ? 1.0f : 0.0f, field & 4 ? 1.0f : 0.0f, field & 8 ? 1.0f : 0.0f);
}

__device__ __forceinline__ void multiply_add(float4& sum, float w, float4 x) {
  sum.x = fmaf(w, x.x, sum.x);
  sum.y = fmaf(w, x.y, sum.y);
  sum.z = fmaf(w, x.z, sum.z);
  sum.w = fmaf(w, x.w, sum.w);
}

template <class Of>
__device__ __forceinline__ float4 activate(float4 z, float bias, const Of& layer) {
  return make_float4(activate(z.x, bias, layer), activate(z.y, bias, layer), activate(z.z, bias, layer),
                     activate(z.w, bias, layer));
}

// A bit for each of four values that is not zero, `apart` bits from one to the next.
__device__ __forceinline__ u32 alive_bits(float4 y, int apart) {
  return (y.x != 0.0f) | (y.y != 0.0f) << apart | (y.z != 0.0f) << 2 * apart | (y.w != 0.0f) << 3 * apart;
}

// The indices of N entries that start at a multiple of N.
template <int N>
struct alignas(N * sizeof(INDEX) > 16 ? 16 : N * sizeof(INDEX)) Indices {
  INDEX at[N];
};

template <int N>
struct alignas(N * 4 > 16 ? 16 : N * 4) Floats {
  float at[N];
};

// Asynchronous copies from global to shared memory: sent for, committed in groups, waited for.
#ifndef EMULATED
__device__ __forceinline__ void copy_async_16(void* shared, const void* global) {
  const u32 to = (u32)__cvta_generic_to_shared(shared);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
__device__ __forceinline__ void copy_async_4(void* shared, const void* global) {
  const u32 to = (u32)__cvta_generic_to_shared(shared);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(global) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
__device__ __forceinline__ void copy_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }
// The line into the second-level cache.
__device__ __forceinline__ void prefetch(const void* global) { asm volatile("prefetch.global.L2 [%0];" ::"l"(global)); }
#endif

// One neuron's part of a row's hash: a sum over all neurons, so that any order of adding gives the same.
__device__ __forceinline__ u64 hash_term(u32 neuron, float value) {
  u32 x = __float_as_uint(value) * 0x9E3779B1u + neuron * 0x85EBCA77u;
  x ^= x >> 15;
  x *= 0x2C1B3C6Du;
  x ^= x >> 12;
  const u32 y = (x ^ neuron) * 0x297A2D39u;
  return ((u64)(y ^ (y >> 15)) << 32) + x;
}

// Finds, for the row `slot`, a row of the same hash (the first to come), entering it in the table otherwise.
// An entry is (stamp << 32 | row); those with another stamp count as empty.
__device__ __forceinline__ u32 same_hash(const u64* hashes, u32 slot, u64* table, u32 mask, u32 stamp) {
  const u64 hash = hashes[slot];
  const u64 mine = ((u64)stamp << 32) | slot;
  u32 bucket = (u32)(hash ^ (hash >> 32)) & mask;
  for (;;) {
    u64 found = *(volatile u64*)(table + bucket);
    if ((u32)(found >> 32) != stamp) {
      const u64 before = atomicCAS(table + bucket, found, mine);
      if (before == found) return slot;
      found = before;
      if ((u32)(found >> 32) != stamp) continue;
    }
    if (hashes[(u32)found] == hash) return (u32)found;
    bucket = (bucket + 1) & mask;
  }
}
