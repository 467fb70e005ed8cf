// What a warp of `decode.cu` gathers from a unit, one KV head of one lane, and how parts of it are added up.

constexpr bool DECODES = SERVED && RATIO <= 16 && (CODE_BITS != 4 || HEAD_DIM % 32 == 0);
constexpr u32 NT = DECODES ? (RATIO + 7) / 8 : 1;
constexpr u32 MEMBERS = DECODES ? RATIO : 8;

// The transpose of an 8x8 matrix of 16-bit numbers that lies across the warp.
__device__ __forceinline__ u32 transposed(u32 x) {
    u32 y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

// The softmax of a unit: columns are the query heads 2 (thread % 4) and the next, of each tile of 8.
struct Softmax {
    float maximum[NT][2], sum[NT][2];

    __device__ __forceinline__ void begin() {
#pragma unroll
        for (u32 j = 0; j < NT; j++)
#pragma unroll
            for (u32 c = 0; c < 2; c++) maximum[j][c] = -infinity(), sum[j][c] = 0.0f;
    }
    // Tells scores of entries 8 n + thread / 4 to `told` [32][MEMBERS], if there is one.
    __device__ __forceinline__ static void tell(float* told, u32 j, u32 c, const float (&x)[4]) {
        if constexpr (STATISTICS > 0) {
            u32 thread = threadIdx.x & 31, member = j * 8 + 2 * (thread % 4) + c;
            if (told && member < MEMBERS) {
#pragma unroll
                for (u32 n = 0; n < 4; n++) told[(8 * n + thread / 4) * MEMBERS + member] = x[n];
            }
        }
    }
    // Makes weights of such scores; gives what was summed up with other weights is to be multiplied by.
    __device__ __forceinline__ float weigh(u32 j, u32 c, float (&x)[4]) {
        float top = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
#pragma unroll
        for (u32 lane = 4; lane < 32; lane *= 2) top = fmaxf(top, __shfl_xor_sync(ALL, top, lane));
        top = fmaxf(top, maximum[j][c]);
        float base = base_of(top);
        float keep = two_to(maximum[j][c] - base);
        maximum[j][c] = top;
#pragma unroll
        for (u32 n = 0; n < 4; n++) x[n] = two_to(x[n] - base);
        sum[j][c] = sum[j][c] * keep + ((x[0] + x[1]) + (x[2] + x[3]));
        return keep;
    }
    // A sum over this thread's entries becomes one over all.
    __device__ __forceinline__ static float over_entries(float x) {
#pragma unroll
        for (u32 lane = 4; lane < 32; lane *= 2) x += __shfl_xor_sync(ALL, x, lane);
        return x;
    }
    __device__ __forceinline__ void end() {
#pragma unroll
        for (u32 j = 0; j < NT; j++)
#pragma unroll
            for (u32 c = 0; c < 2; c++) sum[j][c] = over_entries(sum[j][c]);
    }
    template <typename S> __device__ __forceinline__ void leave_stats(S* stats) const {
        u32 thread = threadIdx.x & 31;
        if (thread < 4) {
#pragma unroll
            for (u32 j = 0; j < NT; j++)
#pragma unroll
                for (u32 c = 0; c < 2; c++) {
                    u32 member = j * 8 + 2 * thread + c;
                    if (member < MEMBERS) stats[member] = S{{maximum[j][c], sum[j][c]}};
                }
        }
    }
};

// What a warp knows of the unit that it is in, over numbers.
struct State : Softmax {
    u32 query[D / 16][NT][2];
    float mixed[D / 16][NT][4];
    typedef u32 Weights[2][NT][2];   // 16 entries of 8 query heads each, as the tensor cores take them

    __device__ __forceinline__ void begin(const W* rows) {
        u32 thread = threadIdx.x & 31;
#pragma unroll
        for (u32 j = 0; j < NT; j++) {
            u32 member = j * 8 + thread / 4;
            const W* row = rows + member * D + 2 * (thread % 4);
#pragma unroll
            for (u32 i = 0; i < D / 16; i++) {
                query[i][j][0] = member < MEMBERS ? pair_of(row + i * 16) : 0;
                query[i][j][1] = member < MEMBERS ? pair_of(row + i * 16 + 8) : 0;
#pragma unroll
                for (u32 k = 0; k < 4; k++) mixed[i][j][k] = 0.0f;
            }
        }
        Softmax::begin();
    }

    // Scores of a tile of keys, as weights. They are told as they are to `told` [32][MEMBERS], if there is one.
    __device__ __forceinline__ void keys(const u8* memory, u32 seen, float scale, float* told, Weights& weights) {
        const u32 tile = shared_address(memory);
        u32 thread = threadIdx.x & 31;
        u32 offset = chunk_offset(thread & 15, thread >> 4);
        // Two chains of products each, because one product waits long for the one before.
        float score[2][NT][4], other[2][NT][4];
#pragma unroll
        for (u32 i = 0; i < 2; i++)
#pragma unroll
            for (u32 j = 0; j < NT; j++)
#pragma unroll
                for (u32 k = 0; k < 4; k++) score[i][j][k] = other[i][j][k] = 0.0f;
#pragma unroll
        for (u32 step = 0; step < D / 16; step++) {
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                u32 a[4];
                load_matrices(a, tile + i * 16 * ROW_BYTES + chunks_right(offset, step));
#pragma unroll
                for (u32 j = 0; j < NT; j++) {
                    mma<T>(step % 2 ? other[i][j] : score[i][j], a, query[step][j][0], query[step][j][1]);
                }
            }
        }
        u32 mine = seen >> (thread / 4); // bit 8 n is entry 8 n + thread / 4
        bool moved = false;
        float keep[NT][2];
#pragma unroll
        for (u32 j = 0; j < NT; j++) {
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                float x[4];
#pragma unroll
                for (u32 n = 0; n < 4; n++) {
                    float dot = score[n / 2][j][n % 2 * 2 + c] + other[n / 2][j][n % 2 * 2 + c];
                    x[n] = mine >> (8 * n) & 1 ? dot * scale : -infinity();
                }
                tell(told, j, c, x);
                keep[j][c] = weigh(j, c, x);
                moved |= keep[j][c] != 1.0f;
#pragma unroll
                for (u32 n = 0; n < 4; n++) score[n / 2][j][n % 2 * 2 + c] = x[n];
            }
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                weights[i][j][0] = transposed(narrow2<T>(score[i][j][0], score[i][j][1]));
                weights[i][j][1] = transposed(narrow2<T>(score[i][j][2], score[i][j][3]));
            }
        }
        if (__any_sync(ALL, moved)) {
#pragma unroll
            for (u32 i = 0; i < D / 16; i++)
#pragma unroll
                for (u32 j = 0; j < NT; j++)
#pragma unroll
                    for (u32 k = 0; k < 4; k++) mixed[i][j][k] *= keep[j][k % 2];
        }
    }

    __device__ __forceinline__ void values(const u8* memory, u32, const Weights& weights) {
        const u32 tile = shared_address(memory);
        u32 thread = threadIdx.x & 31;
        u32 offset = chunk_offset((thread & 7) + (thread >> 4) * 8, thread >> 3 & 1);
#pragma unroll
        for (u32 step = 0; step < 2; step++) {
#pragma unroll
            for (u32 i = 0; i < D / 16; i++) {
                u32 a[4];
                load_matrices_transposed(a, tile + step * 16 * ROW_BYTES + chunks_right(offset, i));
#pragma unroll
                for (u32 j = 0; j < NT; j++) mma<T>(mixed[i][j], a, weights[step][j][0], weights[step][j][1]);
            }
        }
    }

    // Calls `write(member, column, value, sum)` for all that this thread holds.
    template <typename Write> __device__ __forceinline__ void each(Write write) const {
        u32 thread = threadIdx.x & 31;
#pragma unroll
        for (u32 j = 0; j < NT; j++)
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                u32 member = j * 8 + 2 * (thread % 4) + c;
                if (member < MEMBERS) {
#pragma unroll
                    for (u32 i = 0; i < D / 16; i++) {
                        write(member, i * 16 + thread / 4, mixed[i][j][c], sum[j][c]);
                        write(member, i * 16 + 8 + thread / 4, mixed[i][j][c + 2], sum[j][c]);
                    }
                }
            }
    }
};
