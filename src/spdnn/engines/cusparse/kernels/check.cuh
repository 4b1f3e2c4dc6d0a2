// Types and functions that the kernels for sparse and for dense activations share.
typedef unsigned int u32;
typedef long long i64;

// Of an input neuron i of a layer: (W·h)[i], (|W|·h)[i] and how many weights it has.
struct Measure {
  double due;
  float bound;
  int length;
};

// What one strip of rows came to. Zeroed before the strip.
struct Totals {
  i64 nnz;       // entries written
  i64 products;  // multiplications the next layer has with them
  int rows;      // rows written
  int live;      // rows with an entry
  int bad_structure, bad_columns, bad_sums;
};

struct Activation {
  const float* bias;  // null: bias0 everywhere
  float bias0, lower, upper;
  int bias_all;

  __device__ float operator()(float z, int column) const {
    if (bias_all || z != 0.0f) z += bias ? bias[column] : bias0;
    return fminf(fmaxf(z, lower), upper);
  }
};

__device__ __forceinline__ double column_weight(u32 column) {
  u32 x = (column + 1u) * 0x9E3779B1u;
  x ^= x >> 16;
  x *= 0x85EBCA6Bu;
  x ^= x >> 13;
  x *= 0xC2B2AE35u;
  x ^= x >> 16;
  return 1.0 + x * 0x1p-32;
}
