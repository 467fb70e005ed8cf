// Weights on their way to a ring in shared memory: what the kernels that stream them share.

// 16 bytes to shared memory, or zeros; lines that follow are likely to be wanted soon.
__device__ __forceinline__ void copy_weights(u32 shared, const void* from, bool wanted) {
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(wanted ? 16 : 0)
                 : "memory");
}
// To the second-level cache.
__device__ __forceinline__ void prefetch(const void* from, u32 bytes) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes));
#endif
}
// Until no more than `left` steps are on their way.
__device__ __forceinline__ void wait_steps(u32 left) {
    if (left == 5) wait_copies<5>();
    else if (left == 4) wait_copies<4>();
    else if (left == 3) wait_copies<3>();
    else if (left == 2) wait_copies<2>();
    else wait_copies<1>();
}

