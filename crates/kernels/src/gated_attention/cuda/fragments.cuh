// Tiles of 64 rows in shared memory, and products of them in pieces of 16 x 16 x 8 that a warp holds in registers.
//
// In 16 bits a piece is what mma.sync takes. In f32 lane and register hold the same elements, and the product is made of
// shuffles and multiply-adds: slow, but the same code around it, and every bit of f32.

constexpr u32 WARPS = THREADS / 32;
constexpr u32 D = HEAD_DIM, DP = (D + 15) / 16 * 16, RATIO = QUERY_HEADS / KV_HEADS;
constexpr u32 FUSED = (QUERY_HEADS + 2 * KV_HEADS) * D, MIXED = QUERY_HEADS * D;
constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

// One chunk of 16 bytes more, so that the rows of a piece begin in different banks.
template <typename T> __device__ constexpr u32 padded(u32 columns) { return columns + 16 / sizeof(T); }
constexpr u32 STRIDE = padded<W>(DP);

// What queries see of keys, as a logarithm in powers of two. In 16 bits f16: it is precise where a weight is not all but 0.
template <u32 BYTES> struct LogOf { typedef f16 type; };
template <> struct LogOf<4> { typedef float type; };
typedef LogOf<sizeof(W)>::type Log;

// Known when a routine is compiled.
struct Yes { __device__ constexpr operator bool() const { return true; } };
struct No { __device__ constexpr operator bool() const { return false; } };

template <typename T> struct Left { u32 x[4]; };   // 16 rows, 16 deep
template <> struct Left<float> { float x[8]; };
template <typename T> struct Right { u32 x[2]; };  // 16 deep, 8 columns
template <> struct Right<float> { float x[4]; };

__device__ __forceinline__ u32 lane() { return threadIdx.x % 32; }
__device__ __forceinline__ u32 warp() { return threadIdx.x / 32; }

// Not inlined: a kernel has hundreds of these, and their code would be most of it.
__device__ __noinline__ float4 multiply_f32(float4 sum, float4 left0, float4 left1, float4 right) {
    u32 row = lane() & ~3u, column = lane() % 4 * 8;
    float left[8] = {left0.x, left0.y, left0.z, left0.w, left1.x, left1.y, left1.z, left1.w};
    float columns[4] = {right.x, right.y, right.z, right.w};
#pragma unroll
    for (u32 k = 0; k < 16; k++) {
        u32 half = k / 8, owner = k % 8 / 2, odd = k % 2;
        float low = __shfl_sync(ALL, left[half * 4 + odd], row + owner);
        float high = __shfl_sync(ALL, left[half * 4 + 2 + odd], row + owner);
        float even_column = __shfl_sync(ALL, columns[half * 2 + odd], column + owner);
        float odd_column = __shfl_sync(ALL, columns[half * 2 + odd], column + 4 + owner);
        sum.x = fmaf(low, even_column, sum.x), sum.y = fmaf(low, odd_column, sum.y);
        sum.z = fmaf(high, even_column, sum.z), sum.w = fmaf(high, odd_column, sum.w);
    }
    return sum;
}
// sum += left right. A lane has rows lane / 4 and that + 8, columns 2 (lane % 4) and the next of the sum.
template <typename T> __device__ __forceinline__ void multiply(float (&sum)[4], const Left<T>& left, const Right<T>& right) {
    if constexpr (sizeof(T) == 2) {
        mma<T>(sum, left.x, right.x[0], right.x[1]);
    } else {
        float4 result = multiply_f32(make_float4(sum[0], sum[1], sum[2], sum[3]), make_float4(left.x[0], left.x[1], left.x[2], left.x[3]),
                                     make_float4(left.x[4], left.x[5], left.x[6], left.x[7]),
                                     make_float4(right.x[0], right.x[1], right.x[2], right.x[3]));
        sum[0] = result.x, sum[1] = result.y, sum[2] = result.z, sum[3] = result.w;
    }
}

// left[i][k] = tile[row + i][column + k]
template <u32 S, typename T> __device__ __forceinline__ void load_left(Left<T>& left, const T* tile, u32 row, u32 column) {
    if constexpr (sizeof(T) == 2) {
        load_matrices(left.x, shared_address(tile + (row + lane() % 16) * S + column + lane() / 16 * 8));
    } else {
#pragma unroll
        for (u32 i = 0; i < 8; i++)
            left.x[i] = tile[(row + lane() / 4 + i / 2 % 2 * 8) * S + column + lane() % 4 * 2 + i % 2 + i / 4 * 8];
    }
}
// left[i][k] = tile[row + k][column + i]
template <u32 S, typename T> __device__ __forceinline__ void load_left_turned(Left<T>& left, const T* tile, u32 row, u32 column) {
    if constexpr (sizeof(T) == 2) {
        u32 matrix = lane() / 8;
        load_matrices_transposed(left.x, shared_address(tile + (row + matrix / 2 * 8 + lane() % 8) * S + column + matrix % 2 * 8));
    } else {
#pragma unroll
        for (u32 i = 0; i < 8; i++)
            left.x[i] = tile[(row + lane() % 4 * 2 + i % 2 + i / 4 * 8) * S + column + lane() / 4 + i / 2 % 2 * 8];
    }
}
// Two pieces side by side: right[p][k][n] = tile[row + 8 p + n][column + k]
template <u32 S, typename T> __device__ __forceinline__ void load_right_turned(Right<T> (&right)[2], const T* tile, u32 row, u32 column) {
    if constexpr (sizeof(T) == 2) {
        u32 matrix = lane() / 8, x[4];
        load_matrices(x, shared_address(tile + (row + matrix / 2 * 8 + lane() % 8) * S + column + matrix % 2 * 8));
        right[0].x[0] = x[0], right[0].x[1] = x[1], right[1].x[0] = x[2], right[1].x[1] = x[3];
    } else {
#pragma unroll
        for (u32 p = 0; p < 2; p++)
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                right[p].x[i] = tile[(row + 8 * p + lane() / 4) * S + column + lane() % 4 * 2 + i % 2 + i / 2 * 8];
    }
}
// right[p][k][n] = tile[row + k][column + 8 p + n]
template <u32 S, typename T> __device__ __forceinline__ void load_right(Right<T> (&right)[2], const T* tile, u32 row, u32 column) {
    if constexpr (sizeof(T) == 2) {
        u32 matrix = lane() / 8, x[4];
        load_matrices_transposed(x, shared_address(tile + (row + matrix % 2 * 8 + lane() % 8) * S + column + matrix / 2 * 8));
        right[0].x[0] = x[0], right[0].x[1] = x[1], right[1].x[0] = x[2], right[1].x[1] = x[3];
    } else {
#pragma unroll
        for (u32 p = 0; p < 2; p++)
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                right[p].x[i] = tile[(row + lane() % 4 * 2 + i % 2 + i / 2 * 8) * S + column + 8 * p + lane() / 4];
    }
}
// Sums over 16 columns become the left operand of the next product.
template <typename T> __device__ __forceinline__ Left<T> as_left(const float (&first)[4], const float (&second)[4]) {
    Left<T> left;
    if constexpr (sizeof(T) == 2) {
        left.x[0] = narrow2<T>(first[0], first[1]), left.x[1] = narrow2<T>(first[2], first[3]);
        left.x[2] = narrow2<T>(second[0], second[1]), left.x[3] = narrow2<T>(second[2], second[3]);
    } else {
#pragma unroll
        for (u32 i = 0; i < 4; i++) left.x[i] = first[i], left.x[4 + i] = second[i];
    }
    return left;
}

template <u32 N> __device__ __forceinline__ void clear(float (&sums)[N][4]) {
#pragma unroll
    for (u32 j = 0; j < N; j++)
#pragma unroll
        for (u32 k = 0; k < 4; k++) sums[j][k] = 0.0f;
}

// sums[16 rows][64 columns] += left[row ..][depth] right[..][depth]^T, both tiles in shared memory.
template <u32 S, u32 DEPTH, typename T>
__device__ __forceinline__ void add_scores(float (&sums)[SIDE / 8][4], const T* left, u32 row, const T* right) {
    // In f32 a piece is a call: unrolled, wide heads would take a minute to compile.
    constexpr u32 UNROLLED = sizeof(T) == 2 ? DEPTH / 16 : 1;
#pragma unroll UNROLLED
    for (u32 k = 0; k < DEPTH; k += 16) {
        Left<T> a;
        load_left<S>(a, left, row, k);
#pragma unroll
        for (u32 j = 0; j < SIDE / 16; j++) {
            Right<T> b[2];
            load_right_turned<S>(b, right, 16 * j, k);
            multiply(sums[2 * j], a, b[0]);
            multiply(sums[2 * j + 1], a, b[1]);
        }
    }
}
// sums[16 rows][columns] += weights[16 rows][64] right[64][columns].
template <u32 S, u32 COLUMNS, typename T>
__device__ __forceinline__ void add_mixed(float (&sums)[COLUMNS / 8][4], const Left<T> (&weights)[SIDE / 16], const T* right) {
#pragma unroll
    for (u32 j = 0; j < SIDE / 16; j++) {
        const Left<T>& a = weights[j];
#pragma unroll
        for (u32 c = 0; c < COLUMNS / 16; c++) {
            Right<T> b[2];
            load_right<S>(b, right, 16 * j, 16 * c);
            multiply(sums[2 * c], a, b[0]);
            multiply(sums[2 * c + 1], a, b[1]);
        }
    }
}

__device__ __forceinline__ float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// The query of row `half` (0, 1) of this lane in a tile of queries, and the key of column `c` (0, 1) of piece j.
__device__ __forceinline__ u32 own_row(u32 half) { return warp() * 16 + half * 8 + lane() / 4; }
__device__ __forceinline__ u32 own_column(u32 j, u32 c) { return j * 8 + lane() % 4 * 2 + c; }
// Two neighbours, at an even place.
template <typename T> __device__ __forceinline__ void put_pair(T* to, float low, float high) {
    if constexpr (sizeof(T) == 2) *(u32*)to = narrow2<T>(low, high);
    else to[0] = narrow<T>(low), to[1] = narrow<T>(high);
}
// What is left of two numbers in a format; in pairs, which the chip converts at full rate.
template <typename T> __device__ __forceinline__ float2 rounded(float low, float high) {
    if constexpr (sizeof(T) == 2) return widen2<T>(narrow2<T>(low, high));
    else return make_float2(low, high);
}
