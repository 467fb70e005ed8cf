//! How the tensor-core kernels of attention cut their work for a device and a shape.

use crate::PAGE_ENTRIES;
use crate::cuda::Specialisation;

/// Spans of one launch of `prefill.cu`, whose first tiles are an argument.
pub(super) const MOST_SPANS: usize = 64;
/// Most query heads of a KV head in `decode.cu`.
const MOST_MEMBERS: usize = 16;
/// Positions and lifetimes of a page.
const KNOWN_BYTES: usize = 2 * 4 * PAGE_ENTRIES;
/// Head width for which the files compile where they do not serve.
const UNSERVED: usize = 64;

/// Query heads of a KV head.
pub(super) fn ratio(specialisation: &Specialisation) -> usize {
    specialisation.query_heads / specialisation.kv_heads
}

/// `SERVED` of `tiles.cuh`.
pub(crate) fn uses_tensor_cores(specialisation: &Specialisation) -> bool {
    let d = specialisation.head_dim;
    specialisation.cache.bytes() == 2 && d.is_multiple_of(16) && (64..=256).contains(&d)
}

/// `D` of `tiles.cuh`.
fn width(specialisation: &Specialisation) -> usize {
    if uses_tensor_cores(specialisation) { specialisation.head_dim } else { UNSERVED }
}

/// Shared memory of which two blocks have no room in a multiprocessor of 228 KB, each with 1 KB of the system's. A block of
/// `decode.cu` asks for so much there, although its rings take less: where kernels overlap, a multiprocessor that is free early could
/// take two of its blocks and another none, and the launch would last as long as those two (GPT-2-medium, 64 sequences of 4,096 entries:
/// 7.9 ms a step, and 6.9 with it; H200). A block of the kernel behind still has room for its ring.
const ALONE: usize = 115_840;

/// Parts with 227 KB of shared memory for a block.
fn is_roomy(capability: (i32, i32)) -> bool {
    matches!(capability, (9 | 10, 0) | (10, 3))
}

/// Bytes of a row of a tile in shared memory: `ROW_BYTES` of `tiles.cuh`.
pub(crate) fn row_bytes(width: usize) -> usize {
    width * 2 + if width.is_multiple_of(64) { 0 } else { 16 }
}

/// The constants of `decode.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DecodePlan {
    pub(super) warps: usize,
    /// Of a warp's ring.
    tiles: usize,
    tile_bytes: usize,
}

impl DecodePlan {
    /// Whether `decode.cu` takes the shape.
    pub(super) fn serves(specialisation: &Specialisation) -> bool {
        // Rows of codes are whole vectors of 16 bytes.
        let [_, (values, _)] = specialisation.rows();
        let whole = specialisation.codes.is_none() || values.is_multiple_of(16);
        uses_tensor_cores(specialisation) && ratio(specialisation) <= MOST_MEMBERS && whole
    }

    pub(super) fn new(capability: (i32, i32), specialisation: &Specialisation) -> Self {
        // At most half of a multiprocessor where kernels overlap.
        let room = match capability {
            (8, 0) => 163_840,
            _ if is_roomy(capability) => 110_592,
            _ => 99_840,
        };
        let row = match (specialisation.codes, specialisation.rows()) {
            (None, _) => row_bytes(width(specialisation)),
            // Keys are the longer ones.
            (Some(_), [(keys, groups), _]) => keys + 4 * groups,
        };
        let tile_bytes = PAGE_ENTRIES * row + KNOWN_BYTES;
        // Eight warps have 128 registers a thread, too few for more than 8 query heads.
        let most = if ratio(specialisation) <= 8 || !Self::serves(specialisation) { 8 } else { 4 };
        let fits = |warps: &usize| *warps <= most && warps * 3 * tile_bytes <= room;
        let warps = [8, 4].into_iter().find(fits).unwrap_or(2);
        Self { warps, tiles: (room / warps / tile_bytes).min(6), tile_bytes }
    }

    /// As the kernel file names them.
    pub(super) fn constants(&self) -> Vec<(&'static str, usize)> {
        vec![("WARPS", self.warps), ("TILES", self.tiles), ("RINGS_BYTES", self.shared())]
    }

    /// Bytes of the rings of a block.
    fn shared(&self) -> usize {
        self.warps * self.tiles * self.tile_bytes
    }

    /// Dynamic shared memory that a block asks for.
    pub(super) fn asked(&self, capability: (i32, i32)) -> usize {
        if is_roomy(capability) { self.shared().max(ALONE) } else { self.shared() }
    }
}

/// The constants of `prefill.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PrefillPlan {
    warps: usize,
    /// Tiles of 16 rows of a warp.
    tiles: usize,
    /// Pages of a tile of keys or values.
    pages: usize,
    row_bytes: usize,
}

impl PrefillPlan {
    /// Wide heads need the shared memory of the data-centre parts for tiles of full height.
    pub(super) fn new(capability: (i32, i32), specialisation: &Specialisation) -> Self {
        let width = width(specialisation);
        let (wide, roomy) = (width > 128, is_roomy(capability));
        Self {
            warps: if wide && roomy { 8 } else { 4 },
            tiles: if wide { 1 } else { 2 },
            pages: if wide && !roomy { 1 } else { 2 },
            row_bytes: row_bytes(width),
        }
    }

    /// Whether `prefill.cu` takes the shape.
    pub(super) fn serves(&self, specialisation: &Specialisation) -> bool {
        uses_tensor_cores(specialisation) && ratio(specialisation) <= self.rows()
    }

    /// As the kernel file names them.
    pub(super) fn constants(&self) -> Vec<(&'static str, usize)> {
        let threads = self.threads() as usize;
        // Of wide heads fewer, for the room that two blocks have beside their tiles.
        let listed = if self.row_bytes <= 128 { 128 } else { 64 };
        vec![
            ("WARPS", self.warps),
            ("MT", self.tiles),
            ("TILE_PAGES", self.pages),
            ("TILES_BYTES", self.shared()),
            ("MOST_SPANS", MOST_SPANS),
            ("LIST", listed),
            ("COPIERS", threads),
            ("FIRST_COPIER", 0),
        ]
    }

    /// Rows of a block: heads of queries.
    pub(super) fn rows(&self) -> usize {
        self.warps * self.tiles * 16
    }

    /// Threads of a block.
    pub(super) fn threads(&self) -> u32 {
        32 * self.warps as u32
    }

    /// Dynamic shared memory of a block: its rows, two buffers of keys and two of values.
    pub(super) fn shared(&self) -> usize {
        (self.rows() + 2 * 2 * self.pages * PAGE_ENTRIES) * self.row_bytes
    }
}

/// The constants of `prefill_groups.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupsPlan {
    /// Warp groups with 64 rows each.
    groups: usize,
    /// Tiles of the ring.
    depth: usize,
    row_bytes: usize,
}

impl GroupsPlan {
    /// Pages of a tile of keys or values.
    const PAGES: usize = 2;

    /// As many rows as registers have room for, and as long a ring as shared memory has beside them.
    pub(super) fn new(specialisation: &Specialisation) -> Self {
        let width = width(specialisation);
        let (groups, depth) = if width <= 64 { (4, 8) } else { (2, 5) };
        Self { groups, depth, row_bytes: width * 2 }
    }

    /// Whether `prefill_groups.cu` takes the shape.
    pub(super) fn serves(&self, capability: (i32, i32), specialisation: &Specialisation) -> bool {
        let fits = matches!(specialisation.head_dim, 64 | 128) && ratio(specialisation) <= self.rows();
        capability == (9, 0) && uses_tensor_cores(specialisation) && fits
    }

    /// As the kernel file names them.
    pub(super) fn constants(&self) -> Vec<(&'static str, usize)> {
        // Multiples of 8, and all together no more than threads begin with.
        let (row_registers, copy_registers) = if self.groups == 4 { (112, 32) } else { (216, 72) };
        vec![
            ("ROW_GROUPS", self.groups),
            ("ROW_REGISTERS", row_registers),
            ("COPY_REGISTERS", copy_registers),
            ("DEPTH", self.depth),
            ("TILE_PAGES", Self::PAGES),
            ("TILES_BYTES", self.shared()),
            ("MOST_SPANS", MOST_SPANS),
            ("LIST", 64),
            ("COPIERS", 128),
            ("FIRST_COPIER", 128 * self.groups),
        ]
    }

    /// Rows of a block: heads of queries.
    pub(super) fn rows(&self) -> usize {
        64 * self.groups
    }

    /// Threads of a block: the groups, and one that copies.
    pub(super) fn threads(&self) -> u32 {
        128 * (self.groups as u32 + 1)
    }

    /// Dynamic shared memory of a block: its rows, the ring of keys and values, and what is lost where rows must begin at a
    /// multiple of 1,024 bytes.
    pub(super) fn shared(&self) -> usize {
        (self.rows() + self.depth * 2 * Self::PAGES * PAGE_ENTRIES) * self.row_bytes + 1024
    }
}

#[cfg(test)]
mod tests {
    use super::{DecodePlan, GroupsPlan};
    use crate::CodeBits::{self, Eight, Four};
    use crate::DType;
    use crate::cuda::Specialisation;

    fn specialisation(codes: Option<CodeBits>, head_dim: usize) -> Specialisation {
        Specialisation {
            weights: DType::Bf16,
            cache: if codes.is_none() { DType::Bf16 } else { DType::F16 },
            codes,
            query_heads: 32,
            kv_heads: 8,
            groups: 1,
            head_dim,
            hidden: 4096,
            side_width: 0,
            statistics: 0,
        }
    }

    #[test]
    fn groups_have_their_rows_and_ring_beside_a_list_of_pages() {
        for (head_dim, rows) in [(64, 256), (128, 128)] {
            let specialisation = specialisation(None, head_dim);
            let plan = GroupsPlan::new(&specialisation);
            // Of 227 KB, 15 are for the list and the signals.
            assert!(plan.rows() == rows && plan.shared() <= 212 << 10, "{plan:?}");
            assert!(plan.serves((9, 0), &specialisation) && !plan.serves((8, 0), &specialisation));
        }
        let wide = specialisation(None, 256);
        assert!(!GroupsPlan::new(&wide).serves((9, 0), &wide));
    }

    #[test]
    fn codes_leave_room_for_twice_as_many_warps_as_numbers() {
        let plan = |codes: Option<CodeBits>, head_dim| {
            let specialisation = specialisation(codes, head_dim);
            let plan = DecodePlan::new((9, 0), &specialisation);
            // Half of a multiprocessor, and never fewer than three tiles of a warp.
            assert!(plan.shared() <= 110_592 && plan.tiles >= 3, "{plan:?}");
            let (asked, of_all) = (plan.asked((9, 0)), 228 << 10);
            assert!(
                2 * (asked + 1024) > of_all && asked + 1024 + plan.shared() + 1024 < of_all,
                "one, and one of the next"
            );
            assert_eq!(plan.asked((8, 0)), plan.shared());
            (DecodePlan::serves(&specialisation), plan.warps)
        };
        assert_eq!(
            (plan(None, 128), plan(Some(Eight), 128), plan(Some(Four), 128)),
            ((true, 4), (true, 8), (true, 8))
        );
        // Rows of 40 bytes are no whole vectors.
        assert_eq!((plan(Some(Eight), 80).0, plan(Some(Four), 80).0), (true, false));
    }
}
