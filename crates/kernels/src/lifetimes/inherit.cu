// Deaths that spread to the layer above within a step. Lanes are whole layers here.

struct InheritArgs {
    Lanes lanes;
    const Span* spans;
    uint2* fates;   // [2][slots][positions]: the end and the killer that a layer leaves for the layer above, by parity
    u32 layer, positions;
    Floors floors;
};

// One block per span: takes over what died in the layer below, then says what has died in this one. An entry that is
// live here was live below when the step began, so what is read was written in this step.
extern "C" __global__ void __launch_bounds__(INHERIT_THREADS) inherit(InheritArgs args) {
    wait_for_previous();
    let_next_start();
    const Span span = args.spans[blockIdx.x];
    if (!args.lanes.has(span.slot)) return;
    const u32 now = span.first_position + span.queries;
    const u32 lane = args.lanes.lane(span.slot, args.layer, 0);
    const u32 length = args.lanes.lengths[lane];
    const u64 slots = args.lanes.slots, parity = args.layer & 1;
    const uint2* below = args.fates + ((parity ^ 1) * slots + span.slot) * args.positions;
    uint2* here = args.fates + (parity * slots + span.slot) * args.positions;
    for (u32 entry = threadIdx.x; entry < length; entry += INHERIT_THREADS) {
        const Page page = args.lanes.page(lane, entry / PAGE_ENTRIES);
        const u32 slot = entry % PAGE_ENTRIES, position = page.positions()[slot];
        if (position >= args.positions) continue;
        if (args.layer > 0 && below[position].x != NEVER) {
            lower(page, slot, position, below[position].x, below[position].y, args.floors);
        }
        const u32 end = page.expires_at()[slot];
        here[position] = make_uint2(end <= now ? end : NEVER, page.killers()[slot]);
    }
}
