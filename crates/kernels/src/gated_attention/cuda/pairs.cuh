// Numbers of the pairs of a key tile and a query tile in memory, 64 x 64, in the order in which the threads of a turned product
// hold them: a thread's 32 in chunks of 16 bytes, chunk by chunk over all threads.

constexpr u32 PAIR_CHUNK = 16 / sizeof(W), PAIR_CHUNKS = SIDE * SIDE / THREADS / PAIR_CHUNK;

// 16 bytes in one access: plain stores the compiler takes apart among products.
__device__ __forceinline__ void put_chunk(void* to, uint4 x) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}
// Eight of a thread's: of row `half` and the columns of pieces 4 `part` to 4 `part` + 3.
__device__ __forceinline__ void put_eight(W* to, u32 half, u32 part, const float (&eight)[8]) {
#pragma unroll
    for (u32 i = 0; i < 8; i += PAIR_CHUNK) {
        u32 chunk = (half * 16 + part * 8 + i) / PAIR_CHUNK;
        uint4 words;
        store((W*)&words, *(const float(*)[PAIR_CHUNK])&eight[i]);
        put_chunk(to + (chunk * THREADS + threadIdx.x) * PAIR_CHUNK, words);
    }
}
__device__ __forceinline__ void put_pairs(W* to, const float (&pairs)[SIDE / 8][4]) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        float eight[8];
#pragma unroll
        for (u32 k = 0; k < 8; k++) eight[k] = pairs[i % 2 * 4 + k / 2][i / 2 * 2 + k % 2];
        put_eight(to, i / 2, i % 2, eight);
    }
}
// What was put, on its way from memory.
struct PairWords {
    uint4 words[PAIR_CHUNKS];
    __device__ __forceinline__ void start(const W* from) {
#pragma unroll
        for (u32 i = 0; i < PAIR_CHUNKS; i++) words[i] = ((const uint4*)from)[i * THREADS + threadIdx.x];
    }
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (u32 i = 0; i < PAIR_CHUNKS; i++) words[i] = make_uint4(0, 0, 0, 0);
    }
    // Of this thread's row `half`, in the order of its columns.
    __device__ __forceinline__ void row(float (&row)[SIDE / 4], u32 half) const {
#pragma unroll
        for (u32 i = 0; i < SIDE / 4; i += PAIR_CHUNK)
            load(*(float(*)[PAIR_CHUNK])&row[i], (const W*)&words[(half * (SIDE / 4) + i) / PAIR_CHUNK]);
    }
    __device__ __forceinline__ void add_to(float (&pairs)[SIDE / 8][4]) const {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float numbers[SIDE / 4];
            row(numbers, half);
#pragma unroll
            for (u32 i = 0; i < SIDE / 4; i++) pairs[i / 2][half * 2 + i % 2] += numbers[i];
        }
    }
};

// The logarithms of what 16 neighbouring queries see of a key, as they come from memory.
struct LogRow {
    static constexpr u32 EACH = 16 / sizeof(Log);
    uint4 words[16 / EACH];
    __device__ __forceinline__ void start(const Log* from) {
#pragma unroll
        for (u32 i = 0; i < 16 / EACH; i++) words[i] = ((const uint4*)from)[i];
    }
    __device__ __forceinline__ float get(u32 i) const {
        const uint4& four = words[i / EACH];
        u32 at = i % EACH * sizeof(Log) / 4, word = at == 0 ? four.x : at == 1 ? four.y : at == 2 ? four.z : four.w;
        if constexpr (sizeof(Log) == 2) return i % 2 ? widen2<f16>(word).y : widen2<f16>(word).x;
        else return __uint_as_float(word);
    }
};
