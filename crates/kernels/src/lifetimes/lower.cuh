// How a lifetime is lowered, for every kernel that lowers one (Rust: `Lifetime::lower` and `Floors::of`).

// What may not be taken away: the first `sinks` positions, and every entry from the queries before
// position + max(recent, 1).
struct Floors { u32 sinks, recent; };

__device__ __forceinline__ u32 floor_of(Floors floors, u32 position) {
    const u32 end = position + (floors.recent > 1 ? floors.recent : 1);
    return position < floors.sinks || end < position ? NEVER : end;
}

// Ends the entry in `slot` of `page` at `wished`, or at its floor if that is later, on behalf of query `killer`.
// A lifetime never grows, and of two queries that end an entry at the same time the earlier one is its killer.
// The caller is the only one that lowers this entry.
__device__ __forceinline__ void lower(Page page, u32 slot, u32 position, u32 wished, u32 killer, Floors floors) {
    const u32 end = max(wished, floor_of(floors, position));
    const u32 ends = page.expires_at()[slot];
    if (end == NEVER || end > ends) return;
    killer = min(max(killer, position), end);
    u32* decided = page.killers() + slot;
    if (end == ends) {
        if (killer < *decided) *decided = killer;
        return;
    }
    page.expires_at()[slot] = end;
    *decided = killer;
}
