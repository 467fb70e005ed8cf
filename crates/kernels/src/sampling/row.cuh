// A row of logits, and what one block does with it. Sums are of integers, so neither the order of atomics nor the number
// of blocks shows.

struct SlotSampling {
    float temperature;
    u32 top_k;
    float top_p, min_p, repetition_penalty;
};
// From the host: CHUNK logits are read by a block at once, a row has CHUNKS of them at most.
static_assert(CHUNK == 4 * THREADS && CHUNKS == THREADS, "four logits and one chunk for each thread");
constexpr u32 WARPS = THREADS / 32;
constexpr u32 DIGITS = 256;
constexpr u32 CANDIDATES = 8 * THREADS;  // that are sorted in shared memory, at most

// Integers that are ordered as floats are, -0 below 0.
__device__ __forceinline__ u32 ordered(float x) {
    const u32 bits = __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float unordered(u32 x) { return __uint_as_float(x & 0x80000000u ? x & 0x7fffffffu : ~x); }
// Likelier tokens first, equal ones by number: the larger rank comes first.
__device__ __forceinline__ u64 rank(float logit, u32 token) { return (u64)ordered(logit) << 32 | (u32)~token; }

struct LogitRow {
    const float* logits;
    const u32* seen;  // null where there is no penalty
    float penalty;
    u32 vocabulary;
    bool aligned;  // rows begin at multiples of 16 bytes and reach to one

    // Calls f(first token, four penalised logits, four untouched ones, how many of them there are) for each thread's
    // part of from..to, all threads of a warp together. `from` is a multiple of CHUNK.
    // Each thread reads AHEAD times 4 logits at once.
    template <u32 AHEAD, typename F> __device__ __forceinline__ void each(u32 from, u32 to, F f) const {
        for (u32 first = from; first < to; first += CHUNK * AHEAD) {
            float raw[AHEAD][4];
#pragma unroll
            for (u32 a = 0; a < AHEAD; a++) {
                const u32 token = first + a * CHUNK + 4 * threadIdx.x;
                if (aligned) {
                    const float4 x = token < to ? *(const float4*)(logits + token) : make_float4(0, 0, 0, 0);
                    raw[a][0] = x.x, raw[a][1] = x.y, raw[a][2] = x.z, raw[a][3] = x.w;
                } else {
#pragma unroll
                    for (u32 j = 0; j < 4; j++) raw[a][j] = token + j < to ? logits[token + j] : 0;
                }
            }
#pragma unroll
            for (u32 a = 0; a < AHEAD; a++) {
                if (first + a * CHUNK >= to) break;
                const u32 token = first + a * CHUNK + 4 * threadIdx.x;
                const u32 count = token < to ? min(to - token, 4u) : 0;
                float x[4] = {raw[a][0], raw[a][1], raw[a][2], raw[a][3]};
                if (seen != nullptr && count > 0) {
                    const u32 word = seen[token / 32] >> token % 32;
#pragma unroll
                    for (u32 j = 0; j < 4; j++) {
                        if (word >> j & 1) x[j] = x[j] > 0 ? x[j] / penalty : x[j] * penalty;
                    }
                }
                f(token, x, raw[a], count);
            }
        }
    }
};

// Sums of 64 bits in two halves, because shared memory adds only 32 at once. It has a name because CUDA 12.4 knows no
// structure without one inside a union.
struct Sums {
    u32 low[BINS], high[BINS];
    u64 chunks[CHUNKS];
};
struct Shared {
    u64 warp_sums[WARPS];
    union {
        Sums sums;
        u64 list[CANDIDATES];
    };
    u64 before, inside;         // of the bin in which a sum is reached
    u32 bin;
    u32 warp_bad[WARPS];
    u64 best;
    u32 bad;
    u32 token;
    u32 count;  // of candidates
    bool last;
};

// The sum over the threads before this one, and over all; every thread must come.
__device__ __forceinline__ u64 scan_block(u64 x, Shared& shared, u64& total) {
    const u32 thread = threadIdx.x % 32;
    u64 sum = x;
#pragma unroll
    for (u32 i = 1; i < 32; i *= 2) {
        const u64 before = __shfl_up_sync(ALL, sum, i);
        if (thread >= i) sum += before;
    }
    __syncthreads();
    if (thread == 31) shared.warp_sums[threadIdx.x / 32] = sum;
    __syncthreads();
    u64 before = 0;
    total = 0;
#pragma unroll
    for (u32 i = 0; i < WARPS; i++) {
        if (i < threadIdx.x / 32) before += shared.warp_sums[i];
        total += shared.warp_sums[i];
    }
    return before + sum - x;
}

__device__ __forceinline__ void clear_bins(Shared& shared, u32 count) {
    __syncthreads();
    for (u32 i = threadIdx.x; i < count; i += THREADS) shared.sums.low[i] = shared.sums.high[i] = 0;
    __syncthreads();
}
__device__ __forceinline__ void add_to_bin(Shared& shared, u32 bin, u64 x) {
    const u32 old = atomicAdd(&shared.sums.low[bin], (u32)x), carry = old + (u32)x < old;
    if ((u32)(x >> 32) + carry > 0) atomicAdd(&shared.sums.high[bin], (u32)(x >> 32) + carry);
}
// Finds the bin in which the running sum reaches `wanted`, and what comes before it and lies in it; false where the sum
// of all does not reach it.
__device__ __forceinline__ bool find_bin(Shared& shared, u32 count, u64 wanted) {
    constexpr u32 OWN = BINS / THREADS;
    u64 own[OWN], sum = 0, total;
    __syncthreads();
#pragma unroll
    for (u32 i = 0; i < OWN; i++) {
        const u32 bin = threadIdx.x * OWN + i;
        own[i] = bin < count ? (u64)shared.sums.high[bin] << 32 | shared.sums.low[bin] : 0;
        sum += own[i];
    }
    u64 before = scan_block(sum, shared, total);
#pragma unroll
    for (u32 i = 0; i < OWN; i++) {
        if (before < wanted && wanted <= before + own[i]) {
            shared.bin = threadIdx.x * OWN + i;
            shared.before = before;
            shared.inside = own[i];
        }
        before += own[i];
    }
    __syncthreads();
    return wanted <= total;
}

// Bins of equal width from the largest logit down; the last one takes all that is left.
__device__ __forceinline__ u32 bin_below(float largest, float logit, float bins_per_unit) {
    const float place = (largest - logit) * bins_per_unit;
    return place >= (float)(BINS - 1) ? BINS - 1 : (u32)place;
}

// The rank of the last token of the shortest list, likeliest first, whose measures add up to `wanted` (at least 1);
// `least` where all from there on do not. Only tokens of rank `least` and more count.
//
// Two levels: bins of equal width below the largest logit, which spread real logits well, then the digits of the rank
// within the bin in which the sum is reached.
template <typename M>
__device__ __noinline__ u64 last_of(const LogitRow& row, Shared& shared, float largest, float bins_per_unit, u64 least, u64 wanted, M measure) {
    auto bin_of = [&](float logit) { return bin_below(largest, logit, bins_per_unit); };
    clear_bins(shared, BINS);
    row.each<1>(0, row.vocabulary, [&](u32 token, const float (&x)[4], const float (&)[4], u32 count) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            if (j >= count || rank(x[j], token + j) < least) continue;
            const u64 weight = measure(x[j]);
            if (weight > 0) add_to_bin(shared, bin_of(x[j]), weight);
        }
    });
    if (!find_bin(shared, BINS, wanted)) return least;
    const u32 bin = shared.bin;
    wanted -= shared.before;
    u64 prefix = 0;
    u32 shift = 64;
    // Until the list ends with the last of all that share the digits so far.
    do {
        shift -= 8;
        clear_bins(shared, DIGITS);
        row.each<1>(0, row.vocabulary, [&](u32 token, const float (&x)[4], const float (&)[4], u32 count) {
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                const u64 own = rank(x[j], token + j);
                if (j >= count || own < least || bin_of(x[j]) != bin) continue;
                if (shift < 56 && own >> (shift + 8) != prefix) continue;
                const u64 weight = measure(x[j]);
                if (weight > 0) add_to_bin(shared, DIGITS - 1 - (u32)(own >> shift & 255), weight);
            }
        });
        if (!find_bin(shared, DIGITS, wanted)) return least;
        prefix = prefix << 8 | (DIGITS - 1 - shared.bin);
        wanted -= shared.before;
    } while (shift > 0 && shared.inside != wanted);
    if (shift == 0) return prefix;
    // Tokens of a lower bin may share the digits too: the answer is the lowest rank within this one.
    u64 lowest = ~0ull;
    row.each<1>(0, row.vocabulary, [&](u32 token, const float (&x)[4], const float (&)[4], u32 count) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            const u64 own = rank(x[j], token + j);
            if (j >= count || own < least || bin_of(x[j]) != bin || own >> shift != prefix) continue;
            if (own < lowest && measure(x[j]) > 0) lowest = own;
        }
    });
    if (threadIdx.x == 0) shared.best = ~0ull;
    __syncthreads();
    atomicMin(&shared.best, lowest);
    __syncthreads();
    lowest = shared.best;
    __syncthreads();
    return lowest;
}

// How likely tokens are beside the likeliest.
struct Likelihood {
    float largest, temperature;
    // +0 and -0 are equally likely, and the largest is the untouched one of the two only up to its sign.
    __device__ __forceinline__ Likelihood(u64 best, float temperature) : largest(unordered((u32)(best >> 32))), temperature(temperature) {}
    __device__ __forceinline__ float share(float logit) const { return expf((logit - largest) / temperature); }
    // 40 bits after the point: 2^20 tokens fit, and what is rounded to 0 adds up to less than 2^-20.
    __device__ __forceinline__ u64 weight(float logit) const { return (u64)(share(logit) * 1099511627776.0f); }
};

// Adds left(logit, token) of the tokens from..to to the sums of their chunks, the first of which is chunk 0.
template <u32 AHEAD, typename F> __device__ __forceinline__ void sum_chunks(const LogitRow& row, Shared& shared, u32 from, u32 to, F left) {
    row.each<AHEAD>(from, to, [&](u32 token, const float (&x)[4], const float (&)[4], u32 count) {
        u64 sum = 0;
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            if (j < count) sum += left(x[j], token + j);
        }
#pragma unroll
        for (u32 i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(ALL, sum, i);
        if (threadIdx.x % 32 == 0 && sum > 0) atomicAdd(&shared.sums.chunks[(token - from) / CHUNK], sum);
    });
}

// The token at `random` of the sum of left(logit, token), or the best one where that is 0; thread i knows the sum of
// chunk i.
template <typename F>
__device__ __forceinline__ u32 draw_in_chunks(const LogitRow& row, Shared& shared, u64 own, u64 best, float random, F left) {
    if (threadIdx.x == 0) shared.token = ~(u32)best;
    u64 total;
    const u64 before = scan_block(own, shared, total);
    if (total == 0) return shared.token;
    const u64 target = min((u64)((double)random * (double)total), total - 1);
    if (before <= target && target < before + own) {
        shared.bin = threadIdx.x;
        shared.before = before;
    }
    __syncthreads();
    const u32 first = shared.bin * CHUNK;
    const u64 rest = target - shared.before;
    row.each<1>(first, min(first + CHUNK, row.vocabulary), [&](u32 token, const float (&x)[4], const float (&)[4], u32 count) {
        u64 own[4], sum = 0, all;
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            own[j] = j < count ? left(x[j], token + j) : 0;
            sum += own[j];
        }
        u64 before = scan_block(sum, shared, all);
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            if (before <= rest && rest < before + own[j]) shared.token = token + j;
            before += own[j];
        }
    });
    __syncthreads();
    return shared.token;
}

// A token drawn from the row's distribution after the filters, by one block, whatever the logits are.
__device__ __noinline__ u32 draw_from_all(const LogitRow& row, Shared& shared, const SlotSampling& sampling, u64 best, float random) {
    const Likelihood likelihood(best, sampling.temperature);
    const float largest = likelihood.largest, temperature = likelihood.temperature;
    auto weight = [&](float logit) { return likelihood.weight(logit); };
    u64 least = 0;
    if (sampling.top_k > 0 && sampling.top_k < row.vocabulary) {
        least = last_of(row, shared, largest, 64, least, sampling.top_k, [](float) { return 1ull; });
    }
    if (sampling.top_p < 1) {
        u64 sum = 0, total;
        row.each<1>(0, row.vocabulary, [&](u32 token, const float (&x)[4], const float (&)[4], u32 count) {
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                if (j < count && rank(x[j], token + j) >= least) sum += weight(x[j]);
            }
        });
        scan_block(sum, shared, total);
        const u64 wanted = max((u64)ceil((double)sampling.top_p * (double)total), 1ull);
        least = last_of(row, shared, largest, 64 / temperature, least, wanted, weight);
    }
    auto left = [&](float logit, u32 token) {
        return rank(logit, token) >= least && likelihood.share(logit) >= sampling.min_p ? weight(logit) : 0;
    };
    __syncthreads();
    shared.sums.chunks[threadIdx.x] = 0;
    __syncthreads();
    sum_chunks<2>(row, shared, 0, row.vocabulary, left);
    __syncthreads();
    const u64 own = shared.sums.chunks[threadIdx.x];
    return draw_in_chunks(row, shared, own, best, random, left);
}

