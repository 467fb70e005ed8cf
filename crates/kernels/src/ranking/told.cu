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

constexpr u32 RATIO = QUERY_HEADS / KV_HEADS;
__device__ __forceinline__ float two_to(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// x: parts of a lane, y: units. A warp has a page at a time, a thread an entry.
extern "C" __global__ void __launch_bounds__(THREADS) told(const __grid_constant__ ToldArgs a) {
    __shared__ float2 rows[LANE_HEADS * RATIO];
    let_next_start();
    wait_for_previous();
    const u32 unit = blockIdx.y, slot = a.spans[unit / GROUPS].slot;
    if (!a.lanes.has(slot)) return;
    const u32 lane_number = a.lanes.lane(slot, a.layer, unit % GROUPS), length = a.lanes.lengths[lane_number];
    const u32 first = a.first_pages[unit], pages = a.first_pages[unit + 1] - first;
    for (u32 i = threadIdx.x; i < LANE_HEADS * RATIO; i += THREADS) {
        const float2 row = a.stats[(u64)unit * LANE_HEADS * RATIO + i];
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
