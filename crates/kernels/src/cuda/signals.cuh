// Bulk copies into shared memory and the signals that tell of them (sm_90).

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ void begin_signal(u32 at, u32 count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory"); }
__device__ __forceinline__ void signals_begun() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void arrive(u32 at) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory"); }
// Arrives when all of this thread's `copy16` so far have; those count as one arrival.
__device__ __forceinline__ void arrive_with_copies(u32 at) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(at) : "memory");
}
// Arrives, and says how many bytes are still to come.
__device__ __forceinline__ void expect(u32 at, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
// Says that more bytes are to come, without arriving.
__device__ __forceinline__ void expect_more(u32 at, u32 bytes) {
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
// What lies at `map` may have been another map before.
__device__ __forceinline__ void learn_map(const void* map) {
    asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(map) : "memory");
}
// A box of a tensor of four dimensions, laid out as its map (Rust: cuda/page_map.rs) says; the signal at `at` is told.
__device__ __forceinline__ void copy_box(u32 to, const void* map, u32 x, u32 y, u32 z, u32 w, u32 at) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(at)
                 : "memory");
}
// Whole 16 bytes, of which the signal at `at` is told.
__device__ __forceinline__ void copy_bulk(u32 to, const void* from, u32 bytes, u32 at) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(at) : "memory");
}
__device__ __forceinline__ void wait_signal(u32 at, u32 parity) {
    u32 done;
    do {
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }" : "=r"(done) : "r"(at), "r"(parity) : "memory");
    } while (!done);
}
#endif
