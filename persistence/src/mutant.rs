//! Deliberately broken builds: each takes one safeguard away, so that the tests can show that they would
//! notice. Only a simulation can ask for one, and only for its own thread; elsewhere nothing of it is
//! compiled.

/// A safeguard that is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Releasing or voiding what is not known leaves no mark.
    NoMark,
    /// Silence is taken for a refusal, of a step, an undo and the provider.
    SilenceIsRefusal,
    /// Unwinding begins one step before the one in doubt.
    UndoTooEarly,
    /// Answers do not wait for the row that they rest on.
    NoBarrier,
    /// An answer that needs no row of its own does not wait for those before it.
    RepeatsDoNotWait,
    /// What is owed is begun before the row that owes it is durable.
    EffectsFromUndurable,
    /// A row that is not ours is taken for ours.
    ConflictIgnored,
    /// Nobody looks for what is owed.
    SweepOff,
    /// A batch that is sent again has a new id.
    ResentUnderNewId,
    /// What is already so is refused once its deadline has passed.
    LateRepeatRefused,
    /// A loaded order undoes only what its rows know of.
    ReloadedUndoesLess,
    /// A voided payment does not look a second time.
    LooksOnce,
    /// Each attempt to refund has a name of its own at the provider.
    RefundsUnderNewName,
}

impl Mutant {
    /// Every one.
    pub const ALL: [Self; 13] = [
        Self::NoMark,
        Self::SilenceIsRefusal,
        Self::UndoTooEarly,
        Self::NoBarrier,
        Self::RepeatsDoNotWait,
        Self::EffectsFromUndurable,
        Self::ConflictIgnored,
        Self::SweepOff,
        Self::ResentUnderNewId,
        Self::LateRepeatRefused,
        Self::ReloadedUndoesLess,
        Self::LooksOnce,
        Self::RefundsUnderNewName,
    ];
}

/// Whether this thread runs the mutant: never, outside a simulation.
#[cfg(not(feature = "simulation"))]
pub const fn is(_mutant: Mutant) -> bool {
    false
}

#[cfg(feature = "simulation")]
pub use simulated::{breed, is};

#[cfg(feature = "simulation")]
mod simulated {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static BRED: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// This thread runs the mutant from now on; `None`: the healthy build.
    pub fn breed(mutant: Option<Mutant>) {
        BRED.set(mutant);
    }

    /// Whether this thread runs the mutant.
    pub fn is(mutant: Mutant) -> bool {
        BRED.get() == Some(mutant)
    }
}
