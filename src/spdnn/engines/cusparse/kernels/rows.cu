// What happens around a product C = Y·W of CSR matrices: its checks, bias and bounds, and the compaction of the
// result into the next Y. One warp a row throughout.
//
// The check is Freivalds': with fixed positive column weights h, every row of C must give C·h = Y·(W·h). What is due
// is summed in float64 while Y is written; `tolerance` is the rounding error that float32 sums may have, relative to
// |Y|·(|W|·h). An empty, truncated, misplaced or garbled row fails.
#include "check.cuh"

#define WARP 32
#define FULL 0xffffffffu

template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int step = WARP / 2; step; step /= 2) value += __shfl_xor_sync(FULL, value, step);
  return value;
}

__device__ __forceinline__ i64 warp_row() { return ((i64)blockIdx.x * blockDim.x + threadIdx.x) / WARP; }
__device__ __forceinline__ int lane() { return threadIdx.x % WARP; }

__device__ __forceinline__ void add(i64* total, i64 value) {
  atomicAdd((unsigned long long*)total, (unsigned long long)value);
}

// Weights W in CSR, inputs × outputs, to the measures of their inputs.
extern "C" __global__ void measure_weights(const int* ptr, const int* columns, const float* values, Measure* out,
                                           i64 inputs) {
  const i64 row = warp_row();
  if (row >= inputs) return;
  double due = 0, bound = 0;
  for (int e = ptr[row] + lane(); e < ptr[row + 1]; e += WARP) {
    const double term = values[e] * column_weight(columns[e]);
    due += term;
    bound += fabs(term);
  }
  due = warp_sum(due);
  bound = warp_sum(bound);
  if (lane() == 0) out[row] = {due, (float)bound, ptr[row + 1] - ptr[row]};
}

// Rows in CSR to what is due of their product with the measured weights, and its number of multiplications. Without
// measures `due` gets the sum of the row.
extern "C" __global__ void measure_rows(const i64* ptr, const int* columns, const float* values,
                                        const Measure* measures, i64 rows, double* due, float* bound, i64* products,
                                        Totals* totals) {
  const i64 row = warp_row();
  if (row >= rows) return;
  double sum = 0, size = 0;
  i64 count = 0;
  for (i64 e = ptr[row] + lane(); e < ptr[row + 1]; e += WARP) {
    if (!measures) {
      sum += values[e];
      continue;
    }
    const Measure m = measures[columns[e]];
    sum += values[e] * m.due;
    size += fabsf(values[e]) * m.bound;
    count += m.length;
  }
  sum = warp_sum(sum);
  size = warp_sum(size);
  count = warp_sum(count);
  if (lane() == 0) {
    due[row] = sum;
    bound[row] = (float)size;
    products[row] = count;
    add(&totals->products, count);
  }
}

// int64 offsets of some rows to int32 offsets of those rows alone.
extern "C" __global__ void rebase(const i64* ptr, i64 count, int* out) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) out[i] = (int)(ptr[i] - ptr[0]);
}

// Checks a product in CSR and counts, for every row, the entries that stay after the activation.
extern "C" __global__ void inspect(const int* ptr, const int* columns, const float* values, i64 rows, i64 nnz,
                                   int outputs, const float* bias, float bias0, float lower, float upper,
                                   int bias_all, const double* due, const float* bound, double tolerance, int* counts,
                                   Totals* totals) {
  const i64 row = warp_row();
  if (row >= rows) return;
  const Activation activate = {bias, bias0, lower, upper, bias_all};
  const i64 begin = ptr[row], end = ptr[row + 1];
  if (begin < 0 || end < begin || end > nnz || (row == 0 && begin != 0) || (row == rows - 1 && end != nnz)) {
    if (lane() == 0) {
      atomicAdd(&totals->bad_structure, 1);
      counts[row] = 0;
    }
    return;
  }
  double sum = 0;
  int stay = 0, outside = 0;
  for (i64 e = begin + lane(); e < end; e += WARP) {
    const int column = columns[e];
    if ((u32)column >= (u32)outputs) {
      outside++;
      continue;
    }
    sum += values[e] * column_weight(column);
    stay += activate(values[e], column) != 0.0f;
  }
  sum = warp_sum(sum);
  stay = warp_sum(stay);
  outside = warp_sum(outside);
  if (lane() == 0) {
    counts[row] = outside ? 0 : stay;
    if (outside) atomicAdd(&totals->bad_columns, outside);
    if (!(fabs(sum - due[row]) <= tolerance * bound[row])) atomicAdd(&totals->bad_sums, 1);
  }
}

// A checked product in CSR to dense rows × outputs, which is zero before. Nothing of a product found bad is read.
extern "C" __global__ void scatter(const int* ptr, const int* columns, const float* values, i64 rows, int outputs,
                                   const Totals* totals, float* dense) {
  const i64 row = warp_row();
  if (row >= rows || totals->bad_structure || totals->bad_columns) return;
  for (i64 e = ptr[row] + lane(); e < ptr[row + 1]; e += WARP) dense[row * outputs + columns[e]] = values[e];
}

extern "C" __global__ void count_dense(const float* dense, i64 rows, int outputs, const float* bias, float bias0,
                                       float lower, float upper, int bias_all, int* counts) {
  const i64 row = warp_row();
  if (row >= rows) return;
  const Activation activate = {bias, bias0, lower, upper, bias_all};
  int stay = 0;
  for (int c = lane(); c < outputs; c += WARP) stay += activate(dense[row * outputs + c], c) != 0.0f;
  stay = warp_sum(stay);
  if (lane() == 0) counts[row] = stay;
}

// Entries per row to offsets from `base` on, of all rows or of those with an entry. One block of 1024 threads.
// `place` says where each row went (−1: dropped); `ptr` and `ids` are the next rows', from the first new one on.
extern "C" __global__ void __launch_bounds__(1024) scan(const int* counts, i64 rows, int drop, i64 base,
                                                        const int* old_ids, int* place, i64* ptr, int* ids,
                                                        Totals* totals) {
  __shared__ i64 entries_of[WARP];
  __shared__ int rows_of[WARP];
  __shared__ int live_of[WARP];
  const int warp = threadIdx.x / WARP;
  i64 entries_before = base;
  int rows_before = 0, live_before = 0;
  if (threadIdx.x == 0) ptr[0] = base;
  for (i64 start = 0; start < rows; start += 1024) {
    const i64 row = start + threadIdx.x;
    const int count = row < rows ? counts[row] : 0;
    const int stays = row < rows && (count > 0 || !drop);
    const u32 votes = __ballot_sync(FULL, stays), alive = __ballot_sync(FULL, count > 0);
    i64 entries = count;
    for (int step = 1; step < WARP; step *= 2) {
      const i64 other = __shfl_up_sync(FULL, entries, step);
      if (lane() >= step) entries += other;
    }
    if (lane() == WARP - 1) {
      entries_of[warp] = entries;
      rows_of[warp] = __popc(votes);
      live_of[warp] = __popc(alive);
    }
    __syncthreads();
    i64 all_entries = 0, my_entries = entries_before + entries;
    int all_rows = 0, my_row = rows_before + __popc(votes & ((1u << lane()) - 1u)), all_live = 0;
    for (int w = 0; w < WARP; w++) {
      if (w < warp) {
        my_entries += entries_of[w];
        my_row += rows_of[w];
      }
      all_entries += entries_of[w];
      all_rows += rows_of[w];
      all_live += live_of[w];
    }
    if (row < rows) place[row] = stays ? my_row : -1;
    if (stays) {
      ptr[my_row + 1] = my_entries;
      ids[my_row] = old_ids[row];
    }
    entries_before += all_entries;
    rows_before += all_rows;
    live_before += all_live;
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    totals->nnz = entries_before - base;
    totals->rows = rows_before;
    totals->live = live_before;
  }
}

// Where the entries of a row are: in CSR, or all of them in a dense row.
struct Sparse {
  const int* ptr;
  const int* columns;
  const float* values;
  __device__ i64 begin(i64 row) const { return ptr[row]; }
  __device__ i64 end(i64 row) const { return ptr[row + 1]; }
  __device__ int column(i64 e, i64) const { return columns[e]; }
};

struct Dense {
  const float* values;
  int outputs;
  __device__ i64 begin(i64 row) const { return row * outputs; }
  __device__ i64 end(i64 row) const { return (row + 1) * outputs; }
  __device__ int column(i64 e, i64 row) const { return (int)(e - row * outputs); }
};

// Writes the entries that stay, in order, and sums what is due of the product with the next weights. Without next
// weights `due` gets the sum of the row. `ptr`, `due`, `bound`, `products` are the next rows', from the first new one.
template <typename Rows>
__device__ void write(const Rows in, i64 rows, const Activation activate, const int* place, const i64* ptr,
                      int* columns, float* values, const Measure* next, double* due, float* bound, i64* products,
                      Totals* totals) {
  const i64 row = warp_row();
  if (row >= rows || totals->bad_structure || totals->bad_columns) return;
  const int to = place[row];
  if (to < 0) return;
  i64 at = ptr[to];
  double sum = 0, size = 0;
  i64 count = 0;
  const i64 begin = in.begin(row), end = in.end(row);
  for (i64 start = begin; start < end; start += WARP) {
    const i64 e = start + lane();
    int column = 0;
    float y = 0.0f;
    if (e < end) {
      column = in.column(e, row);
      y = activate(in.values[e], column);
    }
    const u32 votes = __ballot_sync(FULL, y != 0.0f);
    if (y != 0.0f) {
      const i64 slot = at + __popc(votes & ((1u << lane()) - 1u));
      columns[slot] = column;
      values[slot] = y;
      if (next) {
        const Measure m = next[column];
        sum += y * m.due;
        size += fabsf(y) * m.bound;
        count += m.length;
      } else {
        sum += y;
      }
    }
    at += __popc(votes);
  }
  sum = warp_sum(sum);
  size = warp_sum(size);
  count = warp_sum(count);
  if (lane() == 0) {
    due[to] = sum;
    bound[to] = (float)size;
    products[to] = count;
    if (count) add(&totals->products, count);
  }
}

extern "C" __global__ void write_sparse(const int* c_ptr, const int* c_columns, const float* c_values, i64 rows,
                                        const float* bias, float bias0, float lower, float upper, int bias_all,
                                        const int* place, const i64* ptr, int* columns, float* values,
                                        const Measure* next, double* due, float* bound, i64* products,
                                        Totals* totals) {
  write(Sparse{c_ptr, c_columns, c_values}, rows, Activation{bias, bias0, lower, upper, bias_all}, place, ptr, columns,
        values, next, due, bound, products, totals);
}

extern "C" __global__ void write_dense(const float* dense, int outputs, i64 rows, const float* bias, float bias0,
                                       float lower, float upper, int bias_all, const int* place, const i64* ptr,
                                       int* columns, float* values, const Measure* next, double* due, float* bound,
                                       i64* products, Totals* totals) {
  write(Dense{dense, outputs}, rows, Activation{bias, bias0, lower, upper, bias_all}, place, ptr, columns, values,
        next, due, bound, products, totals);
}

// The values alone of the next rows whose structure is known: entry e of them is entry source[e] of the product.
// An entry that isn't there any more counts as a bad structure.
extern "C" __global__ void refill(const float* c_values, const int* c_columns, const int* source, i64 nnz,
                                  const float* bias, float bias0, float lower, float upper, int bias_all,
                                  float* values, Totals* totals) {
  const i64 e = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= nnz) return;
  const Activation activate = {bias, bias0, lower, upper, bias_all};
  const float y = activate(c_values[source[e]], c_columns[source[e]]);
  values[e] = y;
  if (y == 0.0f) atomicAdd(&totals->bad_structure, 1);
}

// Where in the product each entry of the next rows came from.
extern "C" __global__ void trace(const int* c_ptr, const int* c_columns, const float* c_values, i64 rows,
                                 const float* bias, float bias0, float lower, float upper, int bias_all,
                                 const int* place, const i64* ptr, i64 base, int* source) {
  const i64 row = warp_row();
  if (row >= rows || place[row] < 0) return;
  const Activation activate = {bias, bias0, lower, upper, bias_all};
  i64 at = ptr[place[row]] - base;
  for (i64 start = c_ptr[row]; start < c_ptr[row + 1]; start += WARP) {
    const i64 e = start + lane();
    const bool stays = e < c_ptr[row + 1] && activate(c_values[e], c_columns[e]) != 0.0f;
    const u32 votes = __ballot_sync(FULL, stays);
    if (stays) source[at + __popc(votes & ((1u << lane()) - 1u))] = (int)e;
    at += __popc(votes);
  }
}

// Rows whose number of entries is not the expected one count as a bad structure.
extern "C" __global__ void compare_counts(const int* counts, const int* expected, i64 rows, Totals* totals) {
  const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (row < rows && counts[row] != expected[row]) atomicAdd(&totals->bad_structure, 1);
}
