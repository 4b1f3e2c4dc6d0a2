// Many layers of a few rows, by many blocks together: each computes its share of every layer's units for all rows.
//
// Definitions: THREADS, AHEAD (layers whose weights are on their way), BUFFERS (layers whose outputs are held), DENSE (a
// share that has an entry for every DENSE inputs, or more, reads all inputs), INDEX.
// Same results, bit for bit, as few.cu.
//
// Blocks exchange activations through L2. A value is one word of 8 bytes together with its layer's number, the stamp, so
// that whoever reads it sees by the word itself whether it has come: a layer takes one store and one load, no barrier
// of the grid. A block reads the inputs that its share needs, or all. All blocks must run at the same time.
//
// There are words for the outputs of BUFFERS layers in turn. Those of layer l − BUFFERS are overwritten by layer l only
// when every block has said that it has read what it needs of them, which was some layers ago.
#include "common.cuh"
#include "row.cuh"

constexpr u32 WORDS = sizeof(Layer) / 4;
constexpr u32 RECORDS = 2 * AHEAD + 1;  // a layer's record comes before its weights are sent for
constexpr u32 SLOTS = AHEAD + 1;
constexpr u32 POLLS = 4;                // words a thread waits for at a time

#ifndef EMULATED
__device__ __forceinline__ u64 load_word(const u64* from) {
  u64 word;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(word) : "l"(from) : "memory");
  return word;
}
__device__ __forceinline__ void store_word(u64* to, u64 word) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}
// Between two looks at a word that hasn't come.
__device__ __forceinline__ bool spin() { return true; }
#endif

// What a block computes of a layer: units … unit + units − 1. Slices stay whole.
struct Share {
  u32 unit, units;
  __device__ __forceinline__ Share(const Layer& layer) {
    const u32 all = all_units(layer), together = layer.turns ? 32 : 1;
    const u32 each = ((all + gridDim.x - 1) / gridDim.x + together - 1) / together * together;
    unit = min(blockIdx.x * each, all);
    units = min(each, all - unit);
  }
};

// Where in turn_start or start the share's part is, and how many numbers it has.
__device__ __forceinline__ u32 start_at(const Layer& layer, u32 unit) { return layer.turns ? unit / 32 : unit; }

// The steps of a share in the second form, else its entries.
struct Range {
  u64 from, to;
  __device__ __forceinline__ Range(u64 from, u64 to) : from(from), to(to) {}
  // `start`: the share's part of turn_start or start, null where the layer has none.
  __device__ __forceinline__ Range(const Layer& layer, const Share& share, const void* start) : from(0), to(0) {
    if (share.units == 0) return;
    const u32 end = share.unit + share.units;
    if (layer.turns) {
      from = start ? ((const u32*)start)[0] : share.unit / 32 * layer.turn_steps;
      to = start ? ((const u32*)start)[share.units / 32] : end / 32 * layer.turn_steps;
    } else if (start) {
      from = ((const u64*)start)[0];
      to = ((const u64*)start)[share.units];
    } else {
      from = (u64)share.unit * layer.width;
      to = (u64)end * layer.width;
    }
  }
};

// Bytes first … last − 1 of an array as they are copied, in pieces of 16: they stand `skip` bytes after the place.
struct Piece {
  u64 first, bytes;
  u32 skip;
  __device__ __forceinline__ Piece(bool any, u64 first, u64 last)
      : first(first & ~15ull),
        bytes(any && last > first ? ((last + 15) & ~15ull) - (first & ~15ull) : 0),
        skip(first & 15) {}
  __device__ __forceinline__ void copy(u8* to, const void* array) const {
    for (u32 i = threadIdx.x * 16; i < bytes; i += THREADS * 16) copy_async_16(to + i, (const u8*)array + first + i);
  }
};

// A share's part of a layer's arrays, one after the other in a slot. Biases only where they stand in the units' order.
struct Start : Piece {
  __device__ __forceinline__ Start(const Layer& layer, const Share& share, const Arrays& all)
      : Piece(all.start && share.units, (u64)start_at(layer, share.unit) * (layer.turns ? 4 : 8),
              (u64)(start_at(layer, share.unit + share.units) + 1) * (layer.turns ? 4 : 8)) {}
};
struct Parts {
  Piece output, bias, entries, weight;
  __device__ __forceinline__ Parts(const Layer& layer, const Share& share, const Range& range, const Arrays& all)
      : output(all.output, (u64)share.unit * layer.g * 4, (u64)(share.unit + share.units) * layer.g * 4),
        bias(all.bias && !all.output, (u64)share.unit * 4, (u64)(share.unit + share.units) * 4),
        entries(true, range.from * entry_bytes(layer), range.to * entry_bytes(layer)),
        weight(!layer.turns, range.from * layer.g * 4, range.to * layer.g * 4) {}
  static __device__ __forceinline__ u32 entry_bytes(const Layer& layer) {
    return layer.turns ? 512 * vectors(layer) : sizeof(INDEX);
  }
};

// Sends for a share. One that takes more than `room` is read where it is.
__device__ __forceinline__ bool bring(const Layer& layer, const Range& range, u8* to, u32 room) {
  const Share share(layer);
  const Arrays all(layer);
  const Start start(layer, share, all);
  const Parts parts(layer, share, range, all);
  if (start.bytes + parts.output.bytes + parts.bias.bytes + parts.entries.bytes + parts.weight.bytes > room) return false;
  start.copy(to, all.start);
  parts.output.copy(to += start.bytes, all.output);
  parts.bias.copy(to += parts.output.bytes, all.bias);
  parts.entries.copy(to += parts.bias.bytes, all.entries);
  parts.weight.copy(to += parts.entries.bytes, all.weight);
  return true;
}

// A share's arrays where they are read. bias: null where it isn't in the units' order.
struct View : Arrays {
  u32 entries_here;
  // In a slot.
  __device__ __forceinline__ View(const Layer& layer, const Share& share, const u8* slot) : Arrays(layer) {
    const Arrays all(layer);
    const Start piece(layer, share, all);
    if (start) start = slot + piece.skip;
    const Range range(layer, share, start);
    const Parts parts(layer, share, range, all);
    slot += piece.bytes;
    if (output) output = (const u32*)(slot + parts.output.skip);
    slot += parts.output.bytes;
    bias = parts.bias.bytes ? (const float*)(slot + parts.bias.skip) : nullptr;
    slot += parts.bias.bytes;
    entries = slot + parts.entries.skip;
    weight = (const float*)(slot + parts.entries.bytes + parts.weight.skip);
    entries_here = (range.to - range.from) * (layer.turns ? 128 : 1);
  }
  // In global memory.
  __device__ __forceinline__ View(const Layer& layer, const Share& share) : Arrays(layer) {
    start = share_start(layer, share);
    const Range range(layer, share, start);
    if (output) output += share.unit * layer.g;
    bias = layer.bias && !output ? layer.bias + share.unit : nullptr;
    entries = (const u8*)entries + range.from * Parts::entry_bytes(layer);
    weight += range.from * layer.g;
    entries_here = 0;
  }
  static __device__ __forceinline__ const void* share_start(const Layer& layer, const Share& share) {
    if (layer.turns) return layer.turn_start ? layer.turn_start + share.unit / 32 : nullptr;
    return layer.start ? layer.start + share.unit : nullptr;
  }
  // The input of one of the entries, in any order.
  __device__ __forceinline__ u32 input(const Layer& layer, u32 entry) const {
    if (!layer.turns) return ((const INDEX*)entries)[entry];
    return layer.coded ? ((const u32*)entries)[entry] & 0xffff : ((const uint2*)entries)[entry].x;
  }
};

// The output that value `number` of a share is, and its bias.
__device__ __forceinline__ u32 output_of(const View& view, const Share& share, u32 number) {
  return view.output ? view.output[number] : share.unit + number;
}
__device__ __forceinline__ float bias_of(const Layer& layer, const View& view, const Share& share, u32 number) {
  if (!layer.bias) return layer.bias0;
  if (view.bias) return view.bias[number];
  const u32 output = output_of(view, share, number);
  return output == NONE ? 0.0f : layer.bias[output];
}

// Rows from `row` on, 1 << log at a time, of a share: their values to the words `out`, each 1 << wide of them apart.
// `bias`: of the thread's first value.
__device__ __forceinline__ void compute(const Layer& layer, const View& view, const Share& share, u32 row, u32 rows,
                                        u32 log, u32 wide, float bias, const float* now, u64* out, u32 stamp) {
  for (u32 item = threadIdx.x; item < share.units * layer.g << log; item += THREADS) {
    const u32 number = item >> log, mine = item & ((1 << log) - 1);
    const u32 output = output_of(view, share, number);
    if (output == NONE || row + mine >= rows) continue;
    const float sum = sum_of(layer, view, number, now + mine, log);
    const float y = activate(sum, item == threadIdx.x ? bias : bias_of(layer, view, share, number), layer);
    store_word(out + ((u64)output << wide) + row + mine, (u64)stamp << 32 | __float_as_uint(y));
  }
}

// The values of `total` words to shared memory, as they come. of(i, to) gives word i, null where there is none, and where
// its value goes.
template <class Of>
__device__ __forceinline__ void receive(u32 total, u32 stamp, Of of) {
  for (u32 i = threadIdx.x; i < total; i += POLLS * THREADS) {
    const u64* from[POLLS];
    float* to[POLLS];
    u64 word[POLLS];
#pragma unroll
    for (int p = 0; p < POLLS; p++) {
      from[p] = i + p * THREADS < total ? of(i + p * THREADS, to[p]) : nullptr;
      word[p] = 0;
    }
    bool missing;
    do {
      missing = false;
#pragma unroll
      for (int p = 0; p < POLLS; p++)
        if (from[p] && (u32)(word[p] >> 32) != stamp) word[p] = load_word(from[p]);
#pragma unroll
      for (int p = 0; p < POLLS; p++) missing |= from[p] && (u32)(word[p] >> 32) != stamp;
    } while (missing && spin());
#pragma unroll
    for (int p = 0; p < POLLS; p++)
      if (from[p]) *to[p] = __uint_as_float((u32)word[p]);
  }
}

// The different inputs of a share into `list`. `marks`: a bit for each input, 0.
__device__ __forceinline__ void look_up(const Layer& layer, const View& view, u32* marks, INDEX* list, u32* listed) {
  const u32 lane = threadIdx.x % 32, entries = view.entries_here;
  for (u32 i = threadIdx.x; i - lane < entries; i += THREADS) {
    bool fresh = false;
    u32 input = 0;
    if (i < entries) {
      input = view.input(layer, i);
      const u32 bit = 1u << input % 32;
      fresh = !(*(volatile u32*)(marks + input / 32) & bit) && !(atomicOr(marks + input / 32, bit) & bit);
    }
    const u32 votes = __ballot_sync(NONE, fresh);
    if (!votes) continue;
    u32 at = 0;
    if (lane == 0) at = atomicAdd(listed, __popc(votes));
    at = __shfl_sync(NONE, at, 0);
    if (fresh) list[at + __popc(votes & ((1u << lane) - 1))] = input;
  }
}

// As `few`. `words`: for the outputs of BUFFERS layers, then one for each block, which says what it has read; they are 0
// when a run starts. `pass`: rows computed at a time, a power of two. Every row stays to the end of the stage.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    crew(const Layer* layers, u32 first, u32 last, const float* x, u64 x_stride, const u32* list, const u32* count,
         float* kept, u64 kept_stride, u64* hashes, u32* slot, u32* kept_count, u64* words, u64* said, u32 span, u32 pass,
         u32 room, u32 drop, u32 most) {
  extern __shared__ __align__(16) float memory[];
  __shared__ __align__(16) u32 records[RECORDS][WORDS];
  __shared__ u32 needed;
  float* now = memory;
  u32* marks = (u32*)(now + span * pass);
  u8* slots = (u8*)(marks + span / 32);
  INDEX* inputs = (INDEX*)(slots + SLOTS * room);
  const u32 rows = *count;
  if (rows == 0 || rows > most) return;
  u32 wide = 0;  // words of the same output stand together, 1 << wide of them
  while (1u << wide < rows) wide++;
  u32 log = wide;  // rows computed at a time: 1 << log
  while (1u << log > pass) log--;
  const u64 buffer = (u64)span << wide;

  for (u32 i = threadIdx.x; i < 2 * AHEAD * WORDS; i += THREADS)
    if (first + i / WORDS < last) records[(first + i / WORDS) % RECORDS][i % WORDS] = ((const u32*)(layers + first))[i];
  __syncthreads();
  u32 here = 0;  // a bit for each slot: its share is in it
  for (u32 l = first; l < first + AHEAD; l++) {
    if (l < last) {
      const Layer& layer = *(const Layer*)records[l % RECORDS];
      const Share share(layer);
      const Range range(layer, share, View::share_start(layer, share));
      here |= (u32)bring(layer, range, slots + l % SLOTS * room, room) << l % SLOTS;
    }
    copy_commit();
  }
  u64 from = 0, to = 0;  // the range of the share that is sent for next
  for (u32 l = first;; l++) {
    // What doesn't depend on activations, while those come: the shares of layer l and what they need.
    const Layer& layer = *(const Layer*)records[l % RECORDS];
    for (u32 i = threadIdx.x; i < (layer.inputs + 31) / 32; i += THREADS) marks[i] = 0;
    if (threadIdx.x == 0) needed = 0;
    copy_wait<AHEAD - 1>();
    __syncthreads();
    const Share share(layer);
    const bool near = here >> l % SLOTS & 1;
    const View view = near ? View(layer, share, slots + l % SLOTS * room) : View(layer, share);
    const bool whole = !near || (u64)view.entries_here * DENSE >= layer.inputs;
    const u32 mine = threadIdx.x >> log;
    const float bias = mine < share.units * layer.g ? bias_of(layer, view, share, mine) : 0.0f;
    if (l + AHEAD < last) {
      const Layer& next = *(const Layer*)records[(l + AHEAD) % RECORDS];
      const Share of(next);
      const Range range(next, of, View::share_start(next, of));
      from = range.from;
      to = range.to;
    }
    if (!whole) {
      look_up(layer, view, marks, inputs, &needed);
      __syncthreads();
    }

    const bool reuse = l >= first + BUFFERS && threadIdx.x < gridDim.x;
    u64 heard = reuse ? load_word(said + threadIdx.x) : 0;
    const u32 total = whole ? layer.inputs : needed;
    const u64* sent = words + (l + BUFFERS - 1) % BUFFERS * buffer;
    for (u32 row = 0; row < rows; row += 1 << log) {
      if (row) __syncthreads();
      if (l == first) {
        for (u32 i = threadIdx.x; i < total << log; i += THREADS) {
          const u32 n = whole ? i >> log : inputs[i >> log], r = row + (i & ((1 << log) - 1));
          if (r < rows) now[(n << log) + r - row] = x[(u64)(list ? list[r] : r) * x_stride + n];
        }
      } else {
        receive(total << log, l, [&](u32 i, float*& place) -> const u64* {
          const u32 n = whole ? i >> log : inputs[i >> log], r = i & ((1 << log) - 1);
          place = now + (n << log) + r;
          return row + r < rows ? sent + ((u64)n << wide) + row + r : nullptr;
        });
      }
      if (row == 0 && reuse)
        while (heard < l - BUFFERS + 2 && spin()) heard = load_word(said + threadIdx.x);
      __syncthreads();
      compute(layer, view, share, row, rows, log, wide, bias, now, words + l % BUFFERS * buffer, l + 1);
    }
    if (threadIdx.x == 0) store_word(said + blockIdx.x, l + 1);  // what layer l reads has been read
    if (l + 1 == last) break;
    const u32 coming = l + AHEAD;
    if (coming < last) {
      const u32 into = coming % SLOTS;
      const bool fits = bring(*(const Layer*)records[coming % RECORDS], Range(from, to), slots + into * room, room);
      here = (here & ~(1u << into)) | (u32)fits << into;
    }
    if (coming + AHEAD < last && threadIdx.x < WORDS)
      copy_async_4(&records[(coming + AHEAD) % RECORDS][threadIdx.x],
                   (const u32*)(layers + coming + AHEAD) + threadIdx.x);
    copy_commit();
  }
  copy_wait_all();

  const u32 neurons = layers[last - 1].outputs;
  for (u32 row = blockIdx.x; row < rows; row += gridDim.x) {
    __syncthreads();
    receive(neurons, last, [&](u32 n, float*& place) -> const u64* {
      place = now + n;
      return words + (last - 1) % BUFFERS * buffer + ((u64)n << wide) + row;
    });
    __syncthreads();
    bool any = false;
    for (u32 n = threadIdx.x; n < neurons; n += THREADS) any |= now[n] != 0.0f;
    any = __syncthreads_or(any);
    hand_on(now, neurons, any || !drop, list ? list[row] : row, kept, kept_stride, hashes, slot, kept_count);
  }
}
