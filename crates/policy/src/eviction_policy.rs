//! Which entries leave the cache, and when?

use std::fmt::Debug;
use std::ops::Deref;

use crate::{
    Attended, Budgets, Cadence, Ended, LaneEditor, Needs, Observation, Peak, PolicyError, Ranking, Rule,
    SideChannel, TextSize,
};

/// A pruning method as the engine sees it.
///
/// The decoder calls [`decide`](Self::decide) once per layer and step, after the new tokens' keys and values were
/// appended and before the layer attends, and, for those that declare so ([`needs`](Self::needs)),
/// [`after`](Self::after) when it has attended. A policy lowers lifetimes; the cache frees what they end.
///
/// # What an implementation must hold
/// - **No state.** What is decided depends on the arguments only; memory goes into side channels and statistics.
/// - **Chunking changes nothing.** However a sequence is cut into steps, as far as `needs` lets it be cut, and whichever
///   sequences share a step, every entry ends up with the same lifetime and killer once the same queries have been
///   processed; sums over entries may round otherwise, see ARCHITECTURE.md.
/// - **A lifetime is final once it lies in the past.** Lower an entry only to a position of this step or later;
///   queries before it have already seen the entry.
///
/// [`crate::conformance`] checks these on random ragged steps, with what [`LaneEditor`] enforces by itself.
pub trait EvictionPolicy: Send + Sync + Debug {
    /// Whether this policy needs one lane per KV head, so that heads may keep different entries. One that does not may
    /// be shown several lanes all the same (when another policy beside it needs them) and then acts on each alike.
    fn per_head(&self) -> bool {
        false
    }

    /// The numbers to store with every entry, the same in every layer; none by default.
    fn side_channels(&self) -> Vec<SideChannel> {
        Vec::new()
    }

    /// What it asks for beyond `decide`; nothing by default, and then nothing is paid.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// What [`decide`](Self::decide) does as data, for a backend that decides on its device; `None` where it exists only as
    /// code, and then the policy runs on the CPU alone. `Some` of no rules decides nothing. Asking costs nothing.
    fn rules(&self) -> Option<&[Rule]> {
        None
    }

    /// What [`after`](Self::after) does as data, likewise. By default nothing, for those that never act after attention.
    fn rankings(&self) -> Option<&[Ranking]> {
        (self.needs().after == Cadence::Never).then_some(&[])
    }

    /// How full a lane gets while a text goes in: what an engine promises a sequence before it joins, and what it refuses
    /// one by that can never fit. By default nothing is known ([`Peak::unknown`]).
    fn peak(&self, text: TextSize) -> Peak {
        Peak::unknown(text.tokens)
    }

    /// The same of one lane, where they differ: that of a KV head in a layer, counted from the embedding.
    fn peak_in(&self, text: TextSize, layer: usize, head: usize) -> Peak {
        let _ = (layer, head);
        self.peak(text)
    }

    /// The budgets that a text of `tokens` tokens may set itself ([`crate::Span::budget`]); none, the default, for a method
    /// that does not heed them.
    fn budgets(&self, tokens: usize) -> Option<Budgets> {
        let _ = tokens;
        None
    }

    /// Writes the new entries' side channels and lowers lifetimes; `lanes` holds one editor per span.
    ///
    /// # Errors
    /// Shapes that do not fit what the policy was built for. A policy never fails because of values: whatever
    /// the numbers, the floors of [`LaneEditor`] hold.
    fn decide(&self, seen: &Observation<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError>;

    /// Brings statistics up to date and lowers lifetimes from the query after each span's last one on; `lanes` holds one
    /// editor per span. Called when [`needs`](Self::needs) says so.
    ///
    /// # Errors
    /// As [`decide`](Self::decide).
    fn after(&self, seen: &Attended<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        let _ = (seen, lanes);
        Ok(())
    }

    /// Lowers lifetimes of one sequence from the query after its prompt on, when all layers have attended; `layers` holds one
    /// editor per layer, `[L]`. Called after [`after`](Self::after) where [`Needs::layers`] says so.
    ///
    /// # Errors
    /// As [`decide`](Self::decide).
    fn ended(&self, seen: &Ended<'_>, layers: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        let _ = (seen, layers);
        Ok(())
    }
}

/// A borrowed or shared policy is a policy.
impl<D> EvictionPolicy for D
where
    D: Deref<Target: EvictionPolicy> + Send + Sync + Debug,
{
    fn per_head(&self) -> bool {
        (**self).per_head()
    }

    fn side_channels(&self) -> Vec<SideChannel> {
        (**self).side_channels()
    }

    fn needs(&self) -> Needs {
        (**self).needs()
    }

    fn rules(&self) -> Option<&[Rule]> {
        (**self).rules()
    }

    fn rankings(&self) -> Option<&[Ranking]> {
        (**self).rankings()
    }

    fn peak(&self, text: TextSize) -> Peak {
        (**self).peak(text)
    }

    fn peak_in(&self, text: TextSize, layer: usize, head: usize) -> Peak {
        (**self).peak_in(text, layer, head)
    }

    fn budgets(&self, tokens: usize) -> Option<Budgets> {
        (**self).budgets(tokens)
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        (**self).decide(seen, lanes)
    }
    fn after(&self, seen: &Attended<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        (**self).after(seen, lanes)
    }

    fn ended(&self, seen: &Ended<'_>, layers: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        (**self).ended(seen, layers)
    }
}
