// All pages of a layer in one line, lane after lane, so that workers can share them evenly whichever lanes they belong
// to. A unit is a lane in the order of the step: `first_pages[unit]` is where its pages begin in the line.
//
// `Args` has the lanes, the spans, this layer's `first_pages` and the number of units.

// A unit that is not empty; the same in all threads of a warp.
struct Place {
    u32 unit, first, pages;                // `first`: pages of all units before it
    u32 slot, first_row, queries, position;  // its span
    u32 lane, length;                      // the lane's number, and its entries
};

// One step of the search for a unit: 32 candidates at once.
struct Probe {
    u32 low, size, step, first, end;
    uint4 span;
};
template <typename Args> __device__ __forceinline__ Probe look(const Args& a, u32 low, u32 size) {
    Probe probe;
    probe.low = low;
    probe.size = size;
    probe.step = (size + 31) / 32;
    probe.first = NEVER;
    probe.end = 0;
    probe.span = make_uint4(0, 0, 0, 0);
    const u32 offset = (threadIdx.x & 31) * probe.step;
    if (offset < size) {
        const u32 i = low + offset;
        probe.first = a.first_pages[i];
        if (probe.step == 1) {
            probe.end = a.first_pages[i + 1];
            probe.span = *(const uint4*)(a.spans + i / GROUPS);
        }
    }
    return probe;
}

// The last unit that begins at or before `page`, which is below the total: empty units are passed over.
template <typename Args> __device__ __forceinline__ Place seek(const Args& a, Probe probe, u32 page) {
    while (true) {
        const u32 index = __popc(__ballot_sync(ALL, probe.first <= page)) - 1;
        if (probe.step == 1) {
            Place place;
            place.unit = probe.low + index;
            place.first = __shfl_sync(ALL, probe.first, index);
            place.pages = __shfl_sync(ALL, probe.end, index) - place.first;
            place.slot = __shfl_sync(ALL, probe.span.x, index);
            place.first_row = __shfl_sync(ALL, probe.span.y, index);
            place.queries = __shfl_sync(ALL, probe.span.z, index);
            place.position = __shfl_sync(ALL, probe.span.w, index);
            place.lane = a.lanes.lane(place.slot, a.layer, place.unit % GROUPS);
            place.length = a.lanes.lengths[place.lane];
            return place;
        }
        const u32 before = index * probe.step;
        probe = look(a, probe.low + before, min(probe.step, probe.size - before));
    }
}
template <typename Args> __device__ __forceinline__ Place seek(const Args& a, u32 page) {
    return seek(a, look(a, 0, a.units), page);
}
