//! The failure matrix: every step and every undo of the saga × what can befall it × where it goes on.
//!
//! A case is data ([`Case`]), one runner ([`run::run`]) plays any of them on a stage of its own, and what
//! must be true afterwards is [`crate::truth`]. Then each undo is repeated, and each late action refused.

pub mod crashes;
pub mod run;

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::plot::Action;
use crate::stage::{Counts, play};
use run::run;

/// How a purchase would go if nothing befell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// It is completed.
    Plain,
    /// The bank declines.
    Declined,
    /// The bank says that it declined, and has captured.
    CapturedButDeclined,
    /// Less is left than is ordered.
    OutOfStock,
    /// It is cancelled while stock is being reserved.
    CancelledAtReserve,
    /// It is cancelled while it is being charged.
    CancelledAtCharge,
}

impl Scenario {
    /// The customer cancels when this is on its way.
    fn cancels_at(self) -> Option<Action> {
        match self {
            Self::CancelledAtReserve => Some(Action::Reserve),
            Self::CancelledAtCharge => Some(Action::BankCharge),
            Self::Plain | Self::Declined | Self::CapturedButDeclined | Self::OutOfStock => None,
        }
    }

    const ALL: [Self; 6] = [
        Self::Plain,
        Self::Declined,
        Self::CapturedButDeclined,
        Self::OutOfStock,
        Self::CancelledAtReserve,
        Self::CancelledAtCharge,
    ];

    /// What is asked of somebody in the course of it.
    fn actions(self) -> &'static [Action] {
        use Action::{BankCharge, Charge, Look, Refund, Release, Reserve, Settle, Void};
        match self {
            Self::Plain => &[Reserve, Charge, BankCharge, Settle],
            Self::Declined => &[Reserve, Charge, BankCharge, Void, Look, Release],
            Self::CapturedButDeclined => &[Charge, BankCharge, Void, Look, Refund, Release],
            Self::OutOfStock | Self::CancelledAtReserve => &[Reserve, Release],
            Self::CancelledAtCharge => &[Reserve, Charge, BankCharge, Void, Refund, Release],
        }
    }
}

/// What befalls an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It is refused.
    Refused,
    /// Nobody answers; it was not done.
    RequestLost,
    /// Nobody answers; it was done.
    AnswerLost,
    /// Whoever asks is told that nobody knows; it was not done.
    Unknown,
    /// Whoever asks is told that nobody knows; it was done.
    DoneUnknown,
    /// Whoever is asked dies before it looks at the request; of the bank's calls, whoever asks.
    ParticipantCrashesBefore,
    /// Whoever is asked dies when it has decided and nothing is durable; of the bank's calls, whoever asks.
    ParticipantCrashesAfter,
    /// Whoever asks dies before it hears the answer.
    AskerCrashesBefore,
    /// Whoever asks dies when it has heard the answer and nothing is durable.
    AskerCrashesAfter,
    /// The request arrives twice.
    AskedTwice,
    /// The answer arrives twice.
    AnsweredTwice,
    /// The request arrives when nobody waits for it any more.
    RequestLate,
    /// The answer arrives when nobody waits for it any more.
    AnswerLate,
}

impl Fault {
    const ALL: [Self; 13] = [
        Self::Refused,
        Self::RequestLost,
        Self::AnswerLost,
        Self::Unknown,
        Self::DoneUnknown,
        Self::ParticipantCrashesBefore,
        Self::ParticipantCrashesAfter,
        Self::AskerCrashesBefore,
        Self::AskerCrashesAfter,
        Self::AskedTwice,
        Self::AnsweredTwice,
        Self::RequestLate,
        Self::AnswerLate,
    ];

    /// The name under which it is counted.
    fn class(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::RequestLost | Self::AnswerLost => "timed out",
            Self::Unknown | Self::DoneUnknown => "answered unknown",
            Self::ParticipantCrashesBefore | Self::AskerCrashesBefore => "crashed before",
            Self::ParticipantCrashesAfter | Self::AskerCrashesAfter => "crashed after",
            Self::AskedTwice | Self::AnsweredTwice => "answered twice",
            Self::RequestLate | Self::AnswerLate => "answered late",
        }
    }

    /// Whether there is such a thing.
    fn befalls(self, action: Action) -> bool {
        match self {
            // The bank can refuse a charge, and nothing else.
            Self::Refused => !matches!(action, Action::Look | Action::Refund),
            // Whoever settles is no entity: its answer is not a message.
            Self::AskerCrashesBefore | Self::AskerCrashesAfter | Self::AnsweredTwice => {
                action != Action::Settle
            }
            // The bank does not crash with us: what dies is whoever asked it.
            Self::ParticipantCrashesBefore | Self::ParticipantCrashesAfter => action.participant().is_some(),
            Self::RequestLost
            | Self::AnswerLost
            | Self::Unknown
            | Self::DoneUnknown
            | Self::AskedTwice
            | Self::RequestLate
            | Self::AnswerLate => true,
        }
    }

    /// Whether it can go on for so long that a deadline passes.
    fn can_last(self) -> bool {
        match self {
            Self::RequestLost | Self::AnswerLost | Self::Unknown | Self::DoneUnknown => true,
            Self::Refused
            | Self::ParticipantCrashesBefore
            | Self::ParticipantCrashesAfter
            | Self::AskerCrashesBefore
            | Self::AskerCrashesAfter
            | Self::AskedTwice
            | Self::AnsweredTwice
            | Self::RequestLate
            | Self::AnswerLate => false,
        }
    }
}

/// Where the purchase goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// On the same node.
    Same,
    /// On another: this one loses power at the moment of the fault.
    Elsewhere,
    /// On both at once: another takes over, and this one does not know.
    Both,
}

impl Place {
    const ALL: [Self; 3] = [Self::Same, Self::Elsewhere, Self::Both];
}

/// For how long it befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Span {
    /// The first attempt.
    Once,
    /// Every attempt until so long after the first.
    For(Duration),
}

/// Past the deadline of a purchase.
pub const LONG: Span = Span::For(Duration::from_secs(12));

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    pub scenario: Scenario,
    pub action: Action,
    pub fault: Fault,
    pub place: Place,
    pub span: Span,
}

/// The table.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for scenario in Scenario::ALL {
        for action in scenario.actions() {
            for fault in Fault::ALL.into_iter().filter(|fault| fault.befalls(*action)) {
                for place in Place::ALL {
                    let case = Case { scenario, action: *action, fault, place, span: Span::Once };
                    cases.push(case);
                    if fault.can_last() {
                        cases.push(Case { span: LONG, ..case });
                    }
                }
            }
        }
    }
    cases
}

/// Plays a case: what befell and how many rows each law was judged by, or what is broken.
pub fn try_case(case: Case) -> Result<(Counts, Counts), String> {
    play(0, run(case)).map_err(|broken| format!("{case:?}: {broken}"))
}

#[test]
fn every_step_and_every_undo_survives_whatever_befalls_it() {
    let started = Instant::now();
    let cases = cases();
    let (mut faults, mut rows) = (Counts::default(), Counts::default());
    let mut classes: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut broken = Vec::new();
    for case in &cases {
        *classes.entry(case.fault.class()).or_default() += 1;
        match try_case(*case) {
            Ok((befell, judged)) => {
                faults.merge(&befell);
                rows.merge(&judged);
            }
            Err(error) => broken.push(error),
        }
    }
    let classes: Vec<_> = classes.iter().map(|(class, count)| format!("{class} {count}")).collect();
    // Past the capture of the test harness: the size is part of what is shown.
    let _ = writeln!(
        std::io::stderr(),
        "matrix: {} cases ({}), {} faults, {:.1} s\nmatrix: no law is broken; rows that each saw: {rows}",
        cases.len(),
        classes.join(", "),
        faults.total(),
        started.elapsed().as_secs_f64(),
    );
    assert!(broken.is_empty(), "{} broken, the first: {}", broken.len(), broken[0]);
}
