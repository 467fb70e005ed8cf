// What keys are worth that stand alone, and those that their neighbours look at: of every KV head the leverage of its keys before
// their rotation, from a random sketch of them, and the attention that entries get within chunks of the text whose tokens all see
// each other; both in units of their spread over all heads. `scorers/compactor.rs` and `scorers/leverage.rs` are the twins.

struct CompactorArgs {
    Lanes lanes;
    const W* qkv;          // [rows][(h + 2 g) d], queries turned
    const float2* angles;  // [positions][pairs]: cos and sin, or none
    u32* order;            // [KV_HEADS][stride]: numbers of entries in the order of their positions
    u32* counts;           // [KV_HEADS]
    float* sketch;         // [KV_HEADS][columns][D]
    double* sums;          // [PARTS][KV_HEADS][D]: of keys
    double* grams;         // [PARTS][KV_HEADS][columns][columns], its lower triangle
    double* factors;       // [KV_HEADS][columns][columns]: L, and above its diagonal L^-1 on its side
    float2* rows;          // [QUERY_HEADS][stride]: of a query its largest score, and one by the sum of the exponentials below it
    float* leverages;      // [KV_HEADS][stride]
    float* masses;         // [QUERY_HEADS][stride]
    float* attended;       // [KV_HEADS][stride]
    double* moments;       // [2][2]: mean and deviation of leverages, then of what is attended
    u32 slot, layer;
    u32 first_row, queries, first_position;  // what is in this step; of earlier tokens there is no query
    u32 next;              // the first query that is still to come
    u32 pairs, stride, columns;
    u32 first, last;       // entries that are not judged
    u32 chunk;             // tokens that see each other
    float unscale;         // by what a key is multiplied to undo the factor of its rotation
    float blending;        // what leverage weighs
    u64 seed;
};

// Rows of a tile of keys that are sketched.
constexpr u32 TILE = 16;
// Added to the diagonal.
constexpr double JITTER = 1e-2;
constexpr u32 KEY_STRIDE = padded<C>(DP), TWOS = DP / 2;
constexpr float UNIT = sizeof(C) == 4 ? 1.0f : LOG2_E;
static_assert(D % 2 == 0, "numbers of a head come in pairs");

__device__ __forceinline__ Lane lane_of(const CompactorArgs& a, u32 head) {
    const u32 number = a.lanes.lane(a.slot, a.layer, head / LANE_HEADS);
    return Lane{a.lanes, number, a.lanes.lengths[number], a.next};
}
// The ranks that are judged.
struct Judged {
    u32 begin, end;
    __device__ __forceinline__ u32 count() const { return end - begin; }
};
__device__ __forceinline__ Judged judged_of(const CompactorArgs& a, u32 head) {
    const u32 count = a.counts[head], begin = min(a.first, count);
    return Judged{begin, max(count - min(a.last, count), begin)};
}
struct Place {
    Page page;
    u32 slot;
};
__device__ __forceinline__ Place place_of(const CompactorArgs& a, u32 head, u32 rank) {
    const u32 number = a.lanes.lane(a.slot, a.layer, head / LANE_HEADS), entry = a.order[(u64)head * a.stride + rank];
    return Place{a.lanes.page(number, entry / PAGE_ENTRIES), entry % PAGE_ENTRIES};
}
// A number of a key before its rotation.
__device__ __forceinline__ float raw_of(const CompactorArgs& a, u32 head, Place at, u32 column) {
    const C* row = at.page.keys(head % LANE_HEADS) + at.slot * D;
    const float own = widen(row[column]);
    if (column >= 2 * a.pairs) return own;
    const bool low = column < a.pairs;
    const u32 pair = low ? column : column - a.pairs;
    const float2 angle = a.angles[(u64)at.page.positions()[at.slot] * a.pairs + pair];
    const float other = widen(row[low ? column + a.pairs : pair]);
    return (low ? own * angle.x + other * angle.y : own * angle.x - other * angle.y) * a.unscale;
}
// The part of the judged ranks that is block y's.
__device__ __forceinline__ Judged part_of(const CompactorArgs& a, u32 head) {
    const Judged all = judged_of(a, head);
    const u32 each = (all.count() + PARTS - 1) / PARTS, begin = min(all.begin + blockIdx.y * each, all.end);
    return Judged{begin, min(begin + each, all.end)};
}

// x: KV heads.
extern "C" __global__ void __launch_bounds__(THREADS) compactor_order(const __grid_constant__ CompactorArgs a) {
    __shared__ u32 parts[WARPS];
    wait_for_previous();
    const Lane lane = lane_of(a, blockIdx.x);
    const u32 count = put_in_order(lane, a.order + (u64)blockIdx.x * a.stride, a.stride, parts);
    if (threadIdx.x == 0) a.counts[blockIdx.x] = count;
}

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

__device__ __forceinline__ float power(float x) {
    if constexpr (sizeof(C) == 4) return expf(x);
    else return two_to(x);
}
template <typename T> __device__ __forceinline__ float2 two_of(const T* from) {
    if constexpr (sizeof(T) == 2) return widen2<typename HalfOr<T>::type>(*(const u32*)from);
    else return *(const float2*)from;
}

// One tile of SIDE ranks of a chunk, block x, and the chunk's bounds.
struct Tile {
    u32 first, begin, end;
};
__device__ __forceinline__ Tile tile_of(const CompactorArgs& a, Judged judged) {
    const u32 tiles = (min(a.chunk, a.stride) + SIDE - 1) / SIDE, number = blockIdx.x / tiles;
    // Chunks are no more than ranks.
    const u64 begin = (u64)judged.begin + (u64)number * a.chunk;
    if (begin >= judged.end) return Tile{judged.end, judged.end, judged.end};
    const u32 end = (u32)min((u64)judged.end, begin + a.chunk);
    return Tile{min((u32)begin + blockIdx.x % tiles * SIDE, end), (u32)begin, end};
}
// Rows of zeros behind the chunk's end, and where a token's query is not in this step: it looks at everything evenly.
__device__ __forceinline__ void load_queries(const CompactorArgs& a, u32 head, u32 first, u32 end, C* to) {
    for (u32 i = threadIdx.x; i < SIDE * TWOS; i += THREADS) {
        const u32 rank = first + i / TWOS, column = i % TWOS * 2;
        float2 x = make_float2(0.0f, 0.0f);
        if (rank < end && column < D) {
            const Place at = place_of(a, head / RATIO, rank);
            const u32 row = at.page.positions()[at.slot] - a.first_position;
            if (row < a.queries) x = two_of(a.qkv + (u64)(a.first_row + row) * FUSED + head * D + column);
        }
        put_pair(to + i / TWOS * KEY_STRIDE + column, x.x, x.y);
    }
}
__device__ __forceinline__ void load_keys(const CompactorArgs& a, u32 kv_head, u32 first, u32 end, C* to) {
    for (u32 i = threadIdx.x; i < SIDE * TWOS; i += THREADS) {
        const u32 rank = first + i / TWOS, column = i % TWOS * 2;
        float2 x = make_float2(0.0f, 0.0f);
        if (rank < end && column < D) {
            const Place at = place_of(a, kv_head, rank);
            x = two_of(at.page.keys(kv_head % LANE_HEADS) + at.slot * D + column);
        }
        put_pair(to + i / TWOS * KEY_STRIDE + column, x.x, x.y);
    }
}

// x: tiles of every chunk, y: query heads. What each query's exponentials add up to. The last chunk is filled up with keys of
// score 0.
extern "C" __global__ void __launch_bounds__(THREADS) compactor_rows(const __grid_constant__ CompactorArgs a) {
    extern __shared__ __align__(128) u8 room[];
    wait_for_previous();
    C *queries = (C*)room, *keys = queries + SIDE * KEY_STRIDE;
    const u32 head = blockIdx.y, kv_head = head / RATIO;
    const Tile tile = tile_of(a, judged_of(a, kv_head));
    if (tile.first >= tile.end) return;
    load_queries(a, head, tile.first, tile.end, queries);
    float largest[2] = {-infinity(), -infinity()}, sum[2] = {0.0f, 0.0f};
    for (u32 from = tile.begin; from < tile.end; from += SIDE) {
        __syncthreads();
        load_keys(a, kv_head, from, tile.end, keys);
        __syncthreads();
        float scores[SIDE / 8][4];
        clear(scores);
        add_scores<KEY_STRIDE, DP>(scores, queries, warp() * 16, keys);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float top = largest[half];
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++) {
#pragma unroll
                for (u32 c = 0; c < 2; c++) {
                    float& score = scores[j][2 * half + c];
                    score = from + own_column(j, c) < tile.end ? score * UNIT : -infinity();
                    top = fmaxf(top, score);
                }
            }
            const float base = top == -infinity() ? 0.0f : top;
            float total = sum[half] * power(largest[half] - base);
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++) total += power(scores[j][2 * half] - base) + power(scores[j][2 * half + 1] - base);
            largest[half] = top;
            sum[half] = total;
        }
    }
    const float missing = (float)(a.chunk - (tile.end - tile.begin));
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        // Four threads hold a row.
        for (u32 other = 1; other < 4; other *= 2) {
            const float top = __shfl_xor_sync(ALL, largest[half], other), more = __shfl_xor_sync(ALL, sum[half], other);
            const float both = fmaxf(top, largest[half]), base = both == -infinity() ? 0.0f : both;
            sum[half] = sum[half] * power(largest[half] - base) + more * power(top - base);
            largest[half] = both;
        }
        float top = largest[half], total = sum[half];
        if (missing > 0.0f) {
            const float both = fmaxf(top, 0.0f);
            total = total * power(top - both) + missing * power(-both);
            top = both;
        }
        const u32 rank = tile.first + own_row(half);
        if (lane() % 4 == 0 && rank < tile.end) a.rows[(u64)head * a.stride + rank] = make_float2(top, 1.0f / total);
    }
}

// The same grid, of keys: what all of a chunk's queries give them; queries that fill it up look at everything evenly.
extern "C" __global__ void __launch_bounds__(THREADS) compactor_columns(const __grid_constant__ CompactorArgs a) {
    extern __shared__ __align__(128) u8 room[];
    __shared__ float2 rows[SIDE];
    __shared__ float columns[WARPS][SIDE];
    wait_for_previous();
    C *queries = (C*)room, *keys = queries + SIDE * KEY_STRIDE;
    const u32 head = blockIdx.y, kv_head = head / RATIO;
    const Tile tile = tile_of(a, judged_of(a, kv_head));
    if (tile.first >= tile.end) return;
    load_keys(a, kv_head, tile.first, tile.end, keys);
    float sums[SIDE / 8][2];
#pragma unroll
    for (u32 j = 0; j < SIDE / 8; j++) sums[j][0] = sums[j][1] = 0.0f;
    for (u32 from = tile.begin; from < tile.end; from += SIDE) {
        __syncthreads();
        load_queries(a, head, from, tile.end, queries);
        if (threadIdx.x < SIDE) {
            const u32 rank = from + threadIdx.x;
            rows[threadIdx.x] = rank < tile.end ? a.rows[(u64)head * a.stride + rank] : make_float2(0.0f, 0.0f);
        }
        __syncthreads();
        float scores[SIDE / 8][4];
        clear(scores);
        add_scores<KEY_STRIDE, DP>(scores, queries, warp() * 16, keys);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const float2 row = rows[own_row(half)];
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++) {
#pragma unroll
                for (u32 c = 0; c < 2; c++) sums[j][c] += power(scores[j][2 * half + c] * UNIT - row.x) * row.y;
            }
        }
    }
#pragma unroll
    for (u32 j = 0; j < SIDE / 8; j++) {
#pragma unroll
        for (u32 c = 0; c < 2; c++) {
            // Eight threads hold a column of their warp's rows.
            float sum = sums[j][c];
            for (u32 other = 4; other < 32; other *= 2) sum += __shfl_xor_sync(ALL, sum, other);
            if (lane() < 4) columns[warp()][own_column(j, c)] = sum;
        }
    }
    __syncthreads();
    const u32 rank = tile.first + threadIdx.x;
    if (threadIdx.x >= SIDE || rank >= tile.end) return;
    float sum = (float)(a.chunk - (tile.end - tile.begin)) / (float)a.chunk;
#pragma unroll
    for (u32 w = 0; w < WARPS; w++) sum += columns[w][threadIdx.x];
    a.masses[(u64)head * a.stride + rank] = sum;
}

// x: tiles of THREADS ranks, y: KV heads. The mean over the query heads of a KV head, times the length of the value.
extern "C" __global__ void __launch_bounds__(THREADS) compactor_attended(const __grid_constant__ CompactorArgs a) {
    wait_for_previous();
    const u32 head = blockIdx.y;
    const Judged judged = judged_of(a, head);
    const u32 rank = judged.begin + blockIdx.x * THREADS + threadIdx.x;
    if (rank >= judged.end) return;
    float sum = 0.0f, squares = 0.0f;
    for (u32 member = 0; member < RATIO; member++) sum += a.masses[(u64)(head * RATIO + member) * a.stride + rank];
    const Place at = place_of(a, head, rank);
    const C* value = at.page.values(head % LANE_HEADS) + at.slot * D;
    for (u32 i = 0; i < D; i++) squares = fmaf(widen(value[i]), widen(value[i]), squares);
    a.attended[(u64)head * a.stride + rank] = sum / (float)RATIO * sqrtf(squares);
}

// Blended with both neighbours; beyond the ends there are zeros.
__device__ __forceinline__ float pooled(const CompactorArgs& a, u32 head, Judged judged, u32 rank) {
    const float* row = a.attended + (u64)head * a.stride;
    float sum = rank > judged.begin ? row[rank - 1] : 0.0f;
    sum += row[rank];
    if (rank + 1 < judged.end) sum += row[rank + 1];
    return sum / 3.0f;
}

// One block of MANY threads: mean and deviation of both numbers over all heads.
extern "C" __global__ void __launch_bounds__(MANY) compactor_moments(const __grid_constant__ CompactorArgs a) {
    __shared__ double parts[MANY / 32];
    wait_for_previous();
    const auto total = [&](double x) {
#pragma unroll
        for (u32 i = 16; i > 0; i /= 2) x += __shfl_xor_sync(ALL, x, i);
        __syncthreads();
        if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
        __syncthreads();
        x = 0.0;
        for (u32 i = 0; i < MANY / 32; i++) x += parts[i];
        return x;
    };
    double count = 0.0;
    for (u32 head = 0; head < KV_HEADS; head++) count += (double)judged_of(a, head).count();
    for (u32 which = 0; which < 2; which++) {
        const auto each = [&](auto take) {
            for (u32 head = 0; head < KV_HEADS; head++) {
                const Judged judged = judged_of(a, head);
                for (u32 rank = judged.begin + threadIdx.x; rank < judged.end; rank += MANY) {
                    take((double)(which == 0 ? a.leverages[(u64)head * a.stride + rank] : pooled(a, head, judged, rank)));
                }
            }
        };
        double sum = 0.0, squares = 0.0;
        each([&](double x) { sum += x; });
        const double mean = total(sum) / fmax(count, 1.0);
        each([&](double x) { squares += (x - mean) * (x - mean); });
        const double deviation = fmax(sqrt(total(squares) / fmax(count - 1.0, 1.0)), 1e-6);
        if (threadIdx.x == 0) a.moments[2 * which] = mean, a.moments[2 * which + 1] = deviation;
    }
}

// x: tiles of THREADS ranks, y: KV heads.
extern "C" __global__ void __launch_bounds__(THREADS) compactor_scores(const __grid_constant__ CompactorArgs a) {
    wait_for_previous();
    const u32 head = blockIdx.y, rank = blockIdx.x * THREADS + threadIdx.x;
    if (rank >= a.counts[head]) return;
    const Judged judged = judged_of(a, head);
    float score = infinity();
    if (judged.begin <= rank && rank < judged.end) {
        const auto unit = [&](float x, u32 which) { return (float)(((double)x - a.moments[2 * which]) / a.moments[2 * which + 1]); };
        score = a.blending * unit(a.leverages[(u64)head * a.stride + rank], 0) + unit(pooled(a, head, judged, rank), 1);
    }
    const Place at = place_of(a, head, rank);
    at.page.statistics()[at.slot] = score;
}
