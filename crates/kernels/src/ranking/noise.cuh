// Numbers that are a function of a seed and of where they are used, as `Noise` in crates/methods/src/scorers has them.

// One step of SplitMix64.
__device__ __forceinline__ u64 mixed(u64 state) {
    u64 bits = state + 0x9e3779b97f4a7c15ull;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9ull;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebull;
    return bits ^ (bits >> 31);
}
// Of a head of a layer; then of a query and an entry there, by their positions.
__device__ __forceinline__ u64 noise_of(u64 seed, u32 layer, u32 head) { return mixed(mixed(mixed(seed) ^ layer) ^ head); }
__device__ __forceinline__ u64 noise_at(u64 of_head, u32 query, u32 entry) { return mixed(of_head ^ ((u64)query << 32 | entry)); }
// Uniform in (0, 1).
__device__ __forceinline__ double uniform(u64 bits) { return ((double)(bits >> 11) + 0.5) / 9007199254740992.0; }
// Standard Gumbel. Not inlined: a kernel that needs many has two logarithms of f64 for each.
__device__ __noinline__ float gumbel(u64 bits) { return (float)-log(-log(uniform(bits))); }
