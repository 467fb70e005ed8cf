//! What a method remembers about each entry.

/// A row of numbers that a method stores with every entry, in every layer.
///
/// Side channels live in the pages of the cache, so they are moved, copied and freed with the entry that they
/// describe, and counted in its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SideChannel {
    /// What the numbers are, for reports and error messages.
    pub name: &'static str,
    /// Numbers per entry, stored in the cache's dtype; the gate width r for the learned method.
    pub width: usize,
}
