// What the queries of a window gave becomes a score: the mean over them and over the query heads that are in the sum, blended with
// neighbours in the order of positions, and the window's own entries worth more than any.

struct PoolArgs {
    Pruned pruned;
    u32* room;         // of each block: [2][stride]
    u32 stride;        // at least the tokens of every sequence that is pruned
    u32 lanes, spans;  // lanes of a sequence; spans of the step
    u32 window, reach, largest;  // queries; neighbours on each side; whether the largest counts, otherwise the mean
    u32 members;       // query heads that a sum is over
};

extern "C" __global__ void __launch_bounds__(THREADS) pool(const __grid_constant__ PoolArgs a) {
    __shared__ u32 parts[THREADS / 32];
    wait_for_previous();
    u32* order = a.room + (u64)blockIdx.x * 2 * a.stride;
    float* means = (float*)order + a.stride;
    for (u32 task = blockIdx.x; task < a.lanes * a.spans; task += gridDim.x) {
        const u32 span = task / a.lanes, layer = task % a.lanes / GROUPS, group = task % GROUPS;
        if (kept_of(a.pruned, span, layer, group) == NEVER) continue;
        const Lane lane = lane_of(a.pruned, span, layer, group);
        const u32 count = put_in_order(lane, order, a.stride, parts);
        for (u32 rank = threadIdx.x; rank < count; rank += THREADS) {
            means[rank] = *score_of(lane, order[rank]) / (float)a.members / (float)max(a.window, 1u);
        }
        __syncthreads();
        const u32 judged = count > a.window ? count - a.window : 0;
        for (u32 rank = threadIdx.x; rank < count; rank += THREADS) {
            float score = infinity();
            if (rank < judged) {
                const u32 from = rank > a.reach ? rank - a.reach : 0, to = judged - rank > a.reach ? rank + a.reach + 1 : judged;
                score = a.largest ? -infinity() : 0.0f;
                for (u32 i = from; i < to; i++) {
                    const float x = means[i];
                    if (!a.largest) score += x;
                    else if (x > score || x != x) score = x;
                }
                if (!a.largest) score /= (float)(2 * a.reach + 1);
            }
            *score_of(lane, order[rank]) = score;
        }
    }
}
