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
    const float own = at.page.key(head % LANE_HEADS, at.slot, column);
    if (column >= 2 * a.pairs) return own;
    const bool low = column < a.pairs;
    const u32 pair = low ? column : column - a.pairs;
    const float2 angle = a.angles[(u64)at.page.positions()[at.slot] * a.pairs + pair];
    const float other = at.page.key(head % LANE_HEADS, at.slot, low ? column + a.pairs : pair);
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
