// AdamW over a range of parameters of any tensors, with the copy that products read.

// What a step's squares decide, so that nobody waits for the host to decide it.
struct Judge {
    const double* found;      // [1]: whether anything else is not finite
    const double* squares;    // [2][apart]: of `count` ranges, in two sums each
    float* verdict;           // [2]: what clipped gradients are multiplied by; whether the step moves
    double clip;              // 0 for never
    u32 count, apart;
    u32 clipped, padding;     // a bit for each range whose gradients are clipped together
};
extern "C" __global__ void judge(Judge p) {
    bool moves = *p.found == 0.0;
    double squares = 0.0;
    for (u32 i = 0; i < p.count; i++) {
        double own = p.squares[i] + p.squares[p.apart + i];
        moves = moves && isfinite(own);
        if (p.clipped >> i & 1) squares += own;
    }
    // As torch's clip_grad_norm_.
    double scale = p.clip > 0.0 ? fmin(p.clip / (sqrt(squares) + 1e-6), 1.0) : 1.0;
    p.verdict[0] = (float)scale;
    p.verdict[1] = moves ? 1.0f : 0.0f;
}

struct Step {
    float* parameters;
    const float* gradients;
    float* first;
    float* second;
    W* working;             // or none
    const u64* stretches;   // [blocks][2]: begin, a multiple of 4, and end
    const float* verdict;
    u32 is_clipped;
    float gradient_scale, beta1, beta2, epsilon;
    float decay, rate, root;   // what remains of a parameter; the rate over the first moment's correction; the root of the second's
};
template <int N> __device__ __forceinline__ void move(const Step& p, float scale, u64 at) {
    float x[N], g[N], m[N], v[N];
    load(x, p.parameters + at);
    load(g, p.gradients + at);
    load(m, p.first + at);
    load(v, p.second + at);
#pragma unroll
    for (int i = 0; i < N; i++) {
        g[i] *= scale;
        // As torch's lerp.
        m[i] = fmaf(g[i] - m[i], 1.0f - p.beta1, m[i]);
        v[i] = fmaf(g[i] * g[i], 1.0f - p.beta2, v[i] * p.beta2);
        x[i] = x[i] * p.decay - m[i] * p.rate / (sqrtf(v[i]) / p.root + p.epsilon);
    }
    store(p.parameters + at, x);
    store(p.first + at, m);
    store(p.second + at, v);
    if (p.working) store(p.working + at, x);
}
extern "C" __global__ void __launch_bounds__(THREADS) adamw(Step p) {
    ulonglong2 bounds = ((const ulonglong2*)p.stretches)[blockIdx.x];
    float clip = p.verdict[0], moves = p.verdict[1];
    if (moves == 0.0f) return;
    float scale = p.is_clipped ? p.gradient_scale * clip : p.gradient_scale;
    for (u64 at = bounds.x + threadIdx.x * 4; at < bounds.y; at += THREADS * 4) {
        if (at + 4 <= bounds.y) move<4>(p, scale, at);
        else
            for (u64 last = at; last < bounds.y; last++) move<1>(p, scale, last);
    }
}

struct Narrow {
    const float* from;
    W* to;
    u64 count;
};
extern "C" __global__ void __launch_bounds__(THREADS) narrow_copy(Narrow p) {
    u64 at = ((u64)blockIdx.x * THREADS + threadIdx.x) * 4;
    if (at + 4 <= p.count) {
        float x[4];
        load(x, p.from + at);
        store(p.to + at, x);
    } else {
        for (; at < p.count; at++) p.to[at] = narrow<W>(p.from[at]);
    }
}

// The maps of the gates: their products keep f32's precision as three products of 16 bits each.
struct Split {
    const float* from;    // [rows][c]
    const float* scale;   // [c], or none
    W* high;              // [rows][c]: the scaled numbers
    bf16* rest;           // [rows][c]: what rounding left over, or none
    u64 count;
};
extern "C" __global__ void __launch_bounds__(THREADS) split(Split p) {
    u64 at = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.count) return;
    float x = p.from[at] * (p.scale ? p.scale[at % HIDDEN] : 1.0f);
    p.high[at] = narrow<W>(x);
    if (p.rest) p.rest[at] = narrow<bf16>(x - widen(narrow<W>(x)));
}

struct AddScaled {
    const float* from;    // [rows][c]
    const float* scale;   // [c]
    float* to;            // [rows][c], added to
    u64 count;
};
extern "C" __global__ void __launch_bounds__(THREADS) add_scaled(AddScaled p) {
    u64 at = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (at < p.count) p.to[at] += p.from[at] * p.scale[at % HIDDEN];
}

// Zeros where a pass adds: stretches of the gradients, each short enough for one block.
struct Clear {
    float* numbers;
    const u64* stretches;   // [n][2]: begin, end
};
extern "C" __global__ void __launch_bounds__(THREADS) clear(Clear p) {
    u64 end = p.stretches[2 * blockIdx.x + 1];
    for (u64 at = p.stretches[2 * blockIdx.x] + threadIdx.x; at < end; at += THREADS) p.numbers[at] = 0.0f;
}
