//! What a saga is, apart from what it does: where it stands, what its next move is, and what an answer
//! leads to. Pure.
//!
//! Steps run forward one after the other. A refusal, a passed deadline or a cancellation turns it round:
//! from then on it undoes, beginning with the step in doubt (an undo succeeds even if its action never
//! ran) and ending with the first. There is no way back from unwinding, and none from completion.

use serde::{Deserialize, Serialize};

/// A step of a saga over `S`, named by an `N`, which owes `E`.
pub struct Step<S, N, E> {
    /// Its name for people and topics.
    pub name: N,
    /// What is asked of the world.
    pub ask: fn(&S) -> E,
    /// What takes it back, whether or not it ever ran.
    pub undo: fn(&S) -> E,
}

impl<S, N: Copy, E> Step<S, N, E> {
    /// A step that asks; say with [`Step::undo`] what takes it back.
    pub const fn new(name: N, ask: fn(&S) -> E) -> Self {
        Self { name, ask, undo: ask }
    }

    /// What takes the step back.
    pub const fn undo(self, undo: fn(&S) -> E) -> Self {
        Self { name: self.name, ask: self.ask, undo }
    }
}

/// Which way a step is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// Do it.
    Forward,
    /// Take it back.
    Undo,
}

/// Where a saga stands; `C` says why it turned round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress<C> {
    /// The step is being asked.
    Forward {
        /// Its index.
        step: usize,
    },
    /// The step is being taken back.
    Unwinding {
        /// Its index.
        step: usize,
        /// Why.
        cause: C,
    },
    /// Past the pivot: it can only be finished.
    Completed,
    /// Everything is taken back.
    Unwound {
        /// Why.
        cause: C,
    },
}

/// What an ask was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered<C> {
    /// It is so.
    Yes,
    /// It is not so and will not be.
    No(C),
    /// Nobody knows.
    Unknown,
}

/// What an answer leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn<C> {
    /// The step is done; the next one is asked, or the saga is complete.
    Advance,
    /// It turns round, beginning with `step`.
    TurnRound {
        /// The step to undo first.
        step: usize,
        /// Why.
        cause: C,
    },
    /// The undo is done; the one before is next, or everything is taken back.
    Undone,
    /// An undo was refused: a person must look.
    NeedsPerson(C),
    /// Nothing: it no longer fits, or nobody knows yet.
    Nothing,
}

impl<C: Clone> Progress<C> {
    /// What the answer to (`step`, `direction`) leads to; `expired` is the cause if the deadline has
    /// passed, judged only now that the step has been asked: what is already so counts, however late.
    pub fn turn(
        &self,
        step: usize,
        direction: Direction,
        answered: Answered<C>,
        expired: Option<C>,
    ) -> Turn<C> {
        match (self, direction) {
            (Self::Forward { step: current }, Direction::Forward) if *current == step => match answered {
                Answered::Yes => Turn::Advance,
                Answered::No(cause) => Turn::TurnRound { step, cause },
                Answered::Unknown => match expired {
                    Some(cause) => Turn::TurnRound { step, cause },
                    None => Turn::Nothing,
                },
            },
            (Self::Unwinding { step: current, .. }, Direction::Undo) if *current == step => match answered {
                Answered::Yes => Turn::Undone,
                Answered::No(cause) => Turn::NeedsPerson(cause),
                Answered::Unknown => Turn::Nothing,
            },
            (
                Self::Forward { .. } | Self::Unwinding { .. } | Self::Completed | Self::Unwound { .. },
                Direction::Forward | Direction::Undo,
            ) => Turn::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNDOING: Progress<&str> = Progress::Unwinding { step: 1, cause: "declined" };

    #[test]
    fn a_yes_advances_and_a_no_turns_round_beginning_with_the_step_that_refused() {
        let asking = Progress::Forward { step: 1 };
        assert_eq!(asking.turn(1, Direction::Forward, Answered::Yes, Some("late")), Turn::Advance);
        assert_eq!(
            asking.turn(1, Direction::Forward, Answered::No("declined"), None),
            Turn::TurnRound { step: 1, cause: "declined" }
        );
    }

    #[test]
    fn a_deadline_turns_it_round_only_once_the_step_has_been_asked_and_nobody_knew() {
        let asking = Progress::Forward { step: 0 };
        assert_eq!(asking.turn(0, Direction::Forward, Answered::Unknown, None), Turn::Nothing);
        assert_eq!(
            asking.turn(0, Direction::Forward, Answered::Unknown, Some("late")),
            Turn::TurnRound { step: 0, cause: "late" }
        );
    }

    #[test]
    fn an_undo_is_never_given_up_and_only_its_refusal_needs_a_person() {
        assert_eq!(UNDOING.turn(1, Direction::Undo, Answered::Unknown, Some("late")), Turn::Nothing);
        assert_eq!(UNDOING.turn(1, Direction::Undo, Answered::Yes, None), Turn::Undone);
        assert_eq!(UNDOING.turn(1, Direction::Undo, Answered::No("never"), None), Turn::NeedsPerson("never"));
    }

    #[test]
    fn an_answer_that_no_longer_fits_is_ignored() {
        for progress in [UNDOING, Progress::Completed, Progress::Unwound { cause: "declined" }] {
            assert_eq!(progress.turn(1, Direction::Forward, Answered::Yes, None), Turn::Nothing);
            assert_eq!(progress.turn(0, Direction::Undo, Answered::Yes, None), Turn::Nothing);
        }
        let asking = Progress::<&str>::Forward { step: 1 };
        assert_eq!(asking.turn(0, Direction::Forward, Answered::Yes, None), Turn::Nothing);
        assert_eq!(asking.turn(1, Direction::Undo, Answered::Yes, None), Turn::Nothing);
    }
}
