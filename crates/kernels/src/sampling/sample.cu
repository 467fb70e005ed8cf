// From logits to tokens. A first kernel finds the likeliest token of each row, and the last block of a row is done
// where that is wanted, or where a few candidates surely hold all that the filters leave. A second one sums the weights
// of the rows that are left.

// What the blocks of a row have found; zero before and after.
struct RowState {
    u64 best;     // likelihood of the likeliest token, as `rank` orders them
    u32 bad;      // ~ the first logit that is not finite
    u32 ticket;
    u32 pending;  // what the second kernel has to do: SUM or SEARCH
    u32 padding;
};
struct SampleArgs {
    const SlotSampling* sampling;
    u32* seen;  // [slots][words]: one bit per token of the sequence's text
    const u32* slots;
    const float* logits;
    const float* randoms;
    u32* tokens;
    RowState* states;
    float* maxima;  // [rows][segments]: the largest logit of every SEGMENT tokens
    u64* chunks;    // [rows][CHUNKS]: weights of every CHUNK tokens
    u64* bins;      // [rows][BINS]: weights by distance from the largest logit; zero before and after
    u32 vocabulary, words;
    u32 part;       // logits that a block looks at first, a multiple of CHUNK
    u32 segments;
    u32 stride;     // from row to row of the logits
    u32 slot_count;
};

static_assert(SEGMENT == 4 * 32, "what a warp reads at once");
constexpr u32 SUM = 1;     // draw from the sums of all weights
constexpr u32 SEARCH = 2;  // draw with one block, which looks at all logits again and again
// Where no token is drawn yet.
constexpr u32 TO_SUM = NEVER, TO_SEARCH = NEVER - 1;

__device__ __forceinline__ LogitRow row_of(const SampleArgs& args, const SlotSampling& sampling, const u32* seen) {
    return LogitRow{args.logits + (u64)blockIdx.y * args.stride, sampling.repetition_penalty != 1 ? seen : nullptr,
                    sampling.repetition_penalty, args.vocabulary, args.stride % 4 == 0};
}

// Largest first; `size` is a power of 2.
__device__ __noinline__ void sort(u64* list, u32 size) {
    for (u32 run = 2; run <= size; run *= 2) {
        for (u32 stride = run / 2; stride > 0; stride /= 2) {
            __syncthreads();
            for (u32 i = threadIdx.x; i < size / 2; i += THREADS) {
                const u32 low = 2 * i - (i & (stride - 1));
                const u64 a = list[low], b = list[low + stride];
                if ((a < b) == ((low & run) == 0)) list[low] = b, list[low + stride] = a;
            }
        }
    }
    __syncthreads();
}
__device__ __forceinline__ u32 power_of_2(u32 x) {
    u32 y = 1;
    while (y < x) y *= 2;
    return y;
}

// A token drawn after the filters, whose candidates are all tokens in the bins 0..=cut: what the filters leave is among
// them. `sum` is that of the weights of all tokens, where top-p is without top-k. TO_SEARCH where they are too many.
__device__ __noinline__ u32 draw_from_few(const SampleArgs& args, const LogitRow& row, Shared& shared, const SlotSampling& sampling, u64 best, float random,
                                          float bins_per_unit, u32 cut, u64 sum) {
    constexpr u32 OWN = CANDIDATES / THREADS;
    const Likelihood likelihood(best, sampling.temperature);
    const volatile float* maxima = args.maxima + (u64)blockIdx.y * args.segments;
    __syncthreads();
    if (threadIdx.x == 0) shared.count = 0;
    __syncthreads();
    // A warp looks at 32 segments and then reads those that have candidates.
    for (u32 first = threadIdx.x / 32 * 32; first < args.segments; first += THREADS) {
        const u32 own = first + threadIdx.x % 32;
        u32 wanted = __ballot_sync(ALL, own < args.segments && bin_below(likelihood.largest, maxima[own], bins_per_unit) <= cut);
        while (wanted != 0) {
            constexpr u32 AHEAD = 4;
            u32 base[AHEAD];
            float x[AHEAD][4];
#pragma unroll
            for (u32 a = 0; a < AHEAD; a++) {
                base[a] = wanted == 0 ? row.vocabulary : (first + __ffs(wanted) - 1) * SEGMENT + threadIdx.x % 32;
                wanted &= wanted - 1;
#pragma unroll
                for (u32 j = 0; j < 4; j++) x[a][j] = base[a] + 32 * j < row.vocabulary ? row.logits[base[a] + 32 * j] : 0;
            }
#pragma unroll
            for (u32 a = 0; a < AHEAD; a++) {
#pragma unroll
                for (u32 j = 0; j < 4; j++) {
                    const u32 token = base[a] + 32 * j;
                    if (token >= row.vocabulary) continue;
                    float logit = x[a][j];
                    if (row.seen != nullptr && (row.seen[token / 32] >> token % 32 & 1)) logit = logit > 0 ? logit / row.penalty : logit * row.penalty;
                    if (bin_below(likelihood.largest, logit, bins_per_unit) > cut) continue;
                    const u32 place = atomicAdd(&shared.count, 1);
                    if (place < CANDIDATES) shared.list[place] = rank(logit, token);
                }
            }
        }
    }
    __syncthreads();
    u32 count = shared.count;
    if (count > CANDIDATES) return TO_SEARCH;
    const u32 size = power_of_2(count);
    for (u32 i = count + threadIdx.x; i < size; i += THREADS) shared.list[i] = 0;
    sort(shared.list, size);
    if (sampling.top_k > 0) count = min(count, sampling.top_k);
    auto logit_at = [&](u32 i) { return unordered((u32)(shared.list[i] >> 32)); };
    if (sampling.top_p < 1) {
        u64 weights[OWN], own = 0, total;
#pragma unroll
        for (u32 i = 0; i < OWN; i++) {
            const u32 at = threadIdx.x * OWN + i;
            weights[i] = at < count ? likelihood.weight(logit_at(at)) : 0;
            own += weights[i];
        }
        u64 before = scan_block(own, shared, total);
        if (sum > 0) total = sum;
        const u64 wanted = max((u64)ceil((double)sampling.top_p * (double)total), 1ull);
        if (threadIdx.x == 0) shared.count = count;
        __syncthreads();
#pragma unroll
        for (u32 i = 0; i < OWN; i++) {
            if (before < wanted && wanted <= before + weights[i]) shared.count = threadIdx.x * OWN + i + 1;
            before += weights[i];
        }
        __syncthreads();
        count = shared.count;
    }
    // In the order of their numbers.
    const u32 kept = power_of_2(count);
    for (u32 i = threadIdx.x; i < kept; i += THREADS) {
        const u64 key = shared.list[i];
        shared.list[i] = i < count && likelihood.share(logit_at(i)) >= sampling.min_p ? key << 32 | key >> 32 : 0;
    }
    sort(shared.list, kept);
    u64 weights[OWN], own = 0, total;
#pragma unroll
    for (u32 i = 0; i < OWN; i++) {
        const u32 at = threadIdx.x * OWN + i;
        weights[i] = at < kept && shared.list[at] != 0 ? likelihood.weight(unordered((u32)shared.list[at])) : 0;
        own += weights[i];
    }
    u64 before = scan_block(own, shared, total);
    if (total == 0) return ~(u32)best;
    const u64 target = min((u64)((double)random * (double)total), total - 1);
#pragma unroll
    for (u32 i = 0; i < OWN; i++) {
        if (before <= target && target < before + weights[i]) shared.token = ~(u32)(shared.list[threadIdx.x * OWN + i] >> 32);
        before += weights[i];
    }
    __syncthreads();
    return shared.token;
}

// A token drawn after the filters, or what that takes.
__device__ __forceinline__ u32 draw(const SampleArgs& args, const LogitRow& row, Shared& shared, const SlotSampling& sampling, u64 best, float random) {
    const Likelihood likelihood(best, sampling.temperature);
    float per_unit;
    u32 cut;
    if (sampling.top_k > 0 && sampling.top_k < row.vocabulary) {
        // Segments whose largest logits are the top_k largest have that many tokens of the last one's bin and above.
        if (sampling.top_k > args.segments) return TO_SEARCH;
        const volatile float* maxima = args.maxima + (u64)blockIdx.y * args.segments;
        clear_bins(shared, BINS);
        for (u32 i = threadIdx.x; i < args.segments; i += THREADS) add_to_bin(shared, bin_below(likelihood.largest, maxima[i], 64), 1);
        if (!find_bin(shared, BINS, sampling.top_k) || shared.bin == BINS - 1) return TO_SEARCH;
        per_unit = 64, cut = shared.bin;
    } else {
        if (sampling.top_p < 1 || sampling.min_p == 0) return TO_SUM;
        // One bin more than a share of min_p is away.
        const float bins = 1 - 64 * logf(sampling.min_p);
        if (bins >= (float)(BINS - 1)) return TO_SUM;
        per_unit = 64 / sampling.temperature, cut = (u32)bins;
    }
    return draw_from_few(args, row, shared, sampling, best, random, per_unit, cut, 0);
}

// Blocks (x) share a row (y): each looks for its largest logit and for one that is not finite; the last one of a row
// chooses.
extern "C" __global__ void __launch_bounds__(THREADS) sample(SampleArgs args) {
    wait_for_previous();
    let_next_start();
    __shared__ Shared shared;
    const u32 slot = args.slots[blockIdx.y];
    if (slot >= args.slot_count) return;
    const SlotSampling sampling = args.sampling[slot];
    u32* seen = args.seen + (u64)slot * args.words;
    const LogitRow row = row_of(args, sampling, seen);
    const bool draws = sampling.temperature != 0;
    float* maxima = args.maxima + (u64)blockIdx.y * args.segments;
    u64 best = 0;
    u32 bad = 0;
    const u32 from = blockIdx.x * args.part, to = min(from + args.part, args.vocabulary);
    row.each<4>(from, to, [&](u32 token, const float (&x)[4], const float (&raw)[4], u32 count) {
        u32 largest = 0;
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            if (j >= count) continue;
            if (!(fabsf(raw[j]) < infinity())) bad = max(bad, ~(token + j));
            // -0 + 0 is 0: of equal logits the first is the largest, and these are equal.
            best = max(best, rank(x[j] + 0.0f, token + j));
            largest = max(largest, ordered(x[j]));
        }
        if (draws) {
            largest = __reduce_max_sync(ALL, largest);
            if (threadIdx.x % 32 == 0 && count > 0) maxima[token / SEGMENT] = unordered(largest);
        }
    });
#pragma unroll
    for (u32 i = 16; i > 0; i /= 2) best = max(best, __shfl_xor_sync(ALL, best, i));
    bad = __reduce_max_sync(ALL, bad);
    if (threadIdx.x % 32 == 0) {
        shared.warp_sums[threadIdx.x / 32] = best;
        shared.warp_bad[threadIdx.x / 32] = bad;
    }
    if (draws) __threadfence();
    __syncthreads();
    RowState* state = args.states + blockIdx.y;
    if (threadIdx.x == 0) {
        for (u32 i = 1; i < WARPS; i++) {
            best = max(best, shared.warp_sums[i]);
            bad = max(bad, shared.warp_bad[i]);
        }
        atomicMax(&state->best, best);
        if (bad > 0) atomicMax(&state->bad, bad);
        __threadfence();
        shared.last = atomicAdd(&state->ticket, 1) == gridDim.x - 1;
        if (shared.last) {
            __threadfence();
            shared.best = atomicExch(&state->best, 0);
            shared.bad = atomicExch(&state->bad, 0);
            atomicExch(&state->ticket, 0);
        }
    }
    __syncthreads();
    if (!shared.last) return;
    best = shared.best;
    bad = shared.bad;
    u32 token = ~(u32)best;
    // The same for all threads of the block.
    if (bad == 0 && draws) token = draw(args, row, shared, sampling, best, args.randoms[blockIdx.y]);
    if (threadIdx.x != 0) return;
    if (bad == 0 && token >= TO_SEARCH) {
        state->best = best;
        state->pending = token == TO_SUM ? SUM : SEARCH;
        return;
    }
    args.tokens[blockIdx.y] = bad > 0 ? NOT_FINITE | ~bad : token;
    if (row.seen != nullptr && bad == 0) seen[token / 32] |= 1u << token % 32;
}

// Whether this block is the last one of its row to come here; every thread must come.
__device__ __forceinline__ bool is_last(RowState* state, Shared& shared) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        shared.last = atomicAdd(&state->ticket, 1) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    return shared.last;
}

// A block's part of the sums over all tokens; the last block of the row draws. NEVER for the others.
__device__ __forceinline__ u32 draw_from_sums(const SampleArgs& args, const LogitRow& row, Shared& shared, const SlotSampling& sampling, RowState* state, u64 best,
                                              float random) {
    const Likelihood likelihood(best, sampling.temperature);
    const bool top_p = sampling.top_p < 1;
    const float bins_per_unit = 64 / sampling.temperature;
    // Top-p comes before min-p.
    auto left = [&](float logit, u32) { return top_p || likelihood.share(logit) >= sampling.min_p ? likelihood.weight(logit) : 0; };
    volatile u64* chunks = args.chunks + (u64)blockIdx.y * CHUNKS;
    u64* bins = args.bins + (u64)blockIdx.y * BINS;
    const u32 from = blockIdx.x * args.part, to = min(from + args.part, args.vocabulary);
    clear_bins(shared, BINS);
    shared.sums.chunks[threadIdx.x] = 0;
    __syncthreads();
    sum_chunks<4>(row, shared, from, to, [&](float logit, u32 token) {
        const u64 weight = left(logit, token);
        if (top_p && weight > 0) add_to_bin(shared, bin_below(likelihood.largest, logit, bins_per_unit), weight);
        return weight;
    });
    __syncthreads();
    if (threadIdx.x < (to - from + CHUNK - 1) / CHUNK) chunks[from / CHUNK + threadIdx.x] = shared.sums.chunks[threadIdx.x];
    if (top_p) {
        for (u32 i = threadIdx.x; i < BINS; i += THREADS) {
            const u64 weight = (u64)shared.sums.high[i] << 32 | shared.sums.low[i];
            if (weight > 0) atomicAdd(bins + i, weight);
        }
    }
    if (!is_last(state, shared)) return NEVER;
    const u64 own = threadIdx.x < (args.vocabulary + CHUNK - 1) / CHUNK ? chunks[threadIdx.x] : 0;
    if (!top_p) return draw_in_chunks(row, shared, own, best, random, left);
    u64 total;
    scan_block(own, shared, total);
    __syncthreads();
    for (u32 i = threadIdx.x; i < BINS; i += THREADS) {
        const u64 weight = atomicExch(bins + i, 0ull);
        shared.sums.low[i] = (u32)weight, shared.sums.high[i] = (u32)(weight >> 32);
    }
    const u64 wanted = max((u64)ceil((double)sampling.top_p * (double)total), 1ull);
    if (!find_bin(shared, BINS, wanted)) return TO_SEARCH;
    return draw_from_few(args, row, shared, sampling, best, random, bins_per_unit, shared.bin, total);
}

// The rows that are pending, in the same parts: each block sums its weights, the last one of a row chooses.
extern "C" __global__ void __launch_bounds__(THREADS) weigh(SampleArgs args) {
    wait_for_previous();
    let_next_start();
    __shared__ Shared shared;
    const u32 slot = args.slots[blockIdx.y];
    RowState* state = args.states + blockIdx.y;
    if (slot >= args.slot_count || state->pending == 0) return;
    const SlotSampling sampling = args.sampling[slot];
    u32* seen = args.seen + (u64)slot * args.words;
    const LogitRow row = row_of(args, sampling, seen);
    const u64 best = state->best;
    const float random = args.randoms[blockIdx.y];
    u32 token = TO_SEARCH;
    if (state->pending == SUM) {
        token = draw_from_sums(args, row, shared, sampling, state, best, random);
        if (token == NEVER) return;
    } else if (!is_last(state, shared)) {
        return;
    }
    // The same for all threads of the block.
    if (token == TO_SEARCH) token = draw_from_all(row, shared, sampling, best, random);
    if (threadIdx.x == 0) {
        state->best = 0;
        state->ticket = 0;
        state->pending = 0;
        args.tokens[blockIdx.y] = token;
        if (row.seen != nullptr) seen[token / 32] |= 1u << token % 32;
    }
}

struct MarkArgs {
    u32* seen;  // the slot's
    const u32* tokens;
    u32 count;
    u32 padding;
};

extern "C" __global__ void __launch_bounds__(MARK_THREADS) mark(MarkArgs args) {
    wait_for_previous();
    const u32 i = blockIdx.x * MARK_THREADS + threadIdx.x;
    if (i < args.count) atomicOr(args.seen + args.tokens[i] / 32, 1u << args.tokens[i] % 32);
}
