// Tiles of scores of queries and keys, as `mass.cu` and `neighbours.cu` go over them: how tiles are filled, what rows of scores
// add up to, and columns.

constexpr u32 KEY_STRIDE = padded<C>(DP), TWOS = DP / 2;
static_assert(D % 2 == 0, "numbers of a head come in pairs");

// Rows of scores are exponents: of 2 where the products are 16 bits, of e where every digit counts.
constexpr float UNIT = sizeof(C) == 4 ? 1.0f : LOG2_E;
__device__ __forceinline__ float power(float x) {
    if constexpr (sizeof(C) == 4) return expf(x);
    else return two_to(x);
}
__device__ __forceinline__ float base_of(float largest) { return largest == -infinity() ? 0.0f : largest; }

// Two neighbours in the format that they are stored in.
template <typename T> __device__ __forceinline__ float2 two_of(const T* from) {
    if constexpr (sizeof(T) == 2) return widen2<typename HalfOr<T>::type>(*(const u32*)from);
    else return *(const float2*)from;
}
__device__ __forceinline__ float2 two_of_key(Page page, u32 head, u32 slot, u32 column) {
    if constexpr (CODED) return make_float2(page.key(head, slot, column), page.key(head, slot, column + 1));
    else return two_of(page.keys(head) + slot * D + column);
}
// Fills a tile of SIDE rows with what `two(row, column)` gives; columns behind the head's last are zeros.
template <typename Two> __device__ __forceinline__ void load_tile(C* to, Two two) {
    for (u32 i = threadIdx.x; i < SIDE * TWOS; i += THREADS) {
        const u32 row = i / TWOS, column = i % TWOS * 2;
        const float2 x = column < D ? two(row, column) : make_float2(0.0f, 0.0f);
        put_pair(to + row * KEY_STRIDE + column, x.x, x.y);
    }
}

// Of this thread's two rows the largest score, and what the exponentials below it add up to.
struct RowSums {
    float largest[2] = {-infinity(), -infinity()}, sum[2] = {0.0f, 0.0f};

    __device__ __forceinline__ void add(const float (&scores)[SIDE / 8][4]) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float top = largest[half];
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++) top = fmaxf(top, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
            const float base = base_of(top);
            float total = sum[half] * power(largest[half] - base);
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++) total += power(scores[j][2 * half] - base) + power(scores[j][2 * half + 1] - base);
            largest[half] = top;
            sum[half] = total;
        }
    }
    // Four threads hold a row.
    __device__ __forceinline__ void join() {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            for (u32 other = 1; other < 4; other *= 2) {
                const float top = __shfl_xor_sync(ALL, largest[half], other), more = __shfl_xor_sync(ALL, sum[half], other);
                const float both = fmaxf(top, largest[half]), base = base_of(both);
                sum[half] = sum[half] * power(largest[half] - base) + more * power(top - base);
                largest[half] = both;
            }
        }
    }
};

// What this thread's columns of its warp's rows add up to.
struct ColumnSums {
    float sums[SIDE / 8][2];

    __device__ __forceinline__ ColumnSums() {
#pragma unroll
        for (u32 j = 0; j < SIDE / 8; j++) sums[j][0] = sums[j][1] = 0.0f;
    }
    // Of all rows, added to `sum`: column `threadIdx.x`, in the first SIDE threads. Every thread must come.
    __device__ __forceinline__ float total(float sum, float (&columns)[WARPS][SIDE]) const {
#pragma unroll
        for (u32 j = 0; j < SIDE / 8; j++) {
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                // Eight threads hold a column of their warp's rows.
                float own = sums[j][c];
                for (u32 other = 4; other < 32; other *= 2) own += __shfl_xor_sync(ALL, own, other);
                if (lane() < 4) columns[warp()][own_column(j, c)] = own;
            }
        }
        __syncthreads();
        if (threadIdx.x < SIDE) {
#pragma unroll
            for (u32 w = 0; w < WARPS; w++) sum += columns[w][threadIdx.x];
        }
        return sum;
    }
};
