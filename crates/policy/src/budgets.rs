//! How much a text may ask a method to forget beyond what it forgets anyhow.

use crate::Floors;

/// The budgets that a text may set itself under one method ([`crate::Span::budget`]), in entries of each lane where the
/// method acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// What stays whatever is asked for.
    pub least: u32,
    /// What the method keeps by itself.
    pub most: u32,
}

impl Budgets {
    /// Those of a method that keeps up to `most`, what floors hold among them.
    #[must_use]
    pub fn new(floors: Floors, most: u32) -> Self {
        Self { least: 1, most }.under(floors)
    }

    /// The same where floors hold their own entries.
    #[must_use]
    pub fn under(self, floors: Floors) -> Self {
        Self { least: self.least.max(floors.sinks.saturating_add(floors.recent.max(1))), ..self }
    }

    /// Those under two methods at once: a text's budget binds beside each one's own, so up to the larger it makes a
    /// difference. Where one has none, the other's.
    #[must_use]
    pub fn and(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => {
                Some(Self { least: one.least.max(other.least), most: one.most.max(other.most) })
            }
            (one, other) => one.or(other),
        }
    }
}
