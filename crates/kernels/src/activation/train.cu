// The activations in training: forward beside what went in, and their gradients.

// 1 / (1 + exp x), and exp x beside it. Of 16-bit results the special-function unit's exponential and quotient change no bit
// but where one lies at the edge of rounding, and full precision would take longer than memory does.
__device__ __forceinline__ float share_of(float x, float& tail) {
    if constexpr (sizeof(W) == 2) {
        tail = __expf(x);
        return __fdividef(1.0f, 1.0f + tail);
    }
    tail = expf(x);
    return 1.0f / (1.0f + tail);
}
// As gelu_tanh.
__device__ __forceinline__ float gelu_tanh_train(float x) {
    float tail;
    return x * share_of(x * fmaf(x * x, -0.071354814f, -1.5957692f), tail);
}
// The derivative of gelu_tanh; beyond 10 it is 0 or 1 in f32, and up to there the tail is finite.
__device__ __forceinline__ float gelu_tanh_slope(float x) {
    x = x < -10.0f ? -10.0f : x > 10.0f ? 10.0f : x;
    float tail, share = share_of(x * fmaf(x * x, -0.071354814f, -1.5957692f), tail);
    return fmaf(x * share * (tail * share), fmaf(x * x, 0.21406444f, 1.5957692f), share);
}
__device__ __forceinline__ float gelu_erf_slope(float x) {
    x = x < -16.0f ? -16.0f : x > 16.0f ? 16.0f : x;
    return fmaf(x * expf(-0.5f * x * x), 0.3989423f, 0.5f * erfcf(x * -0.70710678f));
}

struct Gelu {
    const W* x;    // [count]
    const W* dy;   // [count], or none: then the function itself is wanted
    W* out;        // [count]; may be dy
    u64 count;
    u32 kind;      // as GELU_TANH, GELU_ERF
};
template <int N> __device__ __forceinline__ void gelu(const Gelu& p, u64 at) {
    float x[N], dy[N];
    load(x, p.x + at);
    if (p.dy) load(dy, p.dy + at);
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (p.dy) x[i] = dy[i] * (p.kind == GELU_TANH ? gelu_tanh_slope(x[i]) : gelu_erf_slope(x[i]));
        else x[i] = p.kind == GELU_TANH ? gelu_tanh_train(x[i]) : gelu_erf(x[i]);
    }
    store(p.out + at, x);
}
extern "C" __global__ void __launch_bounds__(THREADS) gelu_train(Gelu p) {
    u64 at = ((u64)blockIdx.x * THREADS + threadIdx.x) * 8;
    if (at + 8 <= p.count) gelu<8>(p, at);
    else
        for (; at < p.count; at++) gelu<1>(p, at);
}

struct SiluMul {
    const W* gate_up;   // [rows][2m], the gate first
    const W* dy;        // [rows][m], or none: then the function itself is wanted
    W* out;             // [rows][m], or [rows][2m] of gradients
    u32 rows, width;    // m
};
template <int N> __device__ __forceinline__ void silu_mul(const SiluMul& p, u64 row, u32 at) {
    float gate[N], up[N], dy[N];
    const W* from = p.gate_up + row * 2 * p.width + at;
    load(gate, from);
    load(up, from + p.width);
    if (!p.dy) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            float tail;
            gate[i] *= share_of(-gate[i], tail) * up[i];
        }
        store(p.out + row * p.width + at, gate);
        return;
    }
    load(dy, p.dy + row * p.width + at);
#pragma unroll
    for (int i = 0; i < N; i++) {
        float tail, share = share_of(-gate[i], tail);
        float slope = share * fmaf(gate[i], 1.0f - share, 1.0f);
        float d_up = gate[i] * share * dy[i];
        gate[i] = dy[i] * up[i] * slope;
        up[i] = d_up;
    }
    W* to = p.out + row * 2 * p.width + at;
    store(to, gate);
    store(to + p.width, up);
}
template <int N> __device__ __forceinline__ void silu_mul_rows(const SiluMul& p) {
    u32 steps = p.width / N;
    u64 index = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (index < (u64)p.rows * steps) silu_mul<N>(p, index / steps, (u32)(index % steps) * N);
}
// Eight at once need a width that divides so.
extern "C" __global__ void __launch_bounds__(THREADS) silu_mul_train_8(SiluMul p) { silu_mul_rows<8>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) silu_mul_train_1(SiluMul p) { silu_mul_rows<1>(p); }
