// Sums over rows and over everything, in an order that only the shape decides.

struct ColumnSums {
    const W* x;        // [rows][columns]
    float* partials;   // [parts][columns]: part i sums SUM_ROWS rows
    u32 rows, columns;
};

template <int N> __device__ __forceinline__ void sum_columns(const ColumnSums& p) {
    __shared__ float sums[SUM_THREADS / 32][32 * N];
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 column = blockIdx.x * 32 * N + lane * N;
    float sum[N];
#pragma unroll
    for (int i = 0; i < N; i++) sum[i] = 0.0f;
    u32 end = min((blockIdx.y + 1) * SUM_ROWS, p.rows);
    if (column < p.columns) {
#pragma unroll 8
        for (u32 row = blockIdx.y * SUM_ROWS + warp; row < end; row += SUM_THREADS / 32) {
            float x[N];
            load(x, p.x + (u64)row * p.columns + column);
#pragma unroll
            for (int i = 0; i < N; i++) sum[i] += x[i];
        }
    }
#pragma unroll
    for (int i = 0; i < N; i++) sums[warp][lane * N + i] = sum[i];
    __syncthreads();
    for (u32 i = threadIdx.x; i < 32 * N; i += SUM_THREADS) {
        u32 at = blockIdx.x * 32 * N + i;
        if (at >= p.columns) continue;
        float total = 0.0f;
#pragma unroll
        for (u32 w = 0; w < SUM_THREADS / 32; w++) total += sums[w][i];
        p.partials[(u64)blockIdx.y * p.columns + at] = total;
    }
}
// Eight columns at once need rows that start at multiples of 16 bytes.
extern "C" __global__ void __launch_bounds__(SUM_THREADS) column_sums_8(ColumnSums p) { sum_columns<8>(p); }
extern "C" __global__ void __launch_bounds__(SUM_THREADS) column_sums_1(ColumnSums p) { sum_columns<1>(p); }

struct AddPartials {
    const float* partials;   // [parts][stride]
    float* to;               // [columns], added to
    u32 parts, stride, columns;
};
// 32 columns of a block, and 32 warps that share the parts: few columns are summed, so one thread must not wait for many loads in turn.
extern "C" __global__ void __launch_bounds__(ADD_THREADS) add_partials(AddPartials p) {
    __shared__ float sums[32][33];
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (column < p.columns) {
#pragma unroll 8
        for (u32 part = warp; part < p.parts; part += 32) sum += p.partials[(u64)part * p.stride + column];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    float total = warp_sum(sums[lane][warp]);
    u32 own = blockIdx.x * 32 + warp;
    if (lane == 0 && own < p.columns) p.to[own] += total;
}

struct Squares {
    const float* x;
    double* partials;       // [SQUARE_BLOCKS]
    double* total;          // [1]
    const u64* stretches;   // [count][2]: begin, a multiple of 4, and end, at most STRETCH later
    u64 count;
};
__device__ __forceinline__ double block_total(double x) {
    __shared__ double sums[SUM_THREADS];
    sums[threadIdx.x] = x;
    __syncthreads();
    for (u32 i = SUM_THREADS / 2; i > 0; i /= 2) {
        if (threadIdx.x < i) sums[threadIdx.x] += sums[threadIdx.x + i];
        __syncthreads();
    }
    return sums[0];
}
// A thread's share of a stretch, asked for at once: one load after the other would wait for memory each time.
constexpr u32 LOADS = STRETCH / (4 * SUM_THREADS);
static_assert(LOADS * 4 * SUM_THREADS == STRETCH, "threads share a stretch evenly");
extern "C" __global__ void __launch_bounds__(SUM_THREADS) squares(Squares p) {
    double sum[4] = {0.0, 0.0, 0.0, 0.0};
    u64 at = blockIdx.x;
    ulonglong2 next = at < p.count ? ((const ulonglong2*)p.stretches)[at] : make_ulonglong2(0, 0);
    while (at < p.count) {
        u64 first = next.x + threadIdx.x * 4, end = next.y;
        at += SQUARE_BLOCKS;
        if (at < p.count) next = ((const ulonglong2*)p.stretches)[at];
        float x[LOADS][4];
#pragma unroll
        for (u32 i = 0; i < LOADS; i++) {
            u64 own = first + i * 4 * SUM_THREADS;
            if (own + 4 <= end) load(x[i], p.x + own);
            else
#pragma unroll
                for (u32 k = 0; k < 4; k++) x[i][k] = own + k < end ? p.x[own + k] : 0.0f;
        }
#pragma unroll
        for (u32 i = 0; i < LOADS; i++) {
#pragma unroll
            for (u32 k = 0; k < 4; k++) sum[k] += (double)x[i][k] * (double)x[i][k];
        }
    }
    double all = block_total((sum[0] + sum[1]) + (sum[2] + sum[3]));
    if (threadIdx.x == 0) p.partials[blockIdx.x] = all;
}
extern "C" __global__ void __launch_bounds__(SUM_THREADS) squares_total(Squares p) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < SQUARE_BLOCKS; i += SUM_THREADS) sum += p.partials[i];
    sum = block_total(sum);
    if (threadIdx.x == 0) *p.total = sum;
}

struct NotFinite {
    const float* x;   // [count][apart], of which the first numbers are looked at
    double* found;    // [1]: becomes 1 if one is not finite
    u32 count, apart;
};
extern "C" __global__ void __launch_bounds__(SUM_THREADS) not_finite(NotFinite p) {
    u32 at = blockIdx.x * SUM_THREADS + threadIdx.x;
    // Whoever finds one writes the same.
    if (at < p.count && !isfinite(p.x[(u64)at * p.apart])) *p.found = 1.0;
}
