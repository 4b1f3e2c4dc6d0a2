// What kernels that compute single values of single rows share: few.cu and crew.cu.

__device__ __forceinline__ u32 up16(u32 bytes) { return (bytes + 15) & ~15u; }

// The sum of one output: member `member` of a unit whose entries are `at` … to − 1 of index and weight (in a sliced layer
// `at` is the first and step_stride gives the others). in[n << log] is the value of input n.
__device__ __forceinline__ float weighted_sum(const Layer& layer, const INDEX* index, const float* weight, u32 at, u32 to,
                                              u32 member, const float* in, u32 log) {
  const u32 g = layer.g, width = layer.width;
  float sum = 0;
  if (width && width % 8 == 0) {
    const u32 stride = step_stride(layer);
    if (g == 1) {
#pragma unroll 2
      for (u32 s = 0; s < width; s += 8, at += stride) {
        const Indices<8> i = *(const Indices<8>*)(index + at);
        const Floats<8> w = *(const Floats<8>*)(weight + at);
#pragma unroll
        for (int n = 0; n < 8; n++) sum = fmaf(w.at[n], in[(u32)i.at[n] << log], sum);
      }
    } else {
      const float* mine = weight + at * g + member;
#pragma unroll 2
      for (u32 s = 0; s < width; s += 8, at += 8, mine += 8 * g) {
        const Indices<8> i = *(const Indices<8>*)(index + at);
        float w[8];
#pragma unroll
        for (int n = 0; n < 8; n++) w[n] = mine[n * g];
#pragma unroll
        for (int n = 0; n < 8; n++) sum = fmaf(w[n], in[(u32)i.at[n] << log], sum);
      }
    }
  } else if (g == 1) {
#pragma unroll 4
    for (u32 k = at; k < to; k += 2) {
      const Indices<2> i = *(const Indices<2>*)(index + k);
      const Floats<2> w = *(const Floats<2>*)(weight + k);
      sum = fmaf(w.at[0], in[(u32)i.at[0] << log], sum);
      sum = fmaf(w.at[1], in[(u32)i.at[1] << log], sum);
    }
  } else {
#pragma unroll 4
    for (u32 k = at; k < to; k++) sum = fmaf(weight[k * g + member], in[(u32)index[k] << log], sum);
  }
  return sum;
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
