// Keys of what stays where a prompt ends, turned back: the i-th that stays as if its token had stood at position i.

struct RenumberArgs {
    Lanes lanes;
    const float2* angles;  // [positions][pairs]: cos and sin
    u32* room;             // of each block: [stride]
    u32 slot, next;        // the sequence; the first query that is still to come
    u32 stride;            // at least the tokens of the sequence
    u32 pairs;
    float unscale;         // by what cos and sin are multiplied to undo the factor in them: keys have it already
};

extern "C" __global__ void __launch_bounds__(THREADS) renumber(const __grid_constant__ RenumberArgs a) {
    __shared__ u32 parts[THREADS / 32];
    wait_for_previous();
    u32* order = a.room + (u64)blockIdx.x * a.stride;
    const u32 lanes = a.lanes.layers * GROUPS, thread = threadIdx.x % 32;
    for (u32 index = blockIdx.x; index < lanes; index += gridDim.x) {
        const u32 number = a.slot * lanes + index;
        const Lane lane{a.lanes, number, a.lanes.lengths[number], a.next};
        const u32 count = put_in_order(lane, order, a.stride, parts);
        for (u32 rank = threadIdx.x / 32; rank < count; rank += THREADS / 32) {
            const Page page = a.lanes.page(number, order[rank] / PAGE_ENTRIES);
            const u32 slot = order[rank] % PAGE_ENTRIES, back = page.positions()[slot] - rank;
            // Nothing has ended before, so an entry's rank among all is its position.
            if (back == 0) continue;
            const float2* angles = a.angles + (u64)back * a.pairs;
            for (u32 head = 0; head < LANE_HEADS; head++) {
                C* key = page.keys(head) + slot * HEAD_DIM;
                for (u32 pair = thread; pair < a.pairs; pair += 32) {
                    const float cosine = angles[pair].x * a.unscale, sine = angles[pair].y * a.unscale;
                    const float low = widen(key[pair]), high = widen(key[pair + a.pairs]);
                    key[pair] = narrow<C>(low * cosine + high * sine);
                    key[pair + a.pairs] = narrow<C>(high * cosine - low * sine);
                }
            }
        }
    }
}
