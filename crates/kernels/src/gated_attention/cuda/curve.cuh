// The alpha-sigmoid as the processor solves it (alpha_sigmoid/solve.rs): the logarithm of the smaller of p and 1 - p from a mesh
// of cubics, everything else from the equation itself; at alpha 2 p is a straight line.

struct Curve {
    float a;                     // alpha - 1; 0 for the logistic function
    float bound, bound_rest;     // 1 / a in two parts; the bound is infinite for the logistic function
    float start, length;         // of the mesh
    float to_mesh;               // -1 / min(a, 1)
    u32 origin, last;            // numbers of the first cell and of the last after it
    const float4* cells;
    // The numbers, then the cells (Rust: cuda/curve.rs).
    __device__ __forceinline__ explicit Curve(const float* from)
        : a(from[0]), bound(from[1]), bound_rest(from[2]), start(from[3]), length(from[4]), to_mesh(from[5]),
          origin(__float_as_uint(from[6])), last(__float_as_uint(from[7])), cells((const float4*)from + 2) {}
};
constexpr u32 MESH_SHIFT = 17;
constexpr float SMALLEST = 1.17549435e-38f;
// Where p is 0 in f32 without subnormals.
constexpr float LOWEST_LOG = -87.0f;

// ln(a + rest), of a rest far below a: to its last bits also near 1 (the polynomial of Cephes' logf, as on the processor).
__device__ __forceinline__ float precise_log(float a, float rest) {
    u32 bits = __float_as_uint(a), shift = bits - 0x3f3504f3u;
    float exponent = (float)((int)shift >> 23), f = __uint_as_float(bits - (shift & 0xff800000u)) - 1.0f;
    float p = 7.0376836e-2f;
    p = fmaf(p, f, -1.151461e-1f), p = fmaf(p, f, 1.1676999e-1f), p = fmaf(p, f, -1.2420141e-1f), p = fmaf(p, f, 1.4249323e-1f);
    p = fmaf(p, f, -1.6668057e-1f), p = fmaf(p, f, 2.0000715e-1f), p = fmaf(p, f, -2.4999994e-1f), p = fmaf(p, f, 3.333333e-1f);
    float square = f * f, low = p * f * square;
    low = fmaf(exponent, -2.1219444e-4f, low);
    low = fmaf(square, -0.5f, low);
    low += __fdividef(rest, a);
    return fmaf(exponent, 0.6933594f, f + low);
}

// ln(a + rest) in powers of two. In 16 bits the chip's own, which is off by 2^-22 near 1: scores are no better there.
__device__ __forceinline__ float log2_of(float a, float rest) {
    if constexpr (PARTS == 1) return precise_log(a, rest) * LOG2_E;
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(a));
    return y;
}
// `x` within 0 and 1; no number stays none.
__device__ __forceinline__ float clamped(float x) {
    float y;
    asm("{\n\t.reg .f32 t;\n\tmax.NaN.f32 t, %1, 0f00000000;\n\tmin.NaN.f32 %0, t, 0f3f800000;\n\t}" : "=f"(y) : "f"(x));
    return y;
}

// ln p in powers of two, and d ln p / dx: -infinity and 0 where p is 0, both 0 where it is 1. Without a branch, so that the
// compiler solves several side by side.
template <bool LOG, bool SLOPE> __device__ __forceinline__ void solve(const Curve& curve, float x, float& log2_p, float& slope) {
    float size = fabsf(x), shift = curve.a * size, inner = 1.0f - shift;
    // 1 - a |x|, from whichever end loses less: near the bound the difference of x and the bound is exact.
    bool low = shift < 0.5f;
    float width = low ? inner : curve.a * (curve.bound - size + curve.bound_rest), rest = low ? 1.0f - inner - shift : 0.0f;
    float y = curve.a > 0.0f ? log2_of(fmaxf(width, SMALLEST), rest) * (LN_2 * curve.to_mesh) : size;
    y = fminf(fmaxf(y, 0.0f), curve.length);
    u32 bits = __float_as_uint(y + curve.start), cell = bits >> MESH_SHIFT;
    float at = __uint_as_float(bits) - __uint_as_float(cell << MESH_SHIFT);
    float4 c = __ldg(curve.cells + min(cell - curve.origin, curve.last));
    float t = fmaf(fmaf(fmaf(c.w, at, c.z), at, c.y), at, c.x);
    bool saturated = width < SMALLEST || t < LOWEST_LOG;
    float power = t * LOG2_E, small = two_to(power), large = 1.0f - small;
    if (LOG) {
        float solved = x < 0.0f ? power : log2_of(large, 1.0f - large - small);
        solved = saturated ? (x < 0.0f ? -infinity() : 0.0f) : solved;
        log2_p = x == x ? solved : x;
    }
    if (SLOPE) {
        // 1 / (p^a + p (1-p)^(a-1)), on either side.
        float small_power = two_to(curve.a * power), large_power = small_power + shift;
        float below = fmaf(__fdividef(small, large), large_power, small_power), above = fmaf(__fdividef(large, small), small_power, large_power);
        slope = saturated ? 0.0f : reciprocal(x < 0.0f ? below : above);
        slope = x == x ? slope : x;
    }
}
// Scores become ln p in powers of two.
template <u32 N> __device__ __forceinline__ void become_logs(const Curve& curve, float* x) {
    // A straight line needs no equation.
    if (curve.a == 1.0f) {
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            float p = clamped(fmaf(x[i], 0.5f, 0.5f));
            x[i] = p == 0.0f ? -infinity() : log2_of(p, 0.0f);
        }
        return;
    }
    // From here on a vote is exactly 1: steep curves spare most of the work.
    float bound = curve.a > 0.0f ? curve.bound : HUGE;
#pragma unroll
    for (u32 i = 0; i < N; i += 4) {
        bool any = false;
#pragma unroll
        for (u32 k = i; k < i + 4; k++) any |= !(x[k] >= bound);
        any = __any_sync(ALL, any);
#pragma unroll
        for (u32 k = i; k < i + 4; k++) {
            float log2_p = 0.0f, slope;
            if (any) solve<true, false>(curve, x[k], log2_p, slope);
            x[k] = log2_p;
        }
    }
}
// Scores become d ln p / dx.
template <u32 N> __device__ __forceinline__ void become_slopes(const Curve& curve, float* x) {
    float bound = curve.a > 0.0f ? curve.bound : HUGE;
    if (curve.a == 1.0f) {
#pragma unroll
        for (u32 i = 0; i < N; i++) x[i] = fabsf(x[i]) >= bound ? 0.0f : reciprocal(1.0f + x[i]);
        return;
    }
#pragma unroll
    for (u32 i = 0; i < N; i += 4) {
        bool any = false;
#pragma unroll
        for (u32 k = i; k < i + 4; k++) any |= !(fabsf(x[k]) >= bound);
        any = __any_sync(ALL, any);
#pragma unroll
        for (u32 k = i; k < i + 4; k++) {
            float log2_p, slope = 0.0f;
            if (any) solve<false, true>(curve, x[k], log2_p, slope);
            x[k] = slope;
        }
    }
}
