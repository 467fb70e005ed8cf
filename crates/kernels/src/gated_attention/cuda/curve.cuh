// The alpha-sigmoid as the processor solves it (alpha_sigmoid/solve.rs): the logarithm of the smaller of p and 1 - p from a mesh
// of cubics, everything else from the equation itself.

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

// ln p, and d ln p / dx: -infinity and 0 where p is 0, both 0 where it is 1.
template <bool LOG, bool SLOPE> __device__ __forceinline__ void solve(const Curve& curve, float x, float& log_p, float& slope) {
    // No number stays none.
    log_p = slope = x == x ? 0.0f : x;
    if (x != x) return;
    float size = fabsf(x), shift = curve.a * size, width = 1.0f, y = fminf(size, curve.length);
    if (curve.a > 0.0f) {
        // 1 - a |x|, from whichever end loses less: near the bound the difference of x and the bound is exact.
        float inner = 1.0f - shift;
        width = shift < 0.5f ? inner : curve.a * (curve.bound - size + curve.bound_rest);
        if (width < SMALLEST) {
            if (x < 0.0f) log_p = -infinity();
            return;
        }
        float rest = shift < 0.5f ? 1.0f - inner - shift : 0.0f;
        y = fminf(fmaxf(precise_log(width, rest) * curve.to_mesh, 0.0f), curve.length);
    }
    u32 bits = __float_as_uint(y + curve.start), cell = bits >> MESH_SHIFT;
    float at = __uint_as_float(bits) - __uint_as_float(cell << MESH_SHIFT);
    float4 c = __ldg(curve.cells + min(cell - curve.origin, curve.last));
    float t = fmaf(fmaf(fmaf(c.w, at, c.z), at, c.y), at, c.x);
    if (t < LOWEST_LOG) {
        if (x < 0.0f) log_p = -infinity();
        return;
    }
    float small = two_to(t * LOG2_E), large = 1.0f - small;
    if (LOG) log_p = x < 0.0f ? t : precise_log(large, 1.0f - large - small);
    if (SLOPE) {
        // 1 / (p^a + p (1-p)^(a-1)), on either side.
        float small_power = two_to(curve.a * t * LOG2_E), large_power = small_power + shift;
        float below = fmaf(__fdividef(small, large), large_power, small_power), above = fmaf(__fdividef(large, small), small_power, large_power);
        slope = __fdividef(1.0f, x < 0.0f ? below : above);
    }
}
