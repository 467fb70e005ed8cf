// Products of a warp group, four warps that multiply 64 rows at once (sm_90a).
//
// Tiles lie in shared memory in rows of 128 bytes whose 16-byte chunks are swapped by the row's number, so that eight rows touch all
// banks (PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout", 128-byte swizzling). Sums lie in registers as those of
// mma.sync do: of each warp 16 rows.

// Where swapped rows must begin.
constexpr u32 ATOM = 1024;
__device__ __forceinline__ u8* whole_atoms(u8* memory) { return memory + (ATOM - shared_address(memory) % ATOM) % ATOM; }
// Bytes from the start of a tile of ROWS rows to a chunk of 16 bytes; 64 columns follow 64 columns.
template <u32 ROWS> __device__ __forceinline__ u32 swapped(u32 row, u32 chunk) {
    return chunk / 8 * (ROWS * 128) + row * 128 + (chunk % 8 ^ row % 8) * 16;
}

// Until `products_end` or `products_left`, nothing may touch these registers.
template <u32 N> __device__ __forceinline__ void hold(float (&sums)[N][4]) {
#pragma unroll
    for (u32 j = 0; j < N; j++)
#pragma unroll
        for (u32 k = 0; k < 4; k++) asm volatile("" : "+f"(sums[j][k])::"memory");
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until no more than the last LEFT groups of products are under way.
template <int LEFT> __device__ __forceinline__ void products_left() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }
// What this thread has written to shared memory, or knows that others have, may be read by products: between the writing and those.
__device__ __forceinline__ void show_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Rows of 128 bytes, eight rows an atom, swapped. `right` bytes further on is `described(x + right)`. Where a `TURNED` operand has more
// than 64 columns, those follow `leading` bytes behind the first ones.
__device__ __forceinline__ u64 described(u32 address, u32 right = 0, u32 leading = 16) {
    return (u64)((address >> 4) + (leading >> 4 << 16) + (right >> 4)) | (u64)(ATOM >> 4 | 1u << 30) << 32;
}

#define FOUR(d, j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define SUMS_32(d, j) FOUR(d, j), FOUR(d, j + 1), FOUR(d, j + 2), FOUR(d, j + 3), FOUR(d, j + 4), FOUR(d, j + 5), FOUR(d, j + 6), FOUR(d, j + 7)
#define REGISTERS_32                                                                                                                \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define REGISTERS_64                                                                                                                \
    REGISTERS_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,"   \
                 "%59,%60,%61,%62,%63"
#define PRODUCT(N, NAME, REGISTERS) "setp.ne.b32 p, %" REGISTERS ", 0;\n\twgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " "

// d[64][N] (+)= a[64][16] b[N][16]^T, both in shared memory; what was in d counts if `add`.
template <typename T> __device__ __forceinline__ void group_scores(float (&d)[8][4], u64 a, u64 b, bool add);
template <typename T> __device__ __forceinline__ void group_scores(float (&d)[16][4], u64 a, u64 b, bool add);
// The same with the left one in registers, and of b[N][16]^T or, TURNED, b[16][N].
template <typename T, int TURNED> __device__ __forceinline__ void group_product(float (&d)[8][4], const u32 (&a)[4], u64 b, bool add);
template <typename T, int TURNED> __device__ __forceinline__ void group_product(float (&d)[16][4], const u32 (&a)[4], u64 b, bool add);

#define GROUP_SCORES(TYPE, NAME)                                                                                                    \
    template <> __device__ __forceinline__ void group_scores<TYPE>(float (&d)[8][4], u64 a, u64 b, bool add) {                      \
        asm volatile("{\n\t.reg .pred p;\n\t" PRODUCT(64, NAME, "34") "{" REGISTERS_32 "}, %32, %33, p, 1, 1, 0, 0;\n\t}"           \
                     : SUMS_32(d, 0)                                                                                                \
                     : "l"(a), "l"(b), "r"((u32)add));                                                                              \
    }                                                                                                                               \
    template <> __device__ __forceinline__ void group_scores<TYPE>(float (&d)[16][4], u64 a, u64 b, bool add) {                     \
        asm volatile("{\n\t.reg .pred p;\n\t" PRODUCT(128, NAME, "66") "{" REGISTERS_64 "}, %64, %65, p, 1, 1, 0, 0;\n\t}"          \
                     : SUMS_32(d, 0), SUMS_32(d, 8)                                                                                 \
                     : "l"(a), "l"(b), "r"((u32)add));                                                                              \
    }
#define GROUP_PRODUCT(TYPE, NAME, TURNED)                                                                                           \
    template <>                                                                                                                     \
    __device__ __forceinline__ void group_product<TYPE, TURNED>(float (&d)[8][4], const u32 (&a)[4], u64 b, bool add) {             \
        asm volatile("{\n\t.reg .pred p;\n\t" PRODUCT(64, NAME, "37") "{" REGISTERS_32 "}, {%32,%33,%34,%35}, %36, p, 1, 1, " #TURNED \
                     ";\n\t}"                                                                                                       \
                     : SUMS_32(d, 0)                                                                                                \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((u32)add));                                          \
    }                                                                                                                               \
    template <>                                                                                                                     \
    __device__ __forceinline__ void group_product<TYPE, TURNED>(float (&d)[16][4], const u32 (&a)[4], u64 b, bool add) {            \
        asm volatile("{\n\t.reg .pred p;\n\t" PRODUCT(128, NAME, "69") "{" REGISTERS_64                                            \
                     "}, {%64,%65,%66,%67}, %68, p, 1, 1, " #TURNED ";\n\t}"                                                        \
                     : SUMS_32(d, 0), SUMS_32(d, 8)                                                                                 \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((u32)add));                                          \
    }
GROUP_SCORES(bf16, "bf16")
GROUP_SCORES(f16, "f16")
GROUP_PRODUCT(bf16, "bf16", 0)
GROUP_PRODUCT(f16, "f16", 0)
GROUP_PRODUCT(bf16, "bf16", 1)
GROUP_PRODUCT(f16, "f16", 1)
#endif
