// What CUDA kernels need to run on a CPU, one thread of the machine for all of a block's: enough for this project's
// kernels, strict where mistakes hide. Threads are switched at barriers only, in one order or the other by turns;
// asynchronous copies happen when they are waited for and not before.
//
// With CONCURRENT the blocks of a grid run side by side, for kernels whose blocks wait for each other: each has a thread
// of the machine, one of which runs at a time, until all of its block's threads wait for other blocks (`spin`). Words
// that a block stores for others (`store_word`) become visible late and out of order, and blocks that wait for ever are
// found.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#ifdef HALF
#include <immintrin.h>
#endif

#include <algorithm>
#ifdef CONCURRENT
#include <condition_variable>
#include <mutex>
#include <thread>
#endif
#include <utility>
#include <vector>

#define EMULATED 1
#define __device__
#define __host__
#define __global__
#define __constant__ static
#ifdef CONCURRENT
#define OF_A_BLOCK static thread_local
#else
#define OF_A_BLOCK static
#endif
#define __shared__ OF_A_BLOCK
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __restrict__

struct uint3 { unsigned x, y, z; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

namespace emulator {

constexpr int LARGEST = 1024;
constexpr size_t STACK = 96 << 10;

struct Copy { void* to; const void* from; unsigned bytes; long group; };

struct Fiber {
  void* stack_pointer;
  char* stack;
  bool done;
  std::vector<Copy> copies;
  long groups;
};

struct Barrier {
  int arrived = 0, living = 0;
  long turn = 0;
  unsigned any[2] = {0, 0};
};

OF_A_BLOCK Fiber fibers[LARGEST];
OF_A_BLOCK Barrier block_barrier, some_barrier, warp_barrier[LARGEST / 32];
OF_A_BLOCK uint64_t warp_values[LARGEST / 32][32];
OF_A_BLOCK int current, threads;
OF_A_BLOCK bool backwards;
OF_A_BLOCK uint3 block_index, block_size, grid_size;
OF_A_BLOCK char* shared_memory;
OF_A_BLOCK void (*body)(void*);
OF_A_BLOCK void* body_argument;
OF_A_BLOCK void* scheduler;

#if !defined(__x86_64__)
#error "the kernel emulator switches stacks on x86-64 only"
#endif
extern "C" void emulator_switch(void** from, void* to);
__asm__(
    ".text\n.type emulator_switch,@function\nemulator_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
    ".size emulator_switch,.-emulator_switch\n");

// To the next thread that isn't done, or back to the scheduler if there is none.
inline void go_on(void** save) {
  int next = current;
  for (int k = 0; k < threads; k++) {
    next = backwards ? (next + threads - 1) % threads : (next + 1) % threads;
    if (!fibers[next].done) {
      if (next == current && !fibers[current].done) return;
      current = next;
      emulator_switch(save, fibers[next].stack_pointer);
      return;
    }
  }
  emulator_switch(save, scheduler);
}

inline void yield() { go_on(&fibers[current].stack_pointer); }

inline void release(Barrier& barrier) {
  barrier.arrived = 0;
  barrier.any[(barrier.turn + 1) & 1] = 0;
  barrier.turn++;
}

inline unsigned wait(Barrier& barrier, unsigned vote = 0) {
  const long turn = barrier.turn;
  barrier.any[turn & 1] |= vote;
  if (++barrier.arrived == barrier.living)
    release(barrier);
  else
    while (barrier.turn == turn) yield();
  return barrier.any[turn & 1];
}

inline void leave(Barrier& barrier) {
  barrier.living--;
  if (barrier.living && barrier.arrived == barrier.living) release(barrier);
}

inline void entry() {
  body(body_argument);
  Fiber& me = fibers[current];
  if (!me.copies.empty()) {
    fprintf(stderr, "a thread ended with %zu asynchronous copies nobody waited for\n", me.copies.size());
    abort();
  }
  me.done = true;
  leave(warp_barrier[current / 32]);
  leave(block_barrier);
  static void* nowhere;
  go_on(&nowhere);
}

inline void run_block() {
  block_barrier = some_barrier = Barrier();
  block_barrier.living = threads;
  for (int w = 0; w * 32 < threads; w++) {
    warp_barrier[w] = Barrier();
    warp_barrier[w].living = std::min(32, threads - w * 32);
  }
  for (int t = 0; t < threads; t++) {
    Fiber& fiber = fibers[t];
    if (!fiber.stack) fiber.stack = (char*)aligned_alloc(64, STACK);
    fiber.done = false;
    fiber.groups = 0;
    fiber.copies.clear();
    void** top = (void**)(fiber.stack + STACK - 64);
    *--top = nullptr;  // where entry would return to; keeps the stack aligned
    *--top = (void*)entry;
    for (int r = 0; r < 6; r++) *--top = nullptr;
    fiber.stack_pointer = top;
  }
  current = backwards ? 0 : threads - 1;
  go_on(&scheduler);
}

#ifdef CONCURRENT
struct Word { uint64_t* at; uint64_t value; };
struct Crowd {
  std::mutex mutex;
  std::condition_variable turned;
  std::vector<bool> done;
  unsigned turn = 0, next = 0;
  unsigned long passes = 0, fruitless = 0;
};
static Crowd* crowd;
OF_A_BLOCK unsigned me;
OF_A_BLOCK int spins;
OF_A_BLOCK std::vector<Word> unseen;  // words stored that other blocks don't see yet

inline unsigned long chance(unsigned long of) {
  of = (of ^ of >> 29) * 0x9E3779B97F4A7C15u;
  return (of ^ of >> 32) * 0xD6E8FEB86659FD93u >> 32;
}

// Stored words become visible: all, or those of three in four addresses.
inline void show(bool all) {
  std::vector<Word> left;
  for (const Word& word : unseen) {
    if (all || chance((uintptr_t)word.at / 8 + crowd->passes) % 4)
      *word.at = word.value;
    else
      left.push_back(word);
  }
  if (!unseen.empty()) crowd->fruitless = 0;
  unseen.swap(left);
}

inline void await_turn(std::unique_lock<std::mutex>& lock) {
  crowd->turned.wait(lock, [] { return crowd->turn == me; });
}

// Lets a block run that isn't done. For some time one goes on whenever it can, so that it leaves others behind.
inline void pass_on(bool done) {
  std::unique_lock<std::mutex> lock(crowd->mutex);
  crowd->passes++;
  if (done) crowd->fruitless = 0;
  const bool stored = !unseen.empty();
  show(done);
  crowd->done[me] = done;
  const unsigned blocks = crowd->done.size();
  if (++crowd->fruitless > 1000 * blocks) {
    fprintf(stderr, "all blocks wait for words that nobody stores\n");
    abort();
  }
  const unsigned favourite = chance(crowd->passes / 64) % blocks;
  if (!crowd->done[favourite] && (me != favourite || stored)) {
    crowd->turn = favourite;
  } else {
    for (unsigned k = 0; k < blocks; k++) {
      crowd->next = (crowd->next + 1) % blocks;
      if (!crowd->done[crowd->next]) break;
    }
    crowd->turn = crowd->next;
  }
  crowd->turned.notify_all();
  if (!done) await_turn(lock);
}
#endif

// Copies whose group is older than the `pending` last ones committed happen.
inline void finish_copies(long pending) {
  Fiber& me = fibers[current];
  std::vector<Copy> left;
  for (const Copy& copy : me.copies) {
    if (pending < 0 || copy.group < me.groups - pending)
      memcpy(copy.to, copy.from, copy.bytes);
    else
      left.push_back(copy);
  }
  me.copies.swap(left);
}

template <class... P, size_t... I>
void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
  kernel(*(P*)arguments[I]...);
}

template <class... P>
void launch(void (*kernel)(P...), const unsigned* grid, const unsigned* block, size_t shared, void** arguments) {
  struct Call { void (*kernel)(P...); void** arguments; } what = {kernel, arguments};
  const unsigned blocks = grid[0] * grid[1] * grid[2];
  const auto prepare = [&] {
    threads = block[0] * block[1] * block[2];
    if (threads < 1 || threads > LARGEST) abort();
    block_size = {block[0], block[1], block[2]};
    grid_size = {grid[0], grid[1], grid[2]};
    shared_memory = (char*)aligned_alloc(128, (shared + 255) / 128 * 128);
    memset(shared_memory, 0xff, (shared + 255) / 128 * 128);  // NaN
    body = [](void* of) {
      const Call& c = *(Call*)of;
      call(c.kernel, c.arguments, std::index_sequence_for<P...>());
    };
    body_argument = &what;
  };
  const auto run = [&](unsigned b) {
    block_index = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
    run_block();
  };
#ifdef CONCURRENT
  static bool odd;
  odd = !odd;
  Crowd all;
  all.done.assign(blocks, false);
  all.turn = odd ? blocks - 1 : 0;
  crowd = &all;
  std::vector<std::thread> machines;
  for (unsigned b = 0; b < blocks; b++)
    machines.emplace_back([&, b] {
      prepare();
      me = b;
      backwards = (b + odd) % 2;
      {
        std::unique_lock<std::mutex> lock(crowd->mutex);
        await_turn(lock);
      }
      run(b);
      pass_on(true);
      free(shared_memory);
      for (Fiber& fiber : fibers) free(fiber.stack);
    });
  for (std::thread& machine : machines) machine.join();
#else
  prepare();
  for (unsigned b = 0; b < blocks; b++) {
    run(b);
    backwards = !backwards;
  }
  free(shared_memory);
#endif
}

inline uint3 thread_index() {
  const unsigned t = current;
  return {t % block_size.x, t / block_size.x % block_size.y, t / block_size.x / block_size.y};
}

template <class T>
T shuffle(T value, unsigned lane) {
  static_assert(sizeof(T) <= 8, "");
  const int warp = current / 32;
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  warp_values[warp][current % 32] = bits;
  wait(warp_barrier[warp]);
  bits = warp_values[warp][lane % 32];
  wait(warp_barrier[warp]);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

inline unsigned ballot(bool vote) { return wait(warp_barrier[current / 32], (unsigned)vote << current % 32); }

}  // namespace emulator

#define threadIdx (emulator::thread_index())
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size

inline void __syncthreads() { emulator::wait(emulator::block_barrier); }
inline int __syncthreads_or(int vote) { return emulator::wait(emulator::block_barrier, vote != 0); }
inline void __syncwarp(unsigned = ~0u) { emulator::wait(emulator::warp_barrier[emulator::current / 32]); }
template <class T> T __shfl_sync(unsigned, T value, unsigned lane) { return emulator::shuffle(value, lane); }
template <class T> T __shfl_xor_sync(unsigned, T value, unsigned mask) {
  return emulator::shuffle(value, emulator::current % 32 ^ mask);
}
template <class T> T __shfl_up_sync(unsigned, T value, unsigned by) {
  const unsigned lane = emulator::current % 32;
  return emulator::shuffle(value, lane < by ? lane : lane - by);
}
template <class T> T __shfl_down_sync(unsigned, T value, unsigned by) {
  const unsigned lane = emulator::current % 32;
  return emulator::shuffle(value, lane + by > 31 ? lane : lane + by);
}
inline unsigned __ballot_sync(unsigned, int vote) { return emulator::ballot(vote); }
inline int __any_sync(unsigned, int vote) { return emulator::ballot(vote) != 0; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __float_as_uint(float x) { unsigned y; memcpy(&y, &x, 4); return y; }
template <class T> T __ldg(const T* from) { return *from; }
inline float __uint_as_float(unsigned x) { float y; memcpy(&y, &x, 4); return y; }
inline void prefetch(const void*) {}
template <class T> T atomicAdd(T* at, T value) { const T old = *at; *at = old + value; return old; }
inline unsigned atomicAdd(unsigned* at, int value) { const unsigned old = *at; *at = old + value; return old; }
inline unsigned atomicOr(unsigned* at, unsigned value) { const unsigned old = *at; *at = old | value; return old; }
template <class T> T atomicCAS(T* at, T compare, T value) {
  const T old = *at;
  if (old == compare) *at = value;
  return old;
}
template <class A, class B> auto min(A a, B b) { using C = std::common_type_t<A, B>; return (C)a < (C)b ? (C)a : (C)b; }
template <class A, class B> auto max(A a, B b) { using C = std::common_type_t<A, B>; return (C)a > (C)b ? (C)a : (C)b; }

#ifdef HALF
// Conversions from and to fp16 (kernels/values.cuh).
inline float to_float(uint16_t value) { return _cvtsh_ss(value); }
inline uint16_t to_value(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }
inline float2 to_floats(unsigned two) { return {to_float(two), to_float(two >> 16)}; }
inline unsigned to_values(float low, float high) { return to_value(low) | (unsigned)to_value(high) << 16; }
#endif

// Asynchronous copies (kernels/common.cuh).
inline void copy_async_16(void* shared, const void* global) {
  emulator::Fiber& me = emulator::fibers[emulator::current];
  if ((uintptr_t)shared % 16 || (uintptr_t)global % 16) {
    fprintf(stderr, "an asynchronous copy of 16 bytes isn't aligned\n");
    abort();
  }
  me.copies.push_back({shared, global, 16, me.groups});
}
inline void copy_async_4(void* shared, const void* global) {
  emulator::Fiber& me = emulator::fibers[emulator::current];
  me.copies.push_back({shared, global, 4, me.groups});
}
inline void copy_commit() { emulator::fibers[emulator::current].groups++; }
template <int PENDING> inline void copy_wait() { emulator::finish_copies(PENDING); }
inline void copy_wait_all() { emulator::finish_copies(-1); }

// Barriers that count arrivals and bytes (kernels/barriers.cuh), for clusters of one block. Copies in bulk happen when
// somebody waits for them and not before.
namespace emulator {
struct Counter { int32_t bytes; uint16_t left, phase : 1, many : 15; };
struct Bulk { void* to; const void* from; unsigned bytes; void* barrier; };
OF_A_BLOCK std::vector<Bulk> bulks;
inline void pass_if_done(Counter& counter) {
  if (counter.left || counter.bytes) return;
  counter.phase ^= 1;
  counter.left = counter.many;
}
}  // namespace emulator
typedef char* Place;
inline Place place_of(const void* shared) { return (Place)shared; }
inline unsigned load_u32(Place from) { return *(unsigned*)from; }
inline float load_float(Place from) { return *(float*)from; }
inline float4 load_float4(Place from) { return *(float4*)from; }
inline void barrier_init(Place barrier, unsigned many) {
  emulator::Counter& counter = *(emulator::Counter*)barrier;
  counter.bytes = 0, counter.left = counter.many = many, counter.phase = 0;
}
inline void barrier_expect(Place barrier, unsigned bytes) {
  emulator::Counter& counter = *(emulator::Counter*)barrier;
  if (!counter.left) abort();
  counter.bytes += bytes, counter.left--;
  emulator::pass_if_done(counter);
}
inline void barrier_arrive(Place barrier) { barrier_expect(barrier, 0); }
inline void barrier_arrive(Place barrier, unsigned rank) { abort(); }
inline void barrier_wait(Place barrier, unsigned phase) {
  emulator::Counter& counter = *(emulator::Counter*)barrier;
  for (long tries = 0; counter.phase == phase; tries++) {
    for (emulator::Bulk& bulk : emulator::bulks) {
      if (bulk.barrier != barrier) continue;
      memcpy(bulk.to, bulk.from, bulk.bytes);
      counter.bytes -= bulk.bytes;
      bulk.barrier = nullptr;
    }
    auto& bulks = emulator::bulks;
    bulks.erase(std::remove_if(bulks.begin(), bulks.end(), [](auto& bulk) { return !bulk.barrier; }), bulks.end());
    emulator::pass_if_done(counter);
    if (counter.phase != phase) break;
    if (tries > 1000000) {
      fprintf(stderr, "a thread waits at a barrier for ever\n");
      abort();
    }
    emulator::yield();
  }
}
template <int N> void copy_bulk(Place shared, const void* global, unsigned bytes, Place barrier) {
  if ((uintptr_t)shared % 16 || (uintptr_t)global % 16 || bytes % 16) {
    fprintf(stderr, "a copy in bulk isn't aligned\n");
    abort();
  }
  emulator::bulks.push_back({shared, global, bytes, barrier});
}
inline void prefetch_bulk(const void*, unsigned) {}
inline void barriers_ready() {}
inline void cluster_sync() {}
inline void sync_some(unsigned threads) {
  emulator::Barrier& barrier = emulator::some_barrier;
  if (!barrier.arrived) barrier.living = threads;
  emulator::wait(barrier);
}

#ifdef CONCURRENT
// Words that blocks exchange (kernels/crew.cu).
inline uint64_t load_word(const unsigned long long* from) { return *from; }
inline void store_word(unsigned long long* to, uint64_t word) { emulator::unseen.push_back({(uint64_t*)to, word}); }
inline bool spin() {
  if (++emulator::spins >= emulator::threads) {
    emulator::spins = 0;
    emulator::pass_on(false);
  }
  emulator::yield();
  return true;
}
#endif
inline uint32_t load_acquire(const uint32_t* from) { return *from; }
// Of the one thread of its block that doesn't wait for the others.
inline void spin_alone() {
#ifdef CONCURRENT
  emulator::pass_on(false);
#else
  fprintf(stderr, "a block waits for others that don't run at the same time\n");
  abort();
#endif
}
inline void __threadfence() {}
