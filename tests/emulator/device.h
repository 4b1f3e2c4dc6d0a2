// What CUDA kernels need to run on a CPU, one thread of the machine for all of a block's: enough for this project's
// kernels, strict where mistakes hide. Threads are switched at barriers only, in one order or the other by turns;
// asynchronous copies happen when they are waited for and not before.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <utility>
#include <vector>

#define EMULATED 1
#define __device__
#define __host__
#define __global__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __restrict__

struct uint3 { unsigned x, y, z; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
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

static Fiber fibers[LARGEST];
static Barrier block_barrier, warp_barrier[LARGEST / 32];
static uint64_t warp_values[LARGEST / 32][32];
static int current, threads;
static bool backwards;
static uint3 block_index, block_size, grid_size;
static char* shared_memory;
static void (*body)(void*);
static void* body_argument;
static void* scheduler;

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
  block_barrier = Barrier();
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
  for (unsigned z = 0; z < grid[2]; z++)
    for (unsigned y = 0; y < grid[1]; y++)
      for (unsigned x = 0; x < grid[0]; x++) {
        block_index = {x, y, z};
        run_block();
        backwards = !backwards;
      }
  free(shared_memory);
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
