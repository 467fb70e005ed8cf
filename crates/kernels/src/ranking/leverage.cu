// Leverage: how alone a key stands among the others of its head, in a random sketch of them.

// Rows of a tile of keys that are sketched.
constexpr u32 TILE = 16;
// Added to the diagonal.
constexpr double JITTER = 1e-2;

// x: KV heads, y: PARTS. Sums of keys, and the sketch: normal numbers (Box and Muller) with the variance 1 / columns.
extern "C" __global__ void __launch_bounds__(THREADS) compactor_sums(const __grid_constant__ CompactorArgs a) {
    wait_for_previous();
    const u32 head = blockIdx.x;
    const Judged part = part_of(a, head);
    for (u32 column = threadIdx.x; column < D; column += THREADS) {
        double sum = 0.0;
        for (u32 rank = part.begin; rank < part.end; rank++) sum += (double)raw_of(a, head, place_of(a, head, rank), column);
        a.sums[((u64)blockIdx.y * KV_HEADS + head) * D + column] = sum;
    }
    const u64 radii = noise_of(a.seed, a.layer, head), angles = noise_of(~a.seed, a.layer, head);
    const float spread = 1.0f / sqrtf((float)a.columns);
    for (u32 i = blockIdx.y * THREADS + threadIdx.x; i < D * a.columns; i += PARTS * THREADS) {
        const double angle = 6.283185307179586 * uniform(noise_at(angles, 0, i));
        const float number = (float)(sqrt(-2.0 * log(uniform(noise_at(radii, 0, i)))) * cos(angle));
        a.sketch[((u64)head * a.columns + i % a.columns) * D + i / a.columns] = spread * number;
    }
}

// Rows of keys less their mean, sketched; of fewer than TILE ranks the others are zeros. Every thread must come.
struct Sketched {
    double means[D];
    float centred[TILE][D];
    float rows[TILE][MOST_COLUMNS];
};
__device__ __forceinline__ void load_means(const CompactorArgs& a, u32 head, Sketched& tile) {
    const double count = (double)max(judged_of(a, head).count(), 1u);
    for (u32 column = threadIdx.x; column < D; column += THREADS) {
        double sum = 0.0;
        for (u32 part = 0; part < PARTS; part++) sum += a.sums[((u64)part * KV_HEADS + head) * D + column];
        tile.means[column] = sum / count;
    }
    __syncthreads();
}
__device__ __forceinline__ void sketch_rows(const CompactorArgs& a, u32 head, u32 first, u32 end, Sketched& tile) {
    __syncthreads();
    for (u32 i = threadIdx.x; i < TILE * D; i += THREADS) {
        const u32 rank = first + i / D, column = i % D;
        float x = 0.0f;
        if (rank < end) x = (float)((double)raw_of(a, head, place_of(a, head, rank), column) - tile.means[column]);
        tile.centred[i / D][column] = x;
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < TILE * a.columns; i += THREADS) {
        const float *row = tile.centred[i / a.columns], *column = a.sketch + ((u64)head * a.columns + i % a.columns) * D;
        float sum = 0.0f;
        for (u32 j = 0; j < D; j++) sum = fmaf(row[j], column[j], sum);
        tile.rows[i / a.columns][i % a.columns] = sum;
    }
    __syncthreads();
}

// x: KV heads, y: PARTS. The products of all pairs of sketched columns.
extern "C" __global__ void __launch_bounds__(THREADS) compactor_grams(const __grid_constant__ CompactorArgs a) {
    __shared__ Sketched tile;
    wait_for_previous();
    const u32 head = blockIdx.x, squares = a.columns * a.columns;
    const Judged part = part_of(a, head);
    double* gram = a.grams + ((u64)blockIdx.y * KV_HEADS + head) * squares;
    load_means(a, head, tile);
    // Each thread adds to its own products.
    for (u32 i = threadIdx.x; i < squares; i += THREADS) gram[i] = 0.0;
    for (u32 first = part.begin; first < part.end; first += TILE) {
        sketch_rows(a, head, first, part.end, tile);
        for (u32 i = threadIdx.x; i < squares; i += THREADS) {
            const u32 row = i / a.columns, column = i % a.columns;
            if (column > row) continue;
            double sum = 0.0;
#pragma unroll
            for (u32 j = 0; j < TILE; j++) sum += (double)tile.rows[j][row] * (double)tile.rows[j][column];
            gram[i] += sum;
        }
    }
}

// x: KV heads. The Cholesky factor of the Gram matrix, and its inverse.
extern "C" __global__ void __launch_bounds__(THREADS) compactor_factors(const __grid_constant__ CompactorArgs a) {
    wait_for_previous();
    const u32 head = blockIdx.x, k = a.columns;
    double* factor = a.factors + (u64)head * k * k;
    for (u32 i = threadIdx.x; i < k * k; i += THREADS) {
        double sum = i / k == i % k ? JITTER : 0.0;
        for (u32 part = 0; part < PARTS; part++) sum += a.grams[((u64)part * KV_HEADS + head) * k * k + i];
        factor[i] = sum;
    }
    __syncthreads();
    for (u32 j = 0; j < k; j++) {
        if (threadIdx.x == 0) {
            double rest = factor[j * k + j];
            for (u32 m = 0; m < j; m++) rest -= factor[j * k + m] * factor[j * k + m];
            factor[j * k + j] = sqrt(rest);
        }
        __syncthreads();
        for (u32 i = j + 1 + threadIdx.x; i < k; i += THREADS) {
            double rest = factor[i * k + j];
            for (u32 m = 0; m < j; m++) rest -= factor[i * k + m] * factor[j * k + m];
            factor[i * k + j] = rest / factor[j * k + j];
        }
        __syncthreads();
    }
    // Column j of the inverse is row j above the diagonal; on it stands the factor still.
    for (u32 j = threadIdx.x; j < k; j += THREADS) {
        double* column = factor + j * k;
        for (u32 i = j + 1; i < k; i++) {
            double sum = factor[i * k + j] / factor[j * k + j];
            for (u32 m = j + 1; m < i; m++) sum += factor[i * k + m] * column[m];
            column[i] = -sum / factor[i * k + i];
        }
    }
}

// x: tiles of TILE ranks, y: KV heads. x^T (L L^T)^-1 x is the square of the length of L^-1 x; a warp has a row at a time.
extern "C" __global__ void __launch_bounds__(THREADS) compactor_leverages(const __grid_constant__ CompactorArgs a) {
    __shared__ Sketched tile;
    wait_for_previous();
    const u32 head = blockIdx.y, k = a.columns;
    const Judged judged = judged_of(a, head);
    const u32 first = judged.begin + blockIdx.x * TILE;
    if (first >= judged.end) return;
    load_means(a, head, tile);
    sketch_rows(a, head, first, judged.end, tile);
    const double* factor = a.factors + (u64)head * k * k;
    for (u32 row = warp(); row < TILE && first + row < judged.end; row += WARPS) {
        double squares = 0.0;
        for (u32 i = lane(); i < k; i += 32) {
            double sum = (double)tile.rows[row][i] / factor[i * k + i];
            for (u32 j = 0; j < i; j++) sum += factor[j * k + i] * (double)tile.rows[row][j];
            squares += sum * sum;
        }
#pragma unroll
        for (u32 i = 16; i > 0; i /= 2) squares += __shfl_xor_sync(ALL, squares, i);
        if (lane() == 0) a.leverages[(u64)head * a.stride + first + row] = (float)squares;
    }
}
