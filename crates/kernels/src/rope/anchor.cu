// Keys of sinks, turned on to where a query finds them right before its window. What they are turned from is kept beside the
// pages: turning on what was turned before would add up its roundings.

struct AnchorArgs {
    Lanes lanes;
    const Span* spans;
    const float2* angles;  // [positions][pairs]: cos and sin
    C* kept;               // [slots][layers][KV_HEADS][sinks][HEAD_DIM]
    u32 sinks;
    u32 first_behind;      // the first query that does not see all of its text
    u32 pairs, positions;
    float unscale;         // by what cos and sin are multiplied to undo the factor in them: keys have it already
};

// One block per lane (x: layer * GROUPS + group) and span (y), before the lanes grow. The queries of a span lie before
// `first_behind`, or there is one.
extern "C" __global__ void __launch_bounds__(THREADS) anchor(const __grid_constant__ AnchorArgs a) {
    wait_for_previous();
    const Span span = a.spans[blockIdx.y];
    if (!a.lanes.has(span.slot)) return;
    const u32 layer = blockIdx.x / GROUPS, group = blockIdx.x % GROUPS, thread = threadIdx.x % 32;
    const u32 query = span.first_position, ahead = query >= a.first_behind ? query + 1 - a.first_behind : 0;
    const u32 number = a.lanes.lane(span.slot, layer, group), length = a.lanes.lengths[number];
    const float2* angles = a.angles + (u64)min(ahead, a.positions - 1) * a.pairs;
    for (u32 index = threadIdx.x / 32; index * PAGE_ENTRIES < length; index += THREADS / 32) {
        const Page page = a.lanes.page(number, index);
        const u32 position = page.positions()[thread];
        const bool sink = index * PAGE_ENTRIES + thread < length && position < a.sinks;
        for (u32 left = __ballot_sync(ALL, sink); left != 0; left &= left - 1) {
            const u32 slot = __ffs(left) - 1, place = __shfl_sync(ALL, position, slot);
            for (u32 head = 0; head < LANE_HEADS; head++) {
                const u64 row = ((u64)(span.slot * a.lanes.layers + layer) * KV_HEADS + group * LANE_HEADS + head) * a.sinks + place;
                C *kept = a.kept + row * HEAD_DIM, *key = page.keys(head) + slot * HEAD_DIM;
                // Up to the first query behind the window a key is as it was born.
                if (ahead <= 1) {
                    for (u32 i = thread; i < HEAD_DIM; i += 32) kept[i] = key[i];
                    __syncwarp();
                }
                if (ahead == 0) continue;
                for (u32 pair = thread; pair < a.pairs; pair += 32) {
                    const float cosine = angles[pair].x * a.unscale, sine = angles[pair].y * a.unscale;
                    const float low = widen(kept[pair]), high = widen(kept[pair + a.pairs]);
                    key[pair] = narrow<C>(low * cosine - high * sine);
                    key[pair + a.pairs] = narrow<C>(high * cosine + low * sine);
                }
            }
        }
    }
}
