//! Participants outside: a step that somebody elsewhere does, who is asked by a message and answers by one.
//!
//! Each time they are asked is a row of the order, from which the message is derived; so what was asked is known whoever
//! asks next. They are asked again under the same name until they answer; an answer that comes twice or late fits no
//! more and does nothing. One that says what cannot be is not believed.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use souk_persistence::Timestamp;

use super::{CHARGE, Cause, Event, Line, Order, Outcome, RESERVE, Rejection, STEPS, StepName};
use crate::money::{Currency, PRICE_MAX};
use crate::saga::{Direction, Progress};

/// The first answer is waited for so long, each further one twice as long.
const PAUSE_FIRST: Duration = Duration::from_secs(2);
const PAUSE_LAST: Duration = Duration::from_secs(600);
/// The longest name or brand of a line, in bytes.
const TEXT_MAX: usize = 1_000;

/// Which participants of an order are outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    /// Whoever holds the stock.
    pub inventory: bool,
    /// Whoever moves the money.
    pub payment: bool,
}

impl Outside {
    /// Everybody is here.
    pub fn is_nobody(&self) -> bool {
        *self == Self::default()
    }
}

/// A step that was asked outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Which.
    pub step: usize,
    /// Which way.
    pub direction: Direction,
    /// How often.
    pub attempt: u32,
    /// When first.
    pub since: Timestamp,
    /// When last.
    pub at: Timestamp,
}

/// What a participant outside says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The stock is held, at these prices.
    Reserved(Vec<Line>),
    /// The money is there.
    Captured {
        /// In minor units.
        amount: i64,
        /// ISO 4217.
        currency: Currency,
    },
    /// It is taken back, or never was and never will be.
    RolledBack,
    /// It did not happen and will not.
    Refused(Cause),
    /// It cannot be taken back.
    RollbackRefused(Cause),
}

impl Reply {
    fn direction(&self) -> Direction {
        match self {
            Self::Reserved(_) | Self::Captured { .. } | Self::Refused(_) => Direction::Forward,
            Self::RolledBack | Self::RollbackRefused(_) => Direction::Undo,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Reserved(lines) => Outcome::Reserved(lines.clone()),
            Self::Captured { .. } => Outcome::Charged,
            Self::RolledBack => Outcome::Undone,
            Self::Refused(cause) | Self::RollbackRefused(cause) => Outcome::Refused(cause.clone()),
        }
    }
}

impl Order {
    /// Whether somebody outside does the step.
    pub(super) fn is_outside(&self, step: usize) -> bool {
        let outside = self.accepted.as_ref().map(|accepted| accepted.outside).unwrap_or_default();
        match step {
            RESERVE => outside.inventory,
            CHARGE => outside.payment,
            _ => false,
        }
    }

    /// The last step that an incarnation before this one may have asked, if it stood at `step`. Somebody outside is asked
    /// by a row: without one they never were.
    pub(super) fn furthest(&self, step: usize) -> usize {
        let may_be_asked =
            |step: usize| !self.is_outside(step) || self.asked(step, Direction::Forward).is_some();
        (step + 1..STEPS.len()).rev().find(|step| may_be_asked(*step)).unwrap_or(step)
    }

    /// How often the step was asked outside, and when last.
    pub(super) fn asked(&self, step: usize, direction: Direction) -> Option<&Asked> {
        self.asked.iter().find(|asked| (asked.step, asked.direction) == (step, direction))
    }

    /// When the step is to be asked, again or for the first time.
    pub(super) fn ask_at(&self, step: usize, direction: Direction) -> Timestamp {
        let Some(asked) = self.asked(step, direction) else { return Timestamp::default() };
        let pause = PAUSE_FIRST.saturating_mul(1 << asked.attempt.saturating_sub(1).min(20)).min(PAUSE_LAST);
        let next = asked.at + pause;
        match direction {
            // Its deadline is judged when it comes.
            Direction::Forward if self.known().reserve_by > asked.at => next.min(self.known().reserve_by),
            Direction::Forward | Direction::Undo => next,
        }
    }

    /// Notes that it is asked.
    pub(super) fn asks(&mut self, at: Timestamp, step: usize, direction: Direction, attempt: u32) {
        let since = self.asked(step, direction).map_or(at, |asked| asked.since);
        self.asked.retain(|one| (one.step, one.direction) != (step, direction));
        self.asked.push(Asked { step, direction, attempt, since, at });
    }

    /// It is time to ask, if it was asked so often before.
    pub(super) fn ask(&self, at: Timestamp, step: usize, direction: Direction, attempt: u32) -> Vec<Event> {
        let stands_there = match &self.progress {
            Some(Progress::Forward { step: current }) => (*current, Direction::Forward) == (step, direction),
            Some(Progress::Unwinding { step: current, .. }) => {
                (*current, Direction::Undo) == (step, direction)
            }
            None | Some(Progress::Completed | Progress::Unwound { .. }) => false,
        };
        let asked = self.asked(step, direction).map_or(0, |asked| asked.attempt);
        if !stands_there || !self.is_outside(step) || asked != attempt {
            return Vec::new();
        }
        match direction {
            Direction::Forward if at >= self.known().reserve_by => {
                self.step_answered(at, step, direction, &Outcome::Unknown)
            }
            Direction::Forward | Direction::Undo => {
                vec![Event::Asked { step, direction, attempt: attempt.saturating_add(1) }]
            }
        }
    }

    /// Somebody outside has answered.
    pub(super) fn replied(
        &self,
        at: Timestamp,
        name: StepName,
        reply: &Reply,
    ) -> Result<Vec<Event>, Rejection> {
        if self.accepted.is_none() {
            return Err(Rejection::NotFound);
        }
        let direction = reply.direction();
        let disbelieved = |detail: &str| Err(Rejection::Disbelieved { detail: detail.to_owned() });
        let is_asked = |step: &usize| STEPS[*step].name == name && self.asked(*step, direction).is_some();
        let Some(step) = (0..STEPS.len()).find(is_asked) else {
            return disbelieved("nobody outside was asked for this");
        };
        match reply {
            Reply::Reserved(_) if step != RESERVE => return disbelieved("this step reserves nothing"),
            Reply::Captured { .. } if step != CHARGE => return disbelieved("this step charges nothing"),
            Reply::Reserved(lines) => {
                if let Some(wrong) = self.wrong_lines(lines) {
                    return disbelieved(wrong);
                }
            }
            Reply::Captured { amount, currency } => {
                let asked = (self.amount, self.known().currency);
                if (Some(*amount), *currency) != asked {
                    return disbelieved("another amount was asked for");
                }
            }
            Reply::RolledBack | Reply::Refused(_) | Reply::RollbackRefused(_) => {}
        }
        Ok(self.step_answered(at, step, direction, &reply.outcome()))
    }

    fn wrong_lines(&self, lines: &[Line]) -> Option<&'static str> {
        let ordered: HashSet<_> =
            self.known().items.iter().map(|item| (item.product, item.quantity)).collect();
        let held: HashSet<_> = lines.iter().map(|line| (line.product, line.quantity)).collect();
        if lines.len() != held.len() || ordered != held {
            return Some("other products or quantities were asked for");
        }
        if lines.iter().any(|line| !(0..=PRICE_MAX).contains(&line.price)) {
            return Some("a price is out of bounds");
        }
        let texts = || lines.iter().flat_map(|line| [&line.name, &line.brand]);
        if texts().any(|text| text.contains('\0')) {
            // PostgreSQL would store it and never read it again.
            return Some("a name holds a NUL");
        }
        texts().any(|text| text.len() > TEXT_MAX).then_some("a name is too long")
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{DEADLINE, accepted, customer, dong, lines, place, reserved, short, unwinding};
    use super::super::{Command, Effect, Place};
    use super::*;
    use crate::aggregate::given::micros;
    use crate::aggregate::given::{given, when};
    use crate::aggregate::{Aggregate, Decision};

    fn outside(inventory: bool, payment: bool) -> (i64, Event) {
        let placed = Place { outside: Outside { inventory, payment }, ..place(Some("a")) };
        let (events, _) = when(&Order::default(), 0, Command::Place(placed));
        (0, events.into_iter().next().expect("accepted"))
    }

    fn asked(at: i64, step: usize, direction: Direction, attempt: u32) -> (i64, Event) {
        (at, Event::Asked { step, direction, attempt })
    }

    fn reply(step: usize, reply: Reply) -> Command {
        Command::Replied { step: STEPS[step].name, reply }
    }

    fn captured(amount: i64) -> Command {
        reply(CHARGE, Reply::Captured { amount, currency: dong() })
    }

    /// What is owed: (step, direction, how often it was asked, from when).
    fn owed(order: &Order) -> (usize, Direction, u32, i64) {
        match order.effects().as_slice() {
            [(from, Effect::AskOutside { step, direction, attempt, .. })] => {
                (*step, *direction, *attempt, from.micros())
            }
            other => panic!("somebody outside is to be asked: {other:?}"),
        }
    }

    #[test]
    fn whoever_is_outside_is_asked_by_a_row_and_again_later_and_later() {
        let forward = Direction::Forward;
        let begun = [outside(false, true), reserved()];
        let order: Order = given(&begun);
        assert_eq!(owed(&order), (CHARGE, forward, 0, 0));
        let ask = |attempt| Command::Ask { step: CHARGE, direction: forward, attempt };
        assert_eq!(when(&order, 2, ask(0)).0, [asked(2, CHARGE, forward, 1).1]);

        let order: Order = given(&[begun[0].clone(), begun[1].clone(), asked(2, CHARGE, forward, 1)]);
        assert_eq!(owed(&order), (CHARGE, forward, 1, 2_000_002));
        assert_eq!(when(&order, 9, ask(0)).0, [], "that was asked");
        let second = asked(2_000_002, CHARGE, forward, 2);
        assert_eq!(when(&order, 2_000_002, ask(1)).0, std::slice::from_ref(&second.1));
        let third = asked(9_000_000, CHARGE, forward, 3);
        let order: Order =
            given(&[begun[0].clone(), begun[1].clone(), asked(2, CHARGE, forward, 1), second, third]);
        assert_eq!(owed(&order).3, DEADLINE, "its deadline is judged when it comes");
    }

    #[test]
    fn an_answer_that_fits_leads_on_and_the_same_one_again_does_nothing() {
        let events = [outside(false, true), reserved(), asked(2, CHARGE, Direction::Forward, 1)];
        let mut order: Order = given(&events);
        assert_eq!(when(&order, 3, captured(1_250)).0, [Event::Completed]);
        order.apply(micros(3), &Event::Completed);
        assert_eq!(when(&order, 4, captured(1_250)), (vec![], Ok(super::super::Answer::Noted)));
    }

    #[test]
    fn an_answer_that_cannot_be_is_not_believed() {
        let refused = |order: &Order, command: Command| match order.decide(micros(9), &command) {
            Decision::Done { events, answer: Err(Rejection::Disbelieved { detail }) }
                if events.is_empty() =>
            {
                detail
            }
            Decision::Done { events, answer } => panic!("it was believed: {events:?} {answer:?}"),
            Decision::AskFirst(_) | Decision::Unknown => panic!("it was believed"),
        };
        let here: Order = given(&[accepted(), reserved()]);
        assert!(refused(&here, captured(1_250)).contains("nobody outside"));
        let waiting: Order = given(&[outside(false, true), reserved()]);
        assert!(refused(&waiting, captured(1_250)).contains("nobody outside"), "nobody was asked yet");
        let events = [outside(true, true), asked(1, RESERVE, Direction::Forward, 1)];
        let reserving: Order = given(&events);
        let mut other = lines();
        other[0].quantity += 1;
        assert!(refused(&reserving, reply(RESERVE, Reply::Reserved(other))).contains("quantities"));
        let mut twice = lines();
        twice.push(twice[0].clone());
        assert!(refused(&reserving, reply(RESERVE, Reply::Reserved(twice))).contains("quantities"));
        let mut dear = lines();
        dear[1].price = -1;
        assert!(refused(&reserving, reply(RESERVE, Reply::Reserved(dear))).contains("price"));
        let mut unreadable = lines();
        unreadable[0].brand = "\0".to_owned();
        assert!(refused(&reserving, reply(RESERVE, Reply::Reserved(unreadable))).contains("NUL"));
        let charging: Order =
            given(&[outside(false, true), reserved(), asked(2, CHARGE, Direction::Forward, 1)]);
        assert!(refused(&charging, captured(1)).contains("amount"));
        assert!(refused(&charging, reply(CHARGE, Reply::Reserved(lines()))).contains("reserves nothing"));
        assert!(refused(&charging, reply(CHARGE, Reply::RolledBack)).contains("nobody outside"));
    }

    #[test]
    fn silence_past_the_deadline_turns_it_round_and_the_undo_is_asked_for_ever() {
        let forward = Direction::Forward;
        let order: Order = given(&[outside(false, true), reserved(), asked(2, CHARGE, forward, 1)]);
        let (events, _) =
            when(&order, DEADLINE, Command::Ask { step: CHARGE, direction: forward, attempt: 1 });
        assert_eq!(events, [Event::Unwinding { step: CHARGE, cause: Cause::DeadlineExceeded }]);
        let undo = Direction::Undo;
        let order: Order = given(&[
            outside(false, true),
            reserved(),
            asked(2, CHARGE, forward, 1),
            unwinding(CHARGE, Cause::DeadlineExceeded),
            asked(DEADLINE, CHARGE, undo, 40),
        ]);
        assert_eq!(owed(&order), (CHARGE, undo, 40, DEADLINE + 600_000_000));
        let late = when(&order, DEADLINE + 1, captured(1_250));
        assert_eq!(late.0, [], "it is being taken back");
        assert_eq!(
            when(&order, DEADLINE + 1, reply(CHARGE, Reply::RolledBack)).0,
            [Event::Undone { step: CHARGE }]
        );
    }

    #[test]
    fn a_loaded_order_takes_back_outside_only_what_was_asked_there() {
        let expired = Command::Ask { step: RESERVE, direction: Direction::Forward, attempt: 1 };
        let turned = |inventory, payment| {
            let events = [outside(inventory, payment), asked(1, RESERVE, Direction::Forward, 1)];
            let mut order: Order = given(&events);
            order.reloaded();
            when(&order, DEADLINE, expired.clone()).0
        };
        let unwinding = |step| [Event::Unwinding { step, cause: Cause::DeadlineExceeded }];
        assert_eq!(turned(true, true), unwinding(RESERVE), "no row asks for money");
        assert_eq!(turned(true, false), unwinding(CHARGE), "here it may have been charged without a row");
    }

    #[test]
    fn a_refusal_unwinds_and_an_order_whose_stock_is_outside_owes_no_settling() {
        let events = [outside(true, false), asked(1, RESERVE, Direction::Forward, 1)];
        let order: Order = given(&events);
        let refusal = reply(RESERVE, Reply::Refused(short()));
        assert_eq!(when(&order, 2, refusal).0, [Event::Unwinding { step: RESERVE, cause: short() }]);
        let (events_of_reserving, _) = when(&order, 2, reply(RESERVE, Reply::Reserved(lines())));
        assert_eq!(events_of_reserving, [reserved().1]);
        let mut all = events.to_vec();
        all.extend([reserved(), (3, Event::Completed)]);
        let completed: Order = given(&all);
        assert_eq!(completed.effects(), []);
        assert_eq!(completed.accepted().map(|accepted| accepted.customer), Some(customer()));
    }
}
