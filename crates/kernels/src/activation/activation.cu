// Activations on their own: after a product whose library has no such epilogue, and for gated blocks of many rows.

// Numbers in 16 bytes.
constexpr u32 STEP = 16 / sizeof(W);

struct Gelu {
    W* x;
    u64 count;
    u32 kind;
};

// In place; a thread takes 16 bytes, the last one what is left.
extern "C" __global__ void __launch_bounds__(ACTIVATION_THREADS) gelu(Gelu p) {
    let_next_start();
    wait_for_previous();
    u64 at = ((u64)blockIdx.x * ACTIVATION_THREADS + threadIdx.x) * STEP;
    if (at + STEP <= p.count) {
        float x[STEP];
        load(x, p.x + at);
#pragma unroll
        for (u32 i = 0; i < STEP; i++) x[i] = activate(p.kind, x[i]);
        store(p.x + at, x);
    } else {
        for (; at < p.count; at++) p.x[at] = narrow<W>(activate(p.kind, widen(p.x[at])));
    }
}

struct SiluMul {
    const W* gate_up;   // [rows][2 m], the gate first
    W* out;             // [rows][m]
    u64 rows;
    u32 width;
};

extern "C" __global__ void __launch_bounds__(ACTIVATION_THREADS) silu_mul(SiluMul p) {
    let_next_start();
    wait_for_previous();
    u64 thread = (u64)blockIdx.x * ACTIVATION_THREADS + threadIdx.x;
    u32 each = (p.width + STEP - 1) / STEP;
    u64 row = thread / each;
    if (row >= p.rows) return;
    u32 at = (u32)(thread % each) * STEP;
    const W* gate = p.gate_up + row * 2 * p.width + at;
    const W* up = gate + p.width;
    W* out = p.out + row * p.width + at;
    if (p.width % STEP == 0) {
        float a[STEP], b[STEP];
        load(a, gate);
        load(b, up);
#pragma unroll
        for (u32 i = 0; i < STEP; i++) a[i] = silu_times(a[i], b[i]);
        store(out, a);
    } else {
        u32 count = p.width - at < STEP ? p.width - at : STEP;
        for (u32 i = 0; i < count; i++) out[i] = narrow<W>(silu_times(widen(gate[i]), widen(up[i])));
    }
}

struct Finish {
    W* x;                // [rows][width], or none
    float* wide;         // [rows][width] where x is none
    const float* bias;   // [width], or none
    u64 count;
    u32 width, kind;
};

// x = activation(x + bias), in place: what a product's library could not do itself.
extern "C" __global__ void __launch_bounds__(ACTIVATION_THREADS) finish(Finish p) {
    let_next_start();
    wait_for_previous();
    u64 at = (u64)blockIdx.x * ACTIVATION_THREADS + threadIdx.x;
    if (at >= p.count) return;
    float bias = p.bias ? p.bias[at % p.width] : 0.0f;
    if (p.x) {
        p.x[at] = narrow<W>(activate(p.kind, widen(p.x[at]) + bias));
    } else {
        p.wide[at] = activate(p.kind, p.wide[at] + bias);
    }
}
