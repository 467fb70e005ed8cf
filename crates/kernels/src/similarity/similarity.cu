// How similar a layer's attention left the rows of prompts: the cosine between the residual stream before and after it, summed over
// each sequence's tokens.

struct SimilarityArgs {
    const Row* rows;
    const Span* spans;
    const float* before;  // [rows][HIDDEN]
    const float* after;
    double* cosines;      // [rows]
    double* sums;         // [slots][layers]
    u32 count;            // rows
    u32 slots, layers, layer;
};

constexpr u32 WARPS = THREADS / 32;
__device__ __forceinline__ double warp_sum_f64(double x) {
#pragma unroll
    for (u32 i = 16; i > 0; i /= 2) x += __shfl_xor_sync(ALL, x, i);
    return x;
}
// Whether a row is a token of a sequence's prompt.
__device__ __forceinline__ bool counts(const SimilarityArgs& a, const Row& row) { return row.slot < a.slots && row.back >> 31; }

// A warp has a row.
extern "C" __global__ void __launch_bounds__(THREADS) similarity_rows(const __grid_constant__ SimilarityArgs a) {
    wait_for_previous();
    const u32 row = blockIdx.x * WARPS + threadIdx.x / 32, thread = threadIdx.x % 32;
    if (row >= a.count || !counts(a, a.rows[row])) return;
    const float *before = a.before + (u64)row * HIDDEN, *after = a.after + (u64)row * HIDDEN;
    double product = 0.0, first = 0.0, second = 0.0;
    for (u32 i = thread; i < HIDDEN; i += 32) {
        const double x = before[i], y = after[i];
        product += x * y, first += x * x, second += y * y;
    }
    product = warp_sum_f64(product), first = warp_sum_f64(first), second = warp_sum_f64(second);
    if (thread == 0) a.cosines[row] = product / (fmax(sqrt(first), 1e-8) * fmax(sqrt(second), 1e-8));
}

// A block has a span; its tokens are all of a prompt, or all behind it.
extern "C" __global__ void __launch_bounds__(THREADS) similarity_sums(const __grid_constant__ SimilarityArgs a) {
    __shared__ double parts[WARPS];
    wait_for_previous();
    const Span span = a.spans[blockIdx.x];
    if (span.queries == 0 || !counts(a, a.rows[span.first_row])) return;
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < span.queries; i += THREADS) sum += a.cosines[span.first_row + i];
    sum = warp_sum_f64(sum);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (u32 i = 1; i < WARPS; i++) sum += parts[i];
    a.sums[(u64)span.slot * a.layers + a.layer] += sum;
}
