//! The backward pass of one unit: some key panels of one group of heads of one sequence.

use super::combine::{Blame, RowSums, living, mortal, scaled, suffix_sums, sum_of};
use super::gate::{Gates, PerKey, hard_rows, offset, raw, soft_rows};
use super::pack::{Lines, Source, Tile};
use super::plan::{DEAD, HUGE, Keys, LOWEST_SCORE, Plan, SIDE};
use super::product::{Into, Left, product};
use super::{Pressure, Rule, Saved, Voter};
use crate::chunks::Pieces;
use crate::simd::{Isa, Kernel, Simd};

/// What all units read.
pub(super) struct Call<'a> {
    pub(super) isa: Isa,
    pub(super) plan: &'a Plan,
    pub(super) rule: Rule<'a>,
    pub(super) voters: &'a [Voter<'a>],
    pub(super) pressure: Pressure<'a>,
    pub(super) qkv: &'a [f32],
    pub(super) out: &'a [f32],
    pub(super) dout: &'a [f32],
    pub(super) saved: &'a Saved,
}

/// Where units write, each at places of its own.
pub(super) struct Results<'a> {
    pub(super) dqkv: &'a Pieces<'a, f32>,
    /// Per voter `[b * T, G * r]`.
    pub(super) key_gates: Vec<Pieces<'a, f32>>,
    /// `[unit][heads][padded][wide]`
    pub(super) queries: Pieces<'a, f32>,
    /// `[unit][voters][padded][gate_wide]`
    pub(super) query_gates: Pieces<'a, f32>,
    /// Per unit: worth, weight, then each voter's bias.
    pub(super) scalars: Pieces<'a, f64>,
}

/// One unit, `(sequence * groups + group) * parts + part`.
pub(super) struct Unit<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) results: &'a Results<'a>,
    pub(super) unit: usize,
}

/// The unit's rows of queries, packed once.
struct Queries {
    /// `[heads][padded][wide]`, scaled.
    query: Lines,
    /// `[heads][padded][wide]`
    dout: Lines,
    /// `[heads][padded]`
    delta: Lines,
    lse: Lines,
    /// `[voters][padded][gate_wide]`
    gates: Lines,
}

/// The operands and sums of one panel of keys.
struct Panel {
    /// `[kv][d][32]`
    keys: Lines,
    values: Lines,
    /// `[kv][32][wide]`
    key_rows: Lines,
    dkeys: Lines,
    dvalues: Lines,
    /// `[voters][r][32]`
    gates: Lines,
    /// `[voters][32][gate_wide]`
    gate_rows: Lines,
    dgates: Lines,
}

/// The votes of a block of queries on one panel.
struct Strip {
    /// Scores under the hard rule, the own voter's sums under the soft one, `[block][32]`.
    own: Lines,
    /// The smallest scores before each row, `[block + 1][32]`; under the soft rule the attention's bias, `[block][32]`.
    both: Lines,
    /// `[voters][block][32]`
    slopes: Lines,
}

/// What is carried from the last query to the first.
struct Carried {
    sums: [PerKey; 2],
    /// Where each key's sight ends.
    end: PerKey,
    latest_end: f32,
    offset: PerKey,
}

impl Kernel for Unit<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let plan = self.call.plan;
        let (wide, gate_wide, voters) = (plan.wide, plan.gate_wide, plan.voters);
        let queries = self.pack_queries();
        let kv = plan.kv_heads;
        let mut panel = Panel {
            keys: Lines::zeroed(kv * plan.width * SIDE),
            values: Lines::zeroed(kv * plan.width * SIDE),
            key_rows: Lines::zeroed(kv * SIDE * wide),
            dkeys: Lines::zeroed(kv * SIDE * wide),
            dvalues: Lines::zeroed(kv * SIDE * wide),
            gates: Lines::zeroed(voters * plan.gate * SIDE),
            gate_rows: Lines::zeroed(voters * SIDE * gate_wide),
            dgates: Lines::zeroed(voters * SIDE * gate_wide),
        };
        let rows = if voters == 0 { 0 } else { plan.block };
        let mut strip = Strip {
            own: Lines::zeroed(rows * SIDE),
            both: Lines::zeroed((rows + 1) * SIDE),
            slopes: Lines::zeroed(voters * rows * SIDE),
        };
        // SAFETY: the pieces of this unit.
        let (dq, dg, scalars) = unsafe {
            let (dq, dg) = (plan.heads * plan.padded() * wide, voters * plan.padded() * gate_wide);
            (
                self.results.queries.range(self.unit * dq, dq),
                self.results.query_gates.range(self.unit * dg, dg),
                self.results.scalars.range(self.unit * (voters + 2), voters + 2),
            )
        };
        for number in (self.part()..plan.panels).step_by(plan.parts) {
            let keys = Keys::new(&plan.shape, number);
            self.pack_panel(number, &mut panel);
            let mut carried = self.start(number, &keys);
            for block in (number * SIDE / plan.block..plan.blocks()).rev() {
                if !self.votes(simd, number, block, &keys, &carried, &queries, &panel, &mut strip) {
                    continue;
                }
                for tile in plan.tiles(block, number).rev() {
                    self.tile(
                        simd,
                        block,
                        tile,
                        &keys,
                        &queries,
                        &mut panel,
                        &strip,
                        &mut carried,
                        dq,
                        dg,
                        scalars,
                    );
                }
            }
            self.finish(number, &panel);
        }
    }
}

impl Unit<'_> {
    fn part(&self) -> usize {
        self.unit % self.call.plan.parts
    }

    fn group(&self) -> usize {
        self.unit / self.call.plan.parts % self.call.plan.groups
    }

    fn sequence(&self) -> usize {
        self.unit / self.call.plan.parts / self.call.plan.groups
    }

    fn gates(&self, voter: usize) -> Gates<'_> {
        Gates::of(self.call.plan, &self.call.voters[voter], self.sequence(), self.group())
    }

    fn pack_queries(&self) -> Queries {
        let Call { plan, qkv, out, dout, saved, .. } = *self.call;
        let (wide, padded, tokens) = (plan.wide, plan.padded(), plan.tokens());
        let first = self.sequence() * tokens;
        let mut all = Queries {
            query: Lines::zeroed(plan.heads * padded * wide),
            dout: Lines::zeroed(plan.heads * padded * wide),
            delta: Lines::zeroed(plan.heads * padded),
            lse: Lines::zeroed(plan.heads * padded),
            gates: Lines::zeroed(plan.voters * padded * plan.gate_wide),
        };
        // Rows behind the last token get no weight.
        all.lse.fill(HUGE);
        for head in 0..plan.heads {
            let from = &qkv[first * plan.stride + plan.query_column(self.group(), head)..];
            let source = Source { from, stride: plan.stride, count: tokens, width: plan.width };
            source.rows(plan.shape.attention.scale, wide, &mut all.query[head * padded * wide..]);
            let whole = self.group() * plan.heads + head;
            let at = first * plan.out_width() + whole * plan.width;
            let source =
                Source { from: &dout[at..], stride: plan.out_width(), count: tokens, width: plan.width };
            source.rows(1.0, wide, &mut all.dout[head * padded * wide..]);
            for (i, delta) in all.delta[head * padded..][..tokens].iter_mut().enumerate() {
                let at = at + i * plan.out_width();
                let rows = out[at..].iter().zip(&dout[at..]).take(plan.width);
                *delta = rows.map(|(out, dout)| out * dout).sum();
            }
            let at = (self.sequence() * plan.shape.attention.query_heads + whole) * tokens;
            all.lse[head * padded..][..tokens].copy_from_slice(&saved.lse[at..][..tokens]);
        }
        for voter in 0..plan.voters {
            let to = &mut all.gates[voter * padded * plan.gate_wide..];
            self.gates(voter).query.rows(1.0, plan.gate_wide, to);
        }
        all
    }

    fn pack_panel(&self, number: usize, panel: &mut Panel) {
        let plan = self.call.plan;
        let (wide, size) = (plan.wide, plan.width * SIDE);
        let count = (plan.tokens() - number * SIDE).min(SIDE);
        let row = (self.sequence() * plan.tokens() + number * SIDE) * plan.stride;
        panel.key_rows.fill(0.0);
        panel.gate_rows.fill(0.0);
        panel.dkeys.fill(0.0);
        panel.dvalues.fill(0.0);
        panel.dgates.fill(0.0);
        for kv in 0..plan.kv_heads {
            let at = row + plan.key_column(self.group(), kv);
            let from = &self.call.qkv[at..];
            let source = Source { from, stride: plan.stride, count, width: plan.width };
            source.panel(1.0, &mut panel.keys[kv * size..]);
            source.rows(1.0, wide, &mut panel.key_rows[kv * SIDE * wide..]);
            let source = Source { from: &from[plan.value_offset()..], ..source };
            source.panel(1.0, &mut panel.values[kv * size..]);
        }
        for voter in 0..plan.voters {
            let gates = self.gates(voter);
            let source = Gates::panel_of(gates.key, number);
            source.panel(gates.factor, &mut panel.gates[voter * plan.gate * SIDE..]);
            let rows = &mut panel.gate_rows[voter * SIDE * plan.gate_wide..];
            source.rows(gates.factor, plan.gate_wide, rows);
        }
    }

    fn start(&self, number: usize, keys: &Keys) -> Carried {
        let plan = self.call.plan;
        let mut end = PerKey(keys.window_end);
        let mut all = PerKey([0.0; SIDE]);
        if let (Rule::Hard { .. }, true) = (self.call.rule, plan.voters > 0) {
            let head = self.sequence() * plan.groups + self.group();
            let expires_at = &self.call.saved.expires_at[head * plan.tokens()..][..plan.tokens()];
            for (end, &expires) in end.0.iter_mut().zip(&expires_at[number * SIDE..]) {
                *end = end.min(expires as f32);
            }
            let noise = super::forward::noise(plan, self.call.rule, head);
            all = offset(self.gates(0).bias, noise, number);
        }
        let latest_end = end.0.iter().copied().fold(0.0, f32::max);
        Carried { sums: [PerKey([0.0; SIDE]); 2], end, latest_end, offset: all }
    }

    /// The running values of one voter's keys at the start of a block.
    fn before(&self, voter: usize, number: usize, block: usize, initial: f32) -> PerKey {
        let plan = self.call.plan;
        let mut before = PerKey([initial; SIDE]);
        if number * SIDE < block * plan.block {
            let trail = (self.sequence() * plan.voters + voter) * plan.groups + self.group();
            let at = trail * plan.trail() + plan.trail_start(block) + number * SIDE;
            before.0.copy_from_slice(&self.call.saved.trail[at..][..SIDE]);
        }
        before
    }

    /// Fills the strip; false if no pair of the block matters to anything.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn votes<S: Simd>(
        &self,
        simd: S,
        number: usize,
        block: usize,
        keys: &Keys,
        carried: &Carried,
        queries: &Queries,
        panel: &Panel,
        strip: &mut Strip,
    ) -> bool {
        let plan = self.call.plan;
        let first = (block * plan.block).max(number * SIDE) as f32;
        if plan.voters == 0 {
            return carried.latest_end > first;
        }
        let tiles = plan.tiles(block, number);
        let first_tile = block * plan.block / SIDE;
        let row = plan.gate_wide;
        match self.call.rule {
            Rule::Hard { .. } => {
                let mut running = self.before(0, number, block, HUGE);
                if carried.latest_end <= first && long_dead(keys, &running.0, first) {
                    return false;
                }
                strip.both[(tiles.start - first_tile) * SIDE * SIDE..][..SIDE].copy_from_slice(&running.0);
                for tile in tiles {
                    let at = (tile - first_tile) * SIDE * SIDE;
                    let gates = Left { data: &queries.gates[tile * SIDE * row..], row, step: 1 };
                    let scores = &mut strip.own[at..];
                    raw(self.call.isa, gates, &panel.gates, plan.gate, scores);
                    let minima = &mut strip.both[at + SIDE..];
                    hard_rows(simd, &carried.offset, tile * SIDE, keys, &mut running, scores, minima);
                }
            }
            Rule::Soft { curve } => {
                let mut dead = [0.0; SIDE];
                for voter in 0..plan.voters {
                    let before = self.before(voter, number, block, 0.0);
                    dead.iter_mut().zip(before.0).for_each(|(dead, before)| *dead += before);
                }
                let own = self.before(plan.voters - 1, number, block, 0.0);
                let over = |i: usize| {
                    let dead = dead[i] <= 0.5 * DEAD && own.0[i] <= 0.5 * DEAD;
                    (dead && keys.decided_from[i] <= first) || keys.window_end[i] <= first
                };
                if (0..SIDE).all(over) {
                    return false;
                }
                for voter in 0..plan.voters {
                    let gates = self.gates(voter);
                    let mut running = self.before(voter, number, block, 0.0);
                    for tile in tiles.clone() {
                        let at = (tile - first_tile) * SIDE * SIDE;
                        let left = &queries.gates[(voter * plan.padded() + tile * SIDE) * row..];
                        let left = Left { data: left, row, step: 1 };
                        let packed = &panel.gates[voter * plan.gate * SIDE..];
                        let logs = &mut strip.own[at..];
                        raw(self.call.isa, left, packed, plan.gate, logs);
                        let slopes = Some(&mut strip.slopes[voter * plan.block * SIDE + at..]);
                        let (bias, first) = (gates.bias, tile * SIDE);
                        soft_rows(simd, curve, bias, first, keys, &mut running, logs, slopes);
                        let both = &mut strip.both[at..];
                        add_logs(simd, first, keys, voter == 0, &strip.own[at..], both);
                    }
                }
            }
        }
        true
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn tile<S: Simd>(
        &self,
        simd: S,
        block: usize,
        tile: usize,
        keys: &Keys,
        queries: &Queries,
        panel: &mut Panel,
        strip: &Strip,
        carried: &mut Carried,
        dq: &mut [f32],
        dg: &mut [f32],
        scalars: &mut [f64],
    ) {
        let Call { isa, plan, rule, pressure, .. } = *self.call;
        let first = tile * SIDE;
        let at = (first - block * plan.block) * SIDE;
        let hard = plan.voters > 0 && matches!(rule, Rule::Hard { .. });
        let soft = plan.voters > 0 && !hard;
        let alive = carried.latest_end > first as f32;
        if !alive && (!hard || long_dead(keys, &strip.both[at..at + SIDE], first as f32)) {
            return;
        }
        let mut bias = Tile::ZERO;
        if soft {
            bias.0.copy_from_slice(&strip.both[at..][..SIDE * SIDE]);
        }
        let (wide, size) = (plan.wide, plan.width * SIDE);
        let (mut scores, mut gradients, mut worth) = (Tile::ZERO, Tile::ZERO, Tile::ZERO);
        for head in 0..plan.heads {
            let kv = plan.kv_of(head);
            let row = head * plan.padded() + first;
            let query = &queries.query[row * wide..];
            let dout = &queries.dout[row * wide..];
            let left = |data| Left { data, row: wide, step: 1 };
            let to = (&mut scores.0[..], SIDE);
            let right = (&panel.keys[kv * size..], SIDE);
            product(isa, left(query), right, plan.width, SIDE, Into::Store, to);
            let to = (&mut gradients.0[..], SIDE);
            let right = (&panel.values[kv * size..], SIDE);
            product(isa, left(dout), right, plan.width, SIDE, Into::Store, to);
            let rows = RowSums { first, lse: &queries.lse[row..], delta: &queries.delta[row..] };
            if hard {
                let end = &carried.end;
                mortal(simd, rows, keys, end, &mut scores, &mut gradients, &mut worth);
            } else {
                let bias = soft.then_some(&bias);
                living(simd, rows, keys, bias, &mut scores, &mut gradients, &mut worth);
            }
            if !alive {
                continue;
            }
            let columns = |tile| Left { data: tile, row: 1, step: SIDE };
            let to = (&mut panel.dvalues[kv * SIDE * wide..], wide);
            product(isa, columns(&scores.0[..]), (dout, wide), SIDE, wide, Into::Add, to);
            let to = (&mut panel.dkeys[kv * SIDE * wide..], wide);
            product(isa, columns(&gradients.0[..]), (query, wide), SIDE, wide, Into::Add, to);
            let rows = Left { data: &gradients.0[..], row: SIDE, step: 1 };
            let right = (&panel.key_rows[kv * SIDE * wide..], wide);
            product(isa, rows, right, SIDE, wide, Into::Add, (&mut dq[row * wide..], wide));
        }
        let mut out = Tile::ZERO;
        match (rule, pressure) {
            _ if plan.voters == 0 => {}
            (Rule::Hard { .. }, _) => {
                let lambda =
                    if let Pressure::Hard { lambda } = pressure { lambda[self.group()] } else { 0.0 };
                let blame = Blame {
                    first,
                    keys,
                    lambda,
                    scores: &strip.own[at..],
                    minima: &strip.both[at..],
                    worth: &worth,
                    carried: &mut carried.sums[0],
                    out: &mut out,
                };
                let found = blame.walk(simd);
                scalars[0] += found.worth;
                scalars[1] += found.weight;
                if found.any {
                    scalars[2] += sum_of(simd, &out);
                    self.gate_products(0, first, &out, queries, panel, dg);
                }
            }
            (Rule::Soft { .. }, _) => {
                let mut pressed = Tile::ZERO;
                let press = match pressure {
                    Pressure::Soft { per_pair, last_query } if per_pair != 0.0 => {
                        let queries = plan.tokens() - usize::from(!last_query);
                        Some((per_pair, queries, &strip.own[at..]))
                    }
                    _ => None,
                };
                suffix_sums(simd, first, keys, press, &mut worth, &mut pressed, &mut carried.sums);
                for voter in 0..plan.voters {
                    let more = (voter + 1 == plan.voters && press.is_some()).then_some(&pressed);
                    let slopes = &strip.slopes[voter * plan.block * SIDE + at..];
                    scaled(simd, &worth, more, slopes, &mut out);
                    scalars[2 + voter] += sum_of(simd, &out);
                    self.gate_products(voter, first, &out, queries, panel, dg);
                }
            }
        }
    }

    /// The gradients of query and key gates from those of a tile of raw scores.
    fn gate_products(
        &self,
        voter: usize,
        first: usize,
        tile: &Tile,
        queries: &Queries,
        panel: &mut Panel,
        dg: &mut [f32],
    ) {
        let Call { isa, plan, .. } = *self.call;
        let wide = plan.gate_wide;
        let at = (voter * plan.padded() + first) * wide;
        let keys = voter * SIDE * wide;
        let rows = Left { data: &tile.0[..], row: SIDE, step: 1 };
        let right = (&panel.gate_rows[keys..], wide);
        product(isa, rows, right, SIDE, wide, Into::Add, (&mut dg[at..], wide));
        let columns = Left { data: &tile.0[..], row: 1, step: SIDE };
        let to = (&mut panel.dgates[keys..], wide);
        product(isa, columns, (&queries.gates[at..], wide), SIDE, wide, Into::Add, to);
    }

    /// Writes the panel's gradients of keys and values, and adds those of its key gates.
    fn finish(&self, number: usize, panel: &Panel) {
        let plan = self.call.plan;
        let count = (plan.tokens() - number * SIDE).min(SIDE);
        for i in 0..count {
            let token = self.sequence() * plan.tokens() + number * SIDE + i;
            for kv in 0..plan.kv_heads {
                let at = token * plan.stride + plan.key_column(self.group(), kv);
                let from = (kv * SIDE + i) * plan.wide;
                // SAFETY: no other unit has this key of this group.
                let to = unsafe { self.results.dqkv.range(at, plan.width) };
                to.copy_from_slice(&panel.dkeys[from..][..plan.width]);
                // SAFETY: as above; the value follows all keys.
                let to = unsafe { self.results.dqkv.range(at + plan.value_offset(), plan.width) };
                to.copy_from_slice(&panel.dvalues[from..][..plan.width]);
            }
            for voter in 0..plan.voters {
                let factor = self.gates(voter).factor;
                let at = (token * plan.groups + self.group()) * plan.gate;
                // SAFETY: as above.
                let to = unsafe { self.results.key_gates[voter].range(at, plan.gate) };
                let from = &panel.dgates[(voter * SIDE + i) * plan.gate_wide..];
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from * factor);
            }
        }
    }
}

/// Whether every key has so low a score that no gradient passes, or is not decided by votes at all.
fn long_dead(keys: &Keys, smallest: &[f32], first: f32) -> bool {
    (0..SIDE)
        .all(|i| smallest[i] < LOWEST_SCORE || keys.decided_from[i] >= HUGE || keys.window_end[i] <= first)
}

/// `both = logs`, or that added to it, and 0 for pairs that votes do not decide.
#[inline(always)]
fn add_logs<S: Simd>(simd: S, first: usize, keys: &Keys, fresh: bool, logs: &[f32], both: &mut [f32]) {
    let (logs, both) = (&logs[..SIDE * SIDE], &mut both[..SIDE * SIDE]);
    for at in (0..SIDE).step_by(S::LANES) {
        let decided_from = simd.read(&keys.decided_from[at..]);
        for q in 0..SIDE {
            let cell = q * SIDE + at;
            let query = simd.splat((first + q) as f32);
            let log = simd.read(&logs[cell..]);
            let log = simd.select_less(query, decided_from, simd.splat(0.0), log);
            let log = if fresh { log } else { simd.add(simd.read(&both[cell..]), log) };
            simd.write(&mut both[cell..], log);
        }
    }
}
