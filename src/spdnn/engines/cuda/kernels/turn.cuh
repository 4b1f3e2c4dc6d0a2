#include "common.cuh"

// Four entries of each of 32 units, a lane each: words of a bfloat16 above an index where all weights are exact in it
// (CODED), else an index and a float.
template <bool CODED>
struct Turn {
  static constexpr int VECTORS = CODED ? 1 : 2;
  uint4 at[VECTORS];
  __device__ __forceinline__ void load(const uint4* from) {
#pragma unroll
    for (int v = 0; v < VECTORS; v++) at[v] = __ldg(from + 32 * v);
  }
  __device__ __forceinline__ u32 word(int k) const {
    const uint4& v = at[k / 4];
    return k % 4 == 0 ? v.x : k % 4 == 1 ? v.y : k % 4 == 2 ? v.z : v.w;
  }
  __device__ __forceinline__ u32 index(int n) const { return CODED ? word(n) & 0xffff : word(2 * n); }
  __device__ __forceinline__ float weight(int n) const {
    return __uint_as_float(CODED ? word(n) & 0xffff0000 : word(2 * n + 1));
  }
};
