// The epilogue of a product Z = Wᵀ·X with dense, neuron-major activations: neurons × rows, a row of features is a
// column. Bias and bounds in place, which rows live, and the same check as for sparse products (rows.cu).
#include "check.cuh"

#define NEURONS 64  // one thread's share of a column

// CSR rows to columns of a zeroed matrix, neurons × width. One warp a row.
extern "C" __global__ void spread(const i64* ptr, const int* columns, const float* values, i64 rows, i64 width,
                                  float* dense) {
  const i64 row = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / 32;
  if (row >= rows) return;
  for (i64 e = ptr[row] + threadIdx.x % 32; e < ptr[row + 1]; e += 32) dense[columns[e] * width + row] = values[e];
}

// Grid: (columns / 256, outputs / NEURONS). `sums` gets Z·h, `next_due` and `next_bound` what is due next; without
// next weights `next_due` gets the sum of the column. All three, and `alive`, are zeroed before.
extern "C" __global__ void activate_columns(float* dense, int outputs, i64 width, const float* bias, float bias0,
                                            float lower, float upper, int bias_all, const Measure* next, double* sums,
                                            double* next_due, double* next_bound, int* alive) {
  const i64 column = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= width) return;
  const Activation activate = {bias, bias0, lower, upper, bias_all};
  const int first = blockIdx.y * NEURONS, last = min(first + NEURONS, outputs);
  double sum = 0, due = 0, bound = 0;
  bool any = false;
  for (int j = first; j < last; j++) {
    const float z = dense[j * width + column];
    sum += z * column_weight(j);
    const float y = activate(z, j);
    dense[j * width + column] = y;
    any |= y != 0.0f;
    if (next) {
      due += y * next[j].due;
      bound += fabsf(y) * next[j].bound;
    } else {
      due += y;
    }
  }
  atomicAdd(sums + column, sum);
  if (any) {
    atomicAdd(next_due + column, due);
    atomicAdd(next_bound + column, bound);
    alive[column] = 1;
  }
}

extern "C" __global__ void check(const double* sums, const double* due, const double* bound, i64 width,
                                 double tolerance, Totals* totals) {
  const i64 column = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (column < width && !(fabs(sums[column] - due[column]) <= tolerance * bound[column]))
    atomicAdd(&totals->bad_sums, 1);
}

// Keeps the columns that live: `place` says where each goes, −1 for none. Grid: (columns / 256, neurons / NEURONS).
extern "C" __global__ void keep(const float* dense, int neurons, i64 width, const int* place, i64 new_width,
                                float* out) {
  const i64 column = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= width || place[column] < 0) return;
  const int first = blockIdx.y * NEURONS, last = min(first + NEURONS, neurons);
  for (int j = first; j < last; j++) out[j * new_width + place[column]] = dense[j * width + column];
}

extern "C" __global__ void keep_due(const double* due, const double* bound, i64 width, const int* place,
                                    double* new_due, double* new_bound) {
  const i64 column = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= width || place[column] < 0) return;
  new_due[place[column]] = due[column];
  new_bound[place[column]] = bound[column];
}

extern "C" __global__ void widen(const float* in, i64 count, double* out) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) out[i] = in[i];
}
