// Which entries stay, by the scores beside them; the others end before the next query.

struct SelectArgs {
    Pruned pruned;
    u64* safe;           // [spans][layers][GROUPS]: the least key of what a lane has for itself
    double share;        // of its budget that a lane has for itself
    Floors counted;      // what stays whatever it is worth, and counts
    Floors floors;       // what may not be taken away
    u32 by_queries;      // whether a score is the mean over the queries that came since the entry's own
    u32 beside;          // whether what came since the last choice stays beside the budget
    double chance;       // `draw`: of what is chosen, the share that is drawn
    u64 seed;            // of noise
    double members;      // query heads in a score's sum: their mean is what is drawn by
};

// Whether an entry has not been there when some went, where that is asked: its second statistic says.
__device__ __forceinline__ bool fresh(const SelectArgs& a, Page page, u32 slot) {
    if constexpr (STATISTICS > 1) return a.beside && page.statistics()[PAGE_ENTRIES + slot] == 0.0f;
    return false;
}
// Whether a floor holds an entry, whatever it is worth.
__device__ __forceinline__ bool counts_anyway(const SelectArgs& a, u32 position, u32 next) {
    const u32 end = position + a.counted.recent;
    return position < a.counted.sinks || end < position || end >= next;
}

// Larger is better; no two entries of a layer have the same. NaN is worth least, -0 is 0; of equals the later one stays, and
// of several heads' at one position that of the higher head.
__device__ __forceinline__ u64 key_of(const SelectArgs& a, Page page, u32 slot, u32 position, u32 next, u32 group) {
    float score = page.statistics()[slot];
    if (a.by_queries) score /= (float)max(next - position, 1u);
    if (counts_anyway(a, position, next)) score = infinity();
    else if (score > 3.402823466e38f || fresh(a, page, slot)) score = 3.402823466e38f;
    u32 order = 0;
    if (score == score) {
        const u32 bits = __float_as_uint(score + 0.0f);
        order = bits >> 31 ? ~bits : bits | 0x80000000u;
    }
    return (u64)order << 32 | (position * GROUPS + group);
}

constexpr u32 BINS = 256;
struct Histogram {
    u32 bins[BINS];
    u32 digit, left, whole;
};

// The k-th largest of the `count` keys that `each(take)` gives; no two are equal. What is returned may be smaller than it,
// but not than the one after it: 0 where all are among the k largest, and above every key where none is. Every thread must come.
template <typename Each> __device__ __forceinline__ u64 least_kept(Histogram& shared, u32 k, u32 count, Each each) {
    if (k >= count) return 0;
    if (k == 0) return ~0ull;
    u64 prefix = 0;
    for (u32 shift = 56;; shift -= 8) {
        __syncthreads();
        for (u32 i = threadIdx.x; i < BINS; i += THREADS) shared.bins[i] = 0;
        __syncthreads();
        each([&](u64 key) {
            if (shift == 56 || (key ^ prefix) >> (shift + 8) == 0) atomicAdd(&shared.bins[(u32)(key >> shift) & (BINS - 1)], 1u);
        });
        __syncthreads();
        if (threadIdx.x == 0) {
            u32 left = k, digit = BINS - 1;
            while (digit > 0 && shared.bins[digit] < left) left -= shared.bins[digit--];
            shared.digit = digit;
            shared.left = left;
            shared.whole = shared.bins[digit] <= left;
        }
        __syncthreads();
        prefix |= (u64)shared.digit << shift;
        k = shared.left;
        // Where all of a bin stay, its least possible key separates as well.
        if (shared.whole || shift == 0) return prefix;
    }
}

__device__ __forceinline__ void end_below(const SelectArgs& a, const Lane& lane, u32 group, u64 least, u64 most) {
    lane.each_live([&](Page page, u32 slot, u32 position, u32) {
        const u64 key = key_of(a, page, slot, position, lane.next, group);
        if (key < least && key < most) lower(page, slot, position, lane.next, lane.next - 1, a.floors);
    });
}

// One block per lane (x: layer * GROUPS + group) and span (y): the best `kept` stay.
extern "C" __global__ void __launch_bounds__(THREADS) keep_alike(const __grid_constant__ SelectArgs a) {
    __shared__ Histogram histogram;
    __shared__ u32 parts[THREADS / 32];
    __shared__ u64 leasts[THREADS / 32];
    wait_for_previous();
    const u32 layer = blockIdx.x / GROUPS, group = blockIdx.x % GROUPS;
    u32 kept = kept_of(a.pruned, blockIdx.y, layer, group);
    if (kept == NEVER) return;
    const Lane lane = lane_of(a.pruned, blockIdx.y, layer, group);
    if (lane.length <= kept) return;
    u32 count = 0, where = 0, beside = 0;
    u64 own = ~0ull;
    lane.each_live([&](Page page, u32 slot, u32 position, u32 entry) {
        const u64 key = key_of(a, page, slot, position, lane.next, group);
        count += 1;
        beside += fresh(a, page, slot);
        if (key < own) own = key, where = entry;
    });
    count = block_total(count, parts);
    if (a.beside) kept += block_total(beside, parts);
    if (count <= kept) return;
    if (count - kept == 1) {
        // After every query one goes: the least, which whoever has seen it ends.
        u64 least = own;
#pragma unroll
        for (u32 i = 16; i > 0; i /= 2) least = min(least, __shfl_xor_sync(ALL, least, i));
        if (threadIdx.x % 32 == 0) leasts[threadIdx.x / 32] = least;
        __syncthreads();
        for (u32 i = 0; i < THREADS / 32; i++) least = min(least, leasts[i]);
        if (own != least) return;
        const Page page = lane.lanes.page(lane.number, where / PAGE_ENTRIES);
        const u32 slot = where % PAGE_ENTRIES;
        lower(page, slot, page.positions()[slot], lane.next, lane.next - 1, a.floors);
        return;
    }
    const u64 separates = least_kept(histogram, kept, count, [&](auto take) {
        lane.each_live([&](Page page, u32 slot, u32 position, u32) { take(key_of(a, page, slot, position, lane.next, group)); });
    });
    end_below(a, lane, group, separates, ~0ull);
}

// The same grid: what each lane has for itself of a budget that heads share, `floor(kept * share)` of its best.
extern "C" __global__ void __launch_bounds__(THREADS) keep_safe(const __grid_constant__ SelectArgs a) {
    __shared__ Histogram histogram;
    __shared__ u32 parts[THREADS / 32];
    wait_for_previous();
    const u32 layer = blockIdx.x / GROUPS, group = blockIdx.x % GROUPS;
    const u32 kept = kept_of(a.pruned, blockIdx.y, layer, group);
    if (kept == NEVER) return;
    const Lane lane = lane_of(a.pruned, blockIdx.y, layer, group);
    const u32 safe = (u32)((double)kept * a.share);
    u32 count = 0;
    lane.each_live([&](Page, u32, u32, u32) { count += 1; });
    count = block_total(count, parts);
    const u64 least = least_kept(histogram, safe, count, [&](auto take) {
        lane.each_live([&](Page page, u32 slot, u32 position, u32) { take(key_of(a, page, slot, position, lane.next, group)); });
    });
    if (threadIdx.x == 0) a.safe[((u64)blockIdx.y * a.pruned.lanes.layers + layer) * GROUPS + group] = least;
}

// One block per layer (x) and span (y), after `keep_safe`: the rest of the layer's budget goes to the best of all heads.
extern "C" __global__ void __launch_bounds__(THREADS) keep_shared(const __grid_constant__ SelectArgs a) {
    __shared__ Histogram histogram;
    __shared__ u32 parts[THREADS / 32];
    wait_for_previous();
    const u32 layer = blockIdx.x;
    // Where lanes share, all of a layer have the same on average.
    const u32 kept = kept_of(a.pruned, blockIdx.y, layer, 0);
    if (kept == NEVER) return;
    const u64* safe = a.safe + ((u64)blockIdx.y * a.pruned.lanes.layers + layer) * GROUPS;
    const auto each = [&](auto take) {
        for (u32 group = 0; group < GROUPS; group++) {
            const Lane lane = lane_of(a.pruned, blockIdx.y, layer, group);
            const u64 own = safe[group];
            lane.each_live([&](Page page, u32 slot, u32 position, u32) {
                const u64 key = key_of(a, page, slot, position, lane.next, group);
                take(key, key < own);
            });
        }
    };
    u32 inside = 0, outside = 0;
    each([&](u64, bool rests) { rests ? outside += 1 : inside += 1; });
    inside = block_total(inside, parts);
    outside = block_total(outside, parts);
    const u32 all = GROUPS * kept, rest = all > inside ? all - inside : 0;
    if (outside <= rest) return;
    const u64 separates = least_kept(histogram, rest, outside, [&](auto take) {
        each([&](u64 key, bool rests) { if (rests) take(key); });
    });
    for (u32 group = 0; group < GROUPS; group++) {
        end_below(a, lane_of(a.pruned, blockIdx.y, layer, group), group, separates, safe[group]);
    }
}

// The grid of `keep_alike`, before it: of what a budget leaves beside what floors hold, the best stay whatever comes, and the share
// `chance` is drawn from the others, the likelier the higher their scores.
extern "C" __global__ void __launch_bounds__(THREADS) draw(const __grid_constant__ SelectArgs a) {
    __shared__ Histogram histogram;
    __shared__ u32 parts[THREADS / 32];
    wait_for_previous();
    const u32 layer = blockIdx.x / GROUPS, group = blockIdx.x % GROUPS;
    const u32 kept = kept_of(a.pruned, blockIdx.y, layer, group);
    if (kept == NEVER) return;
    const Lane lane = lane_of(a.pruned, blockIdx.y, layer, group);
    u32 fixed = 0, others = 0;
    lane.each_live([&](Page, u32, u32 position, u32) { counts_anyway(a, position, lane.next) ? fixed += 1 : others += 1; });
    fixed = block_total(fixed, parts);
    others = block_total(others, parts);
    const u32 chosen = kept > fixed ? kept - fixed : 0, drawn = (u32)((double)chosen * a.chance), best = chosen - drawn;
    if (drawn == 0) return;
    const u64 least = least_kept(histogram, best, others, [&](auto take) {
        lane.each_live([&](Page page, u32 slot, u32 position, u32) {
            if (!counts_anyway(a, position, lane.next)) take(key_of(a, page, slot, position, lane.next, group));
        });
    });
    const u64 of_head = noise_of(a.seed, layer, group);
    lane.each_live([&](Page page, u32 slot, u32 position, u32) {
        if (counts_anyway(a, position, lane.next)) return;
        float& score = page.statistics()[slot];
        const bool stays = key_of(a, page, slot, position, lane.next, group) >= least;
        score = stays ? infinity() : score / (float)a.members + gumbel(noise_at(of_head, 0, position));
    });
}

// The grid of `keep_alike`, after it: sums begin anew, and what is there has been there.
extern "C" __global__ void __launch_bounds__(THREADS) settle(const __grid_constant__ SelectArgs a) {
    wait_for_previous();
    const u32 layer = blockIdx.x / GROUPS, group = blockIdx.x % GROUPS;
    if (kept_of(a.pruned, blockIdx.y, layer, group) == NEVER) return;
    const Lane lane = lane_of(a.pruned, blockIdx.y, layer, group);
    if constexpr (STATISTICS > 1) {
        for (u32 entry = threadIdx.x; entry < lane.length; entry += THREADS) {
            float* statistics = lane.lanes.page(lane.number, entry / PAGE_ENTRIES).statistics() + entry % PAGE_ENTRIES;
            statistics[0] = 0.0f, statistics[PAGE_ENTRIES] = 1.0f;
        }
    }
}
