// ---- lifetimes: how one is lowered, for every kernel that lowers one (Rust: `Lifetime::lower` and `Floors::of`) --------

// What may not be taken away: the first `sinks` positions, and every entry from the queries before
// position + max(recent, 1).
struct Floors { u32 sinks, recent; };

__device__ __forceinline__ u32 floor_of(Floors floors, u32 position) {
    const u32 end = position + (floors.recent > 1 ? floors.recent : 1);
    return position < floors.sinks || end < position ? NEVER : end;
}

// When an entry ends, and the query that decided so.
struct Fate { u32 expires_at, killer; };

// The fate of the entry at `position`, once query `killer` has wished it to end at `wished`: there, or at its floor if
// that is later. A lifetime never grows, and of two queries that end an entry at the same time the earlier one is its
// killer.
__device__ __forceinline__ Fate lowered(Fate fate, u32 position, u32 wished, u32 killer, Floors floors) {
    const u32 end = max(wished, floor_of(floors, position));
    if (end == NEVER || end > fate.expires_at) return fate;
    killer = min(max(killer, position), end);
    if (end == fate.expires_at) killer = min(killer, fate.killer);
    return Fate{end, killer};
}

// The same of the entry in `slot` of `page`. The caller is the only one that lowers this entry.
__device__ __forceinline__ void lower(Page page, u32 slot, u32 position, u32 wished, u32 killer, Floors floors) {
    const Fate before{page.expires_at()[slot], page.killers()[slot]};
    const Fate after = lowered(before, position, wished, killer, floors);
    if (after.expires_at != before.expires_at) page.expires_at()[slot] = after.expires_at;
    if (after.killer != before.killer) page.killers()[slot] = after.killer;
}
