// Bit-packed rows to CSR. One warp a row; a row is `words` words of 64 columns, least significant bit first.
typedef unsigned long long u64;
typedef long long i64;

#define WARP 32
#define FULL 0xffffffffu

__device__ __forceinline__ i64 warp_row() { return ((i64)blockIdx.x * blockDim.x + threadIdx.x) / WARP; }
__device__ __forceinline__ int lane() { return threadIdx.x % WARP; }

extern "C" __global__ void count_bits(const u64* bits, i64 rows, i64 words, int* counts) {
  const i64 row = warp_row();
  if (row >= rows) return;
  int count = 0;
  for (i64 w = lane(); w < words; w += WARP) count += __popcll(bits[row * words + w]);
  for (int step = WARP / 2; step; step /= 2) count += __shfl_xor_sync(FULL, count, step);
  if (lane() == 0) counts[row] = count;
}

extern "C" __global__ void write_bits(const u64* bits, i64 rows, i64 words, const int* place, const i64* ptr,
                                      int* columns, float* values) {
  const i64 row = warp_row();
  if (row >= rows || place[row] < 0) return;
  i64 at = ptr[place[row]];
  for (i64 start = 0; start < words; start += WARP) {
    const i64 w = start + lane();
    u64 word = w < words ? bits[row * words + w] : 0;
    int before = __popcll(word);
    const int mine = before;
    for (int step = 1; step < WARP; step *= 2) {
      const int other = __shfl_up_sync(FULL, before, step);
      if (lane() >= step) before += other;
    }
    i64 slot = at + before - mine;
    for (; word; word &= word - 1) {
      columns[slot] = (int)(w * 64 + __ffsll((i64)word) - 1);
      values[slot++] = 1.0f;
    }
    at += __shfl_sync(FULL, before, WARP - 1);
  }
}

// As `write_bits`, columns under new numbers and ascending by them: new column c is the old one old_of[c].
extern "C" __global__ void write_bits_renumbered(const u64* bits, i64 rows, i64 words, const int* place,
                                                 const i64* ptr, int* columns, float* values, const int* old_of,
                                                 int count) {
  const i64 row = warp_row();
  if (row >= rows || place[row] < 0) return;
  const u64* mine = bits + row * words;
  i64 at = ptr[place[row]];
  for (int start = 0; start < count; start += WARP) {
    const int column = start + lane(), old = column < count ? old_of[column] : 0;
    const bool set = column < count && (mine[old / 64] >> (old % 64) & 1);
    const unsigned votes = __ballot_sync(FULL, set);
    if (set) {
      const i64 slot = at + __popc(votes & ((1u << lane()) - 1u));
      columns[slot] = column;
      values[slot] = 1.0f;
    }
    at += __popc(votes);
  }
}

extern "C" __global__ void row_counts(const i64* ptr, i64 rows, int* counts) {
  const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (row < rows) counts[row] = (int)(ptr[row + 1] - ptr[row]);
}
