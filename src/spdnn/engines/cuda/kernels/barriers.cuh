// Shared memory by its places: loads, barriers that count arrivals and bytes (mbarrier), and copies in bulk that arrive
// there; blocks of a cluster reach each other's. For compute capability 9.0 and later. On the emulator: its own, for
// clusters of one block.
#ifndef EMULATED
#if __CUDA_ARCH__ < 900
#undef __cluster_dims__  // kernels compile to nothing there
#define __cluster_dims__(...)
#endif
typedef u32 Place;
__device__ __forceinline__ Place place_of(const void* shared) {
  Place place = (u32)__cvta_generic_to_shared(shared);
  asm volatile("" : "+r"(place));  // kept in a register
  return place;
}

// Loads are made in the order they are written in: volatile, so that the assembler keeps it as well.
__device__ __forceinline__ u32 load_u32(Place from) {
  u32 x;
  asm volatile("ld.volatile.shared.u32 %0, [%1];" : "=r"(x) : "r"(from) : "memory");
  return x;
}
__device__ __forceinline__ float load_float(Place from) {
  float x;
  asm volatile("ld.volatile.shared.f32 %0, [%1];" : "=f"(x) : "r"(from) : "memory");
  return x;
}
__device__ __forceinline__ float4 load_float4(Place from) {
  float4 x;
  asm volatile("ld.volatile.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "r"(from)
               : "memory");
  return x;
}

// The barrier, eight bytes, passes when `many` arrivals and as many bytes as are expected have come.
__device__ __forceinline__ void barrier_init(Place barrier, u32 many) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(many) : "memory");
}
__device__ __forceinline__ void barrier_arrive(Place barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// At the same barrier of another block.
__device__ __forceinline__ void barrier_arrive(Place barrier, u32 rank) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}
__device__ __forceinline__ void barrier_expect(Place barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Until the barrier has passed as often as makes `phase` even or odd: phase 0 waits for the first time.
__device__ __forceinline__ void barrier_wait(Place barrier, u32 phase) {
  asm volatile(
      "{\n.reg .pred passed;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 passed, [%0], %1;\n"
      "@passed bra DONE;\nbra WAIT;\nDONE:\n}" ::"r"(barrier),
      "r"(phase)
      : "memory");
}
// Into the second-level cache.
__device__ __forceinline__ void prefetch_bulk(const void* global, u32 bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes) : "memory");
}
// A copy to the same place in all BLOCKS blocks of a cluster (1: in this one), which arrives at the same barrier of each.
// Bytes are a multiple of 16, as are both places.
template <int BLOCKS>
__device__ __forceinline__ void copy_bulk(Place to, const void* global, u32 bytes, Place barrier) {
  if (BLOCKS == 1)
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(global), "r"(bytes), "r"(barrier)
                 : "memory");
  else
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;"
        ::"r"(to), "l"(global), "r"(bytes), "r"(barrier), "h"((u16)((1 << BLOCKS) - 1))
        : "memory");
}
__device__ __forceinline__ void barriers_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void cluster_sync() {
  __syncwarp();
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// A barrier of the first `threads` threads of a block.
__device__ __forceinline__ void sync_some(u32 threads) {
  __syncwarp();
  asm volatile("bar.sync 1, %0;" ::"r"(threads) : "memory");
}
#endif
