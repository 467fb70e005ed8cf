// Products of whole tiles: by a warp group from shared memory where the chip and the format have that (sm_90a, 16 bits, heads of
// whole 64s), else piece by piece.
//
// A warp group reads a tile in rows of 128 bytes whose 16-byte chunks are swapped by the row's number, so that eight rows touch
// all banks (PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout", 128-byte swizzling). Sums lie in registers as
// those of mma.sync do.

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool GROUPED = sizeof(W) == 2 && D % 64 == 0;
#else
constexpr bool GROUPED = false;
#endif
constexpr u32 TILE_BYTES = SIDE * (GROUPED ? D : STRIDE) * sizeof(W);
// Where swapped rows must begin.
constexpr u32 ATOM = 1024;

__device__ __forceinline__ u8* whole_atoms(u8* memory) { return memory + (ATOM - shared_address(memory) % ATOM) % ATOM; }

// Bytes from a tile's start to a chunk of 16 bytes.
__device__ __forceinline__ u32 chunk_at(u32 row, u32 chunk) {
    if constexpr (GROUPED) return chunk / 8 * (SIDE * 128) + row * 128 + (chunk % 8 ^ row % 8) * 16;
    else return row * STRIDE * sizeof(W) + chunk * 16;
}
// The row of a tile of queries that is column n of a product whose rows are keys: each lane of four then holds 16 neighbouring
// queries of a key, in order, and sums along them need no exchange but between four lanes.
__device__ __forceinline__ u32 turned(u32 n) { return n % 8 / 2 * 16 + n / 8 * 2 + n % 2; }

// 64 rows of D numbers into a tile, as they come or `turned`; rows from `count` on, and columns behind D, are 0. Asynchronous
// where rows are whole chunks of 16 bytes: `commit_copies` and `arrived` follow.
template <bool TURNED = false> __device__ __forceinline__ void fetch(W* tile, const W* from, u64 stride, u32 count) {
    if constexpr (D * sizeof(W) % 16 == 0) {
        constexpr u32 CHUNKS = DP * sizeof(W) / 16, EACH = 16 / sizeof(W);
        for (u32 i = threadIdx.x; i < SIDE * CHUNKS; i += THREADS) {
            u32 to = i / CHUNKS, chunk = i % CHUNKS, row = TURNED ? turned(to) : to;
            bool there = row < count && chunk * EACH < D;
            copy16(shared_address(tile) + chunk_at(to, chunk), there ? from + row * stride + chunk * EACH : from, there ? 16 : 0);
        }
    } else {
        for (u32 i = threadIdx.x; i < SIDE * DP; i += THREADS) {
            u32 to = i / DP, column = i % DP, row = TURNED ? turned(to) : to;
            tile[to * STRIDE + column] = row < count && column < D ? from[row * stride + column] : narrow<W>(0.0f);
        }
    }
}
// This thread's copies but for the last LEFT groups have arrived and may be read by products once all threads are here.
template <int LEFT> __device__ __forceinline__ void arrived() {
    wait_copies<LEFT>();
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    if constexpr (GROUPED) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
    __syncthreads();
}

template <u32 N> __device__ __forceinline__ void hold(float (&sums)[N][4]) {
#pragma unroll
    for (u32 j = 0; j < N; j++)
#pragma unroll
        for (u32 k = 0; k < 4; k++) asm volatile("" : "+f"(sums[j][k])::"memory");
}
// Between these two nothing may touch the sums of the products.
template <typename... Sums> __device__ __forceinline__ void start_products(Sums&... sums) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    if constexpr (GROUPED) {
        (hold(sums), ...);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    }
#endif
}
template <typename... Sums> __device__ __forceinline__ void finish_products(Sums&... sums) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    if constexpr (GROUPED) {
        asm volatile("wgmma.commit_group.sync.aligned;\n\twgmma.wait_group.sync.aligned 0;" ::: "memory");
        (hold(sums), ...);
    }
#endif
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// Rows of 128 bytes, eight rows an atom, swapped.
__device__ __forceinline__ u64 described(u32 address) {
    return (u64)(address >> 4 & 0x3fff) | (u64)1 << 16 | (u64)(ATOM >> 4) << 32 | (u64)1 << 62;
}
#define SUMS_OF(d)                                                                                                                  \
    "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]),         \
        "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]),     \
        "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),     \
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
#define REGISTERS                                                                                                                   \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}"
// d[64][64] += a[64][16] b[64][16]^T, both in shared memory.
#define GROUP_SCORES(TYPE, NAME)                                                                                                    \
    template <> __device__ __forceinline__ void group_scores<TYPE>(float (&d)[8][4], u64 a, u64 b) {                                \
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, 1, 0;\n\twgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " "  \
                     REGISTERS ", %32, %33, p, 1, 1, 0, 0;\n\t}"                                                                    \
                     : SUMS_OF(d)                                                                                                   \
                     : "l"(a), "l"(b));                                                                                             \
    }
// d[64][64] += a[64][16] b[16][64], the left one in registers.
#define GROUP_MIXED(TYPE, NAME)                                                                                                     \
    template <> __device__ __forceinline__ void group_mixed<TYPE>(float (&d)[8][4], const u32 (&a)[4], u64 b) {                     \
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, 1, 0;\n\twgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " "  \
                     REGISTERS ", {%32,%33,%34,%35}, %36, p, 1, 1, 1;\n\t}"                                                         \
                     : SUMS_OF(d)                                                                                                   \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                         \
    }
template <typename T> __device__ __forceinline__ void group_scores(float (&d)[8][4], u64 a, u64 b);
template <typename T> __device__ __forceinline__ void group_mixed(float (&d)[8][4], const u32 (&a)[4], u64 b);
GROUP_SCORES(bf16, "bf16")
GROUP_SCORES(f16, "f16")
GROUP_MIXED(bf16, "bf16")
GROUP_MIXED(f16, "f16")
#endif

// sums[64][64] += left right^T over the D columns of two tiles, a warp's 16 rows in each warp. Between `start_products` and `finish_products`.
template <typename T> __device__ __forceinline__ void add_tile_scores(float (&sums)[SIDE / 8][4], const T* left, const T* right) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    if constexpr (GROUPED) {
        u32 a = shared_address(left), b = shared_address(right);
#pragma unroll
        for (u32 k = 0; k < D; k += 16) {
            u32 at = k / 64 * (SIDE * 128) + k % 64 * 2;
            group_scores<T>(sums, described(a + at), described(b + at));
        }
        return;
    }
#endif
    add_scores<STRIDE, DP>(sums, left, warp() * 16, right);
}
// The left operand of `add_tile_mixed`: weights in registers.
template <typename T> struct Weights {
    Left<T> x[SIDE / 16];
    __device__ __forceinline__ explicit Weights(const float (&from)[SIDE / 8][4]) {
#pragma unroll
        for (u32 j = 0; j < SIDE / 16; j++) x[j] = as_left<T>(from[2 * j], from[2 * j + 1]);
    }
};
// sums[64][D] += weights[64][64] right[64][D], as above.
template <typename T>
__device__ __forceinline__ void add_tile_mixed(float (&sums)[DP / 8][4], const Weights<T>& weights, const T* right) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    if constexpr (GROUPED) {
        u32 b = shared_address(right);
#pragma unroll
        for (u32 c = 0; c < D / 64; c++)
#pragma unroll
            for (u32 j = 0; j < SIDE / 16; j++)
                group_mixed<T>(*(float(*)[8][4])&sums[8 * c], weights.x[j].x, described(b + c * (SIDE * 128) + j * (16 * 128)));
        return;
    }
#endif
    add_mixed<STRIDE, DP>(sums, weights.x, right);
}
