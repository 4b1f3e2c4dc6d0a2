// Renumbering neurons so that those with the same readers stand together; see order.py.
typedef unsigned long long u64;
typedef long long i64;

__device__ __forceinline__ u64 scramble(u64 x) {
  x = (x + 1) * 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// Of each input the sum of its readers' scrambled numbers: equal for inputs that the same outputs read. `ptr` and
// `inputs` are the weights in CSR by output; one warp an output. `hashes` is zeroed before.
extern "C" __global__ void hash_readers(const int* ptr, const int* inputs, i64 outputs, u64* hashes) {
  const i64 output = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / 32;
  if (output >= outputs) return;
  const u64 term = scramble(output);
  for (int e = ptr[output] + threadIdx.x % 32; e < ptr[output + 1]; e += 32) atomicAdd(hashes + inputs[e], term);
}

// Old numbers to new ones, in place.
extern "C" __global__ void renumber(int* ids, i64 count, const int* new_of) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) ids[i] = new_of[ids[i]];
}

extern "C" __global__ void move_values(const float* values, i64 count, const int* new_of, float* out) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) out[new_of[i]] = values[i];
}

extern "C" __global__ void invert(const int* new_of, i64 count, int* old_of) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) old_of[new_of[i]] = (int)i;
}
