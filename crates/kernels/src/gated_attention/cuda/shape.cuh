// What the passes of attention share: sequences, and when keys end.

struct Shape {
    u32 tokens;              // T
    u32 groups;              // of `ends` and `logs`
    u32 window;              // query k sees key j only if k - j is below it; NEVER for no window
    float scale;
    u32 first_tile, tiles;   // the strip: the tiles of 64 queries that this launch is about
    const u32* ends;         // [b][groups][T]: the first query that no longer sees a key, or none
    const W* qkv;            // [b T][FUSED]
    const Log* logs;         // [b][groups][T][64 tiles]: soft gates, the logarithm of what the strip's queries see of a key
    const Log* turned_logs;  // [b][groups][tiles of T][tiles][64 x 64]: the same as `Logs` of attend.cu wants them, or none
};

constexpr u32 STAGES = sizeof(W) == 2 && DP <= 256 ? 2 : 1;

__device__ __forceinline__ u32 group_of(const Shape& s, u32 kv_head) { return kv_head / (KV_HEADS / s.groups); }
// The ends of a KV head's keys.
struct Ends {
    const u32* row;
    u32 tokens, window;
    __device__ __forceinline__ Ends(const Shape& s, u32 sequence, u32 kv_head)
        : row(s.ends ? s.ends + (u64)(sequence * s.groups + group_of(s, kv_head)) * s.tokens : nullptr), tokens(s.tokens), window(s.window) {}
    __device__ __forceinline__ u32 of(u32 key) const {
        if (key >= tokens) return 0;
        u32 end = window == NEVER ? NEVER : key + window;
        return row ? min(end, row[key]) : end;
    }
};
__device__ __forceinline__ const W* row_of(const Shape& s, u32 sequence, u32 token, u32 head) {
    return s.qkv + ((u64)sequence * s.tokens + token) * FUSED + head * D;
}
// The logarithms of one key, those of the strip's queries.
__device__ __forceinline__ const Log* logs_of(const Shape& s, u32 sequence, u32 kv_head, u32 key) {
    u64 row = (u64)(sequence * s.groups + group_of(s, kv_head)) * s.tokens + min(key, s.tokens - 1);
    return s.logs + row * (s.tiles * SIDE);
}
// Those of a tile of keys and one of the strip's queries, as attention's threads hold them.
__device__ __forceinline__ const Log* turned_logs_of(const Shape& s, u32 sequence, u32 kv_head, u32 key_tile, u32 query_tile) {
    u64 tile = (u64)(sequence * s.groups + group_of(s, kv_head)) * ((s.tokens + SIDE - 1) / SIDE) + key_tile;
    return s.turned_logs + (tile * s.tiles + query_tile - s.first_tile) * (SIDE * SIDE);
}
// One row of a tile's sums, times `by`, to D numbers. Pairs of neighbours go together where rows are made of such.
__device__ __forceinline__ void write_row(W* to, const float (&sums)[DP / 8][4], u32 half, float by) {
#pragma unroll
    for (u32 j = 0; j < DP / 8; j++) {
        float low = sums[j][half * 2] * by, high = sums[j][half * 2 + 1] * by;
        if constexpr (D % 2 == 0) {
            if (own_column(j, 0) < D) put_pair(to + own_column(j, 0), low, high);
        } else {
            if (own_column(j, 0) < D) to[own_column(j, 0)] = narrow<W>(low);
            if (own_column(j, 1) < D) to[own_column(j, 1)] = narrow<W>(high);
        }
    }
}
