// Products of whole tiles: by a warp group from shared memory where the chip and the format have that (sm_90a, 16 bits, heads of
// whole 64s), else piece by piece.

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool GROUPED = sizeof(W) == 2 && D % 64 == 0;
#else
constexpr bool GROUPED = false;
#endif
constexpr u32 TILE_BYTES = SIDE * (GROUPED ? D : STRIDE) * sizeof(W);
// From a row to the next.
constexpr u32 ROW_BYTES = GROUPED ? 128 : STRIDE * sizeof(W);

// Bytes from a tile's start to a chunk of 16 bytes.
__device__ __forceinline__ u32 chunk_at(u32 row, u32 chunk) {
    if constexpr (GROUPED) return swapped<SIDE>(row, chunk);
    else return row * ROW_BYTES + chunk * 16;
}
// The row of a tile of queries that is column n of a product whose rows are keys: each lane of four then holds 16 neighbouring
// queries of a key, in order, and sums along them need no exchange but between four lanes.
__device__ __forceinline__ u32 turned(u32 n) { return n % 8 / 2 * 16 + n / 8 * 2 + n % 2; }

// 64 rows of D numbers into a tile, as they come or `turned`; rows from `count` on, and columns behind D, are 0. Asynchronous
// where rows are whole chunks of 16 bytes: `commit_copies` and `arrived` follow.
template <bool TURNED = false> __device__ __forceinline__ void fetch(W* tile, const W* from, u64 stride, u32 count) {
    if constexpr (D * sizeof(W) % 16 == 0) {
        constexpr u32 CHUNKS = DP * sizeof(W) / 16, EACH = 16 / sizeof(W), ROWS = THREADS / CHUNKS;
        if constexpr (THREADS % CHUNKS == 0 && ROWS % 8 == 0) {
            // A thread's copies are constants apart.
            u32 to = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS, row = TURNED ? turned(to) : to;
            u32 shared = shared_address(tile) + chunk_at(to, chunk), left = chunk * EACH < D && row < count ? count - row : 0;
            const W* source = from + row * stride + chunk * EACH;
#pragma unroll
            for (u32 i = 0; i < SIDE / ROWS; i++) {
                u32 further = i * (TURNED ? ROWS / 8 * 2 : ROWS);
                copy16(shared + i * ROWS * ROW_BYTES, source + further * stride, further < left ? 16 : 0);
            }
        } else {
            for (u32 i = threadIdx.x; i < SIDE * CHUNKS; i += THREADS) {
                u32 to = i / CHUNKS, chunk = i % CHUNKS, row = TURNED ? turned(to) : to;
                bool there = row < count && chunk * EACH < D;
                copy16(shared_address(tile) + chunk_at(to, chunk), there ? from + row * stride + chunk * EACH : from, there ? 16 : 0);
            }
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
    if constexpr (GROUPED) show_products();
#endif
    __syncthreads();
}

// Between these two nothing may touch the sums of the products.
template <typename... Sums> __device__ __forceinline__ void start_products(Sums&... sums) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    if constexpr (GROUPED) {
        (hold(sums), ...);
        products_begin();
    }
#endif
}
template <typename... Sums> __device__ __forceinline__ void finish_products(Sums&... sums) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    if constexpr (GROUPED) {
        products_end();
        products_left<0>();
        (hold(sums), ...);
    }
#endif
}

// sums[64][64] += left right^T over the D columns of two tiles, a warp's 16 rows in each warp. Between `start_products` and `finish_products`.
template <typename T> __device__ __forceinline__ void add_tile_scores(float (&sums)[SIDE / 8][4], const T* left, const T* right) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    if constexpr (GROUPED) {
        u32 a = shared_address(left), b = shared_address(right);
#pragma unroll
        for (u32 k = 0; k < D; k += 16) {
            u32 at = k / 64 * (SIDE * 128) + k % 64 * 2;
            group_scores<T>(sums, described(a, at), described(b, at), true);
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
                group_product<T, 1>(*(float(*)[8][4])&sums[8 * c], weights.x[j].x, described(b, c * (SIDE * 128) + j * (16 * 128)), true);
        return;
    }
#endif
    add_mixed<STRIDE, DP>(sums, weights.x, right);
}
