// Activations as tiles in device memory hold them: float, or fp16 where HALF is defined. Either way a neuron of a tile
// takes 512 bytes, of which each lane of a warp has 16. Arithmetic is in float: a value is rounded when it is stored.
#include "common.cuh"

#ifdef HALF
typedef u16 Value;     // the bits of an fp16
typedef u16 Pattern;
typedef uint4 Packed;  // the values of a lane's rows
#else
typedef float Value;
typedef u32 Pattern;
typedef float4 Packed;
#endif
constexpr int TILE = 512 / sizeof(Value);  // rows
constexpr int LANE = TILE / 32;            // rows of a lane
constexpr int FOURS = LANE / 4;

// Numbers for a lane's rows.
struct Rows {
  float4 four[FOURS];
};

__device__ __forceinline__ void multiply_add(Rows& sum, float w, const Rows& x) {
#pragma unroll
  for (int i = 0; i < FOURS; i++) multiply_add(sum.four[i], w, x.four[i]);
}

template <class Of>
__device__ __forceinline__ Rows activate(const Rows& z, float bias, const Of& layer) {
  Rows y;
#pragma unroll
  for (int i = 0; i < FOURS; i++) y.four[i] = activate(z.four[i], bias, layer);
  return y;
}

// A lane's bits of bit-packed rows, which are the lowest ones of `field`.
__device__ __forceinline__ Rows unpack(u32 field) {
  Rows x;
#pragma unroll
  for (int i = 0; i < FOURS; i++) x.four[i] = four_bits(field >> 4 * i);
  return x;
}

#ifdef HALF
#ifndef EMULATED
__device__ __forceinline__ float to_float(Value value) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(value));
  return x;
}
__device__ __forceinline__ Value to_value(float x) {
  Value value;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(value) : "f"(x));
  return value;
}
__device__ __forceinline__ float2 to_floats(u32 two) {
  float2 x;
  asm("{.reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
      : "=f"(x.x), "=f"(x.y)
      : "r"(two));
  return x;
}
__device__ __forceinline__ u32 to_values(float low, float high) {
  u32 two;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
  return two;
}
#endif

__device__ __forceinline__ Rows unpack(uint4 packed) {
  const float2 a = to_floats(packed.x), b = to_floats(packed.y), c = to_floats(packed.z), d = to_floats(packed.w);
  return {{make_float4(a.x, a.y, b.x, b.y), make_float4(c.x, c.y, d.x, d.y)}};
}
__device__ __forceinline__ uint4 pack(const Rows& y) {
  const float4 a = y.four[0], b = y.four[1];
  return {to_values(a.x, a.y), to_values(a.z, a.w), to_values(b.x, b.y), to_values(b.z, b.w)};
}

// Which of a lane's rows have had a value that is not zero.
struct Seen {
  u32 two[4] = {};
  Seen() = default;
  __device__ __forceinline__ explicit Seen(uint4 y)
      : two{y.x & 0x7fff7fff, y.y & 0x7fff7fff, y.z & 0x7fff7fff, y.w & 0x7fff7fff} {}
  __device__ __forceinline__ void operator|=(const Seen& more) {
#pragma unroll
    for (int i = 0; i < 4; i++) two[i] |= more.two[i];
  }
  // A byte for each of four rows, 1 where there was one.
  __device__ __forceinline__ u32 flags(int i) const {
    const u32 a = two[2 * i], b = two[2 * i + 1];
    return ((a & 0xffff) != 0) | ((a >> 16) != 0) << 8 | ((b & 0xffff) != 0) << 16 | ((b >> 16) != 0) << 24;
  }
};
#else
__device__ __forceinline__ float to_float(Value value) { return value; }
__device__ __forceinline__ Value to_value(float x) { return x; }
__device__ __forceinline__ Rows unpack(float4 packed) { return {{packed}}; }
__device__ __forceinline__ float4 pack(const Rows& y) { return y.four[0]; }

struct Seen {
  u32 four = 0;
  Seen() = default;
  __device__ __forceinline__ explicit Seen(float4 y) : four(alive_bits(y, 8)) {}
  __device__ __forceinline__ void operator|=(const Seen& more) { four |= more.four; }
  __device__ __forceinline__ u32 flags(int) const { return four; }
};
#endif
