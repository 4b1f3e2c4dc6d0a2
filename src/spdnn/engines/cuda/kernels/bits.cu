// Bit-packed rows to tiles of `tile_rows` rows: bit neuron·field + row of a tile; `stride` bytes a tile.
#include "common.cuh"

extern "C" __global__ void tile_bits(const u64* words, u64 words_per_row, u32 rows, u32 columns, u32 tile_rows,
                                     u32 field, u8* tiles, u64 stride, u64 bytes) {
  for (u64 at = blockIdx.x * (u64)blockDim.x + threadIdx.x; at < bytes; at += (u64)gridDim.x * blockDim.x) {
    const u64 tile = at / stride;
    const u64 bit = (at % stride) * 8;
    u32 packed = 0;
    for (int q = 0; q < 8; q++) {
      const u64 neuron = (bit + q) / field;
      const u32 place = (bit + q) % field;
      const u64 row = tile * tile_rows + place;
      if (neuron < columns && place < tile_rows && row < rows)
        packed |= (u32)(words[row * words_per_row + neuron / 64] >> (neuron % 64) & 1) << q;
    }
    tiles[at] = (u8)packed;
  }
}
