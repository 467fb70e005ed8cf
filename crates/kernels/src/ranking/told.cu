// What a decode step's attention told of its scores, added to what entries got from the queries before.

struct ToldArgs {
    Lanes lanes;
    const Span* spans;
    const u32* first_pages;  // of this layer: [units + 1]
    const float* scores;     // as `decode.cu` leaves them: [pages * LANE_HEADS][32][RATIO], in log2
    const float2* stats;     // [units * LANE_HEADS][RATIO]: largest score and sum
    u32 layer, units;
    float factor;            // what sums of before are multiplied by; 0 forgets them
};

// The same where scores are noisy and divided by a temperature: their sums are others than attention's.
struct SoftToldArgs {
    ToldArgs told;
    float2* parts;  // [units][parts][ROWS]: largest and sum of a part of a lane
    u64 seed;
    float temperature;
    u32 noisy;
};

constexpr u32 RATIO = QUERY_HEADS / KV_HEADS, ROWS = LANE_HEADS * RATIO;

// x: parts of a lane, y: units. A warp has a page at a time, a thread an entry.
extern "C" __global__ void __launch_bounds__(THREADS) told(const __grid_constant__ ToldArgs a) {
    __shared__ float2 rows[ROWS];
    let_next_start();
    wait_for_previous();
    const u32 unit = blockIdx.y, slot = a.spans[unit / GROUPS].slot;
    if (!a.lanes.has(slot)) return;
    const u32 lane_number = a.lanes.lane(slot, a.layer, unit % GROUPS), length = a.lanes.lengths[lane_number];
    const u32 first = a.first_pages[unit], pages = a.first_pages[unit + 1] - first;
    for (u32 i = threadIdx.x; i < ROWS; i += THREADS) {
        const float2 row = a.stats[(u64)unit * ROWS + i];
        rows[i] = make_float2(row.x == -infinity() ? 0.0f : row.x, row.y == 0.0f ? 0.0f : 1.0f / row.y);
    }
    __syncthreads();
    const u32 thread = threadIdx.x % 32;
    for (u32 index = blockIdx.x * (THREADS / 32) + threadIdx.x / 32; index < pages; index += gridDim.x * (THREADS / 32)) {
        if (index * PAGE_ENTRIES + thread >= length) continue;
        float sum = 0.0f;
        for (u32 head = 0; head < LANE_HEADS; head++) {
            const float* scores = a.scores + (((u64)first * LANE_HEADS + head * pages + index) * PAGE_ENTRIES + thread) * RATIO;
#pragma unroll
            for (u32 member = 0; member < RATIO; member++) {
                const float2 row = rows[head * RATIO + member];
                sum += two_to(scores[member] - row.x) * row.y;
            }
        }
        float* statistic = a.lanes.page(lane_number, index).statistics() + thread;
        *statistic = (a.factor == 0.0f ? 0.0f : a.factor * *statistic) + sum;
    }
}

// Where a unit's pages and scores are.
struct Unit {
    u32 number, group, lane, length, first, pages, query;
    // The scores of an entry, of all rows of a head.
    __device__ __forceinline__ const float* scores(const ToldArgs& a, u32 head, u32 index, u32 slot) const {
        return a.scores + (((u64)first * LANE_HEADS + head * pages + index) * PAGE_ENTRIES + slot) * RATIO;
    }
};
__device__ __forceinline__ Unit unit_of(const ToldArgs& a, u32 number) {
    const Span span = a.spans[number / GROUPS];
    const u32 lane = a.lanes.lane(span.slot, a.layer, number % GROUPS), first = a.first_pages[number];
    return Unit{number, number % GROUPS, lane, a.lanes.lengths[lane], first, a.first_pages[number + 1] - first, span.first_position};
}

// A told score as it is compared here, of row `row` of a unit and the entry at `position`.
__device__ __forceinline__ float soft(const SoftToldArgs& a, const Unit& unit, u32 row, u32 position, float told) {
    constexpr float LN_2 = 0.693147180559945f;
    if (told == -infinity()) return told;
    const u64 of_head = noise_of(a.seed, a.told.layer, unit.group * ROWS + row);
    const float noise = a.noisy ? gumbel(noise_at(of_head, unit.query, position)) : 0.0f;
    return (told * LN_2 + noise) / a.temperature;
}

// Adds a largest score and a sum of exponentials below it to another.
__device__ __forceinline__ float2 joined(float2 a, float2 b) {
    const float top = fmaxf(a.x, b.x), base = top == -infinity() ? 0.0f : top;
    return make_float2(top, a.y * expf(a.x - base) + b.y * expf(b.x - base));
}

// x: parts of a lane, y: units. What each part of a row adds up to.
extern "C" __global__ void __launch_bounds__(THREADS) soft_told_rows(const __grid_constant__ SoftToldArgs a) {
    __shared__ float2 warps[THREADS / 32];
    wait_for_previous();
    if (!a.told.lanes.has(a.told.spans[blockIdx.y / GROUPS].slot)) return;
    const Unit unit = unit_of(a.told, blockIdx.y);
    const u32 warp = threadIdx.x / 32, thread = threadIdx.x % 32;
    for (u32 row = 0; row < ROWS; row++) {
        float2 own = make_float2(-infinity(), 0.0f);
        for (u32 index = blockIdx.x * (THREADS / 32) + warp; index < unit.pages; index += gridDim.x * (THREADS / 32)) {
            if (index * PAGE_ENTRIES + thread >= unit.length) continue;
            const u32 position = a.told.lanes.page(unit.lane, index).positions()[thread];
            const float told = unit.scores(a.told, row / RATIO, index, thread)[row % RATIO];
            own = joined(own, make_float2(soft(a, unit, row, position, told), 1.0f));
        }
#pragma unroll
        for (u32 i = 16; i > 0; i /= 2) {
            own = joined(own, make_float2(__shfl_xor_sync(ALL, own.x, i), __shfl_xor_sync(ALL, own.y, i)));
        }
        __syncthreads();
        if (thread == 0) warps[warp] = own;
        __syncthreads();
        if (threadIdx.x > 0) continue;
        for (u32 i = 1; i < THREADS / 32; i++) own = joined(own, warps[i]);
        a.parts[((u64)unit.number * gridDim.x + blockIdx.x) * ROWS + row] = own;
    }
}

// The same grid: adds the probabilities.
extern "C" __global__ void __launch_bounds__(THREADS) soft_told(const __grid_constant__ SoftToldArgs a) {
    __shared__ float2 rows[ROWS];
    wait_for_previous();
    if (!a.told.lanes.has(a.told.spans[blockIdx.y / GROUPS].slot)) return;
    const Unit unit = unit_of(a.told, blockIdx.y);
    for (u32 row = threadIdx.x; row < ROWS; row += THREADS) {
        float2 all = make_float2(-infinity(), 0.0f);
        for (u32 part = 0; part < gridDim.x; part++) all = joined(all, a.parts[((u64)unit.number * gridDim.x + part) * ROWS + row]);
        rows[row] = make_float2(all.x == -infinity() ? 0.0f : all.x, all.y == 0.0f ? 0.0f : 1.0f / all.y);
    }
    __syncthreads();
    const u32 thread = threadIdx.x % 32;
    for (u32 index = blockIdx.x * (THREADS / 32) + threadIdx.x / 32; index < unit.pages; index += gridDim.x * (THREADS / 32)) {
        if (index * PAGE_ENTRIES + thread >= unit.length) continue;
        const Page page = a.told.lanes.page(unit.lane, index);
        float sum = 0.0f;
        for (u32 row = 0; row < ROWS; row++) {
            const float told = unit.scores(a.told, row / RATIO, index, thread)[row % RATIO];
            sum += expf(soft(a, unit, row, page.positions()[thread], told) - rows[row].x) * rows[row].y;
        }
        page.statistics()[thread] += sum;
    }
}
