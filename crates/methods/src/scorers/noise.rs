//! Numbers that look random and are a function of where they are used.

/// Noise from a seed: the same seed and place give the same number, whatever was drawn before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    /// What tells one run from another.
    pub seed: u64,
}

/// Where a number is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The layer.
    pub layer: usize,
    /// The head.
    pub head: usize,
    /// The query, where there is one.
    pub query: u32,
    /// The entry.
    pub entry: u32,
}

impl Noise {
    /// Uniform in (0, 1), both ends excluded.
    #[must_use]
    pub fn uniform(&self, place: Place) -> f64 {
        let where_to =
            [place.layer as u64, place.head as u64, u64::from(place.query) << 32 | u64::from(place.entry)];
        let bits = where_to.iter().fold(mixed(self.seed), |state, &part| mixed(state ^ part));
        // 53 bits are what an f64 tells apart; the half keeps away from 0.
        ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Standard Gumbel: -ln(-ln u).
    #[must_use]
    pub fn gumbel(&self, place: Place) -> f32 {
        -(-self.uniform(place).ln()).ln() as f32
    }

    /// Standard normal (Box and Muller), a second uniform number from the place's other half.
    #[must_use]
    pub fn normal(&self, place: Place) -> f32 {
        let angle = std::f64::consts::TAU * Self { seed: !self.seed }.uniform(place);
        ((-2.0 * self.uniform(place).ln()).sqrt() * angle.cos()) as f32
    }
}

/// One step of SplitMix64 (Steele, Lea, Flood 2014).
fn mixed(state: u64) -> u64 {
    let mut bits = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
