// What kernels that compute single values of single rows share: few.cu and crew.cu.

__device__ __forceinline__ u32 up16(u32 bytes) { return (bytes + 15) & ~15u; }

// The arrays of a layer, or of a part of its units: of the second form where the layer has one.
struct Arrays {
  const void* entries;  // turns, or index
  const float* weight;
  const void* start;    // turn_start, or start
  const u32* output;    // turn_output, or output
  const float* bias;
  __device__ __forceinline__ Arrays() {}
  __device__ __forceinline__ Arrays(const Layer& layer)
      : entries(layer.turns ? (const void*)layer.turns : layer.index),
        weight(layer.weight),
        start(layer.turns ? (const void*)layer.turn_start : layer.start),
        output(layer.turns ? layer.turn_output : layer.output),
        bias(layer.bias) {}
};

// Units that are computed, those of padding too; vectors of 16 bytes that a lane has of a step of the second form.
__device__ __forceinline__ u32 all_units(const Layer& layer) { return layer.turns ? layer.slices * 32 : layer.units; }
__device__ __forceinline__ u32 vectors(const Layer& layer) { return layer.coded ? 1 : 2; }

// in[n << log] is the value of input n.
__device__ __forceinline__ void add(float& sum, u32 weight, u32 input, const float* in, u32 log) {
  sum = fmaf(__uint_as_float(weight), in[input << log], sum);
}

// The sum of an output in the second form, from its lane's entries of the first step on.
__device__ __forceinline__ float turned_sum(const uint4* entries, u32 steps, bool coded, const float* in, u32 log) {
  float sum = 0;
  if (coded) {
#pragma unroll 4
    for (u32 s = 0; s < steps; s++, entries += 32) {
      const uint4 e = *entries;
      add(sum, e.x & 0xffff0000, e.x & 0xffff, in, log);
      add(sum, e.y & 0xffff0000, e.y & 0xffff, in, log);
      add(sum, e.z & 0xffff0000, e.z & 0xffff, in, log);
      add(sum, e.w & 0xffff0000, e.w & 0xffff, in, log);
    }
  } else {
#pragma unroll 2
    for (u32 s = 0; s < steps; s++, entries += 64) {
      const uint4 e = entries[0], f = entries[32];
      add(sum, e.y, e.x, in, log);
      add(sum, e.w, e.z, in, log);
      add(sum, f.y, f.x, in, log);
      add(sum, f.w, f.z, in, log);
    }
  }
  return sum;
}

// The sum of member `member` of a unit whose entries are `at` … to − 1 of index and weight.
__device__ __forceinline__ float unit_sum(const Layer& layer, const INDEX* index, const float* weight, u32 at, u32 to,
                                          u32 member, const float* in, u32 log) {
  const u32 g = layer.g;
  float sum = 0;
  if (layer.width && layer.width % 8 == 0) {
    const float* mine = weight + at * g + member;
#pragma unroll 2
    for (; at < to; at += 8, mine += 8 * g) {
      const Indices<8> i = *(const Indices<8>*)(index + at);
      float w[8];
#pragma unroll
      for (int n = 0; n < 8; n++) w[n] = mine[n * g];
#pragma unroll
      for (int n = 0; n < 8; n++) sum = fmaf(w[n], in[(u32)i.at[n] << log], sum);
    }
  } else {
#pragma unroll 4
    for (; at < to; at++) sum = fmaf(weight[at * g + member], in[(u32)index[at] << log], sum);
  }
  return sum;
}

// The sum of value `number` of a part of a layer. Layers without the second form have g > 1 in stages.
__device__ __forceinline__ float sum_of(const Layer& layer, const Arrays& part, u32 number, const float* in, u32 log) {
  if (layer.turns) {
    const u32* start = (const u32*)part.start;
    const u32 slice = number / 32;
    const u32 at = start ? start[slice] - start[0] : slice * layer.turn_steps;
    const u32 steps = start ? start[slice + 1] - start[slice] : layer.turn_steps;
    const uint4* entries = (const uint4*)part.entries + at * 32 * vectors(layer) + number % 32;
    return turned_sum(entries, steps, layer.coded, in, log);
  }
  const u64* start = (const u64*)part.start;
  const u32 unit = number / layer.g;
  u32 at = unit * layer.width, to = at + layer.width;
  if (start) {
    at = start[unit] - start[0];
    to = start[unit + 1] - start[0];
  }
  return unit_sum(layer, (const INDEX*)part.entries, part.weight, at, to, number - unit * layer.g, in, log);
}

// The end of a stage for row `source`, whose values are in shared memory: where it goes, its values and its hash. All
// threads of a block call it.
__device__ __forceinline__ void hand_on(const float* values, u32 neurons, bool keep, u32 source, float* kept,
                                        u64 kept_stride, u64* hashes, u32* slot, u32* kept_count) {
  __shared__ u32 target;
  __shared__ u64 hash;
  __syncthreads();
  if (threadIdx.x == 0) {
    target = keep ? atomicAdd(kept_count, 1) : NONE;
    slot[source] = target;
    hash = 0;
  }
  __syncthreads();
  if (!keep) return;
  const u32 to = target;
  u64 sum = 0;
  for (u32 n = threadIdx.x; n < neurons; n += THREADS) {
    const float value = values[n];
    kept[(u64)to * kept_stride + n] = value;
    sum += hash_term(n, value);
  }
#pragma unroll
  for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(NONE, sum, step);
  if (threadIdx.x % 32 == 0) atomicAdd(&hash, sum);
  __syncthreads();
  if (threadIdx.x == 0) hashes[to] = hash;
}
