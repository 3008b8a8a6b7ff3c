//! A session: a stream that knows the number of its current refresh token.
//!
//! A token is sealed by the door from (session, number), so no secret is stored. The current number is
//! answered with the next. The one before is answered with that same number again for ten seconds, because
//! a lost answer must not log anybody out. An older one was stolen, or its thief was here before: the
//! session ends, by a row.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use souk_persistence::Timestamp;
use uuid::Uuid;

use crate::account::Account;
use crate::aggregate::{Aggregate, Decision, Kind, Residence};
use crate::ids::Id;

/// For how long the token before the current one is answered again.
pub const GRACE: Duration = Duration::from_secs(10);

/// A session.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Session {
    started: Option<Started>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Started {
    account: Id<Account>,
    number: u32,
    rotated_at: Timestamp,
    ended: bool,
}

/// What a session can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Begin it.
    Start {
        /// Whose.
        account: Id<Account>,
    },
    /// A refresh token was shown.
    Refresh {
        /// Its number.
        number: u32,
    },
}

/// The refresh token to be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whose session it is.
    pub account: Id<Account>,
    /// The token's number.
    pub number: u32,
}

/// The session is over, or never was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Over;

/// What happened to a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// It began, with token 1.
    Started {
        /// Whose.
        account: Id<Account>,
    },
    /// The next token is current.
    Rotated,
    /// An old token was shown.
    Ended,
}

/// What is told of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// It is over.
    pub ended: bool,
}

impl Session {
    fn refresh(&self, at: Timestamp, number: u32) -> Decision<Self> {
        let Some(started) = self.started.as_ref().filter(|started| !started.ended) else {
            return Decision::reject(Over);
        };
        let answer = |number| Answer { account: started.account, number };
        let is_one_before = number.checked_add(1) == Some(started.number);
        if number == started.number {
            match number.checked_add(1) {
                Some(next) => Decision::event(Event::Rotated, answer(next)),
                None => Decision::reject(Over),
            }
        } else if is_one_before && at < started.rotated_at + GRACE {
            Decision::answer(answer(started.number))
        } else if number < started.number {
            Decision::Done { events: vec![Event::Ended], answer: Err(Over) }
        } else {
            // Sealed by us, yet never handed out: written by an owner whose row was refused.
            Decision::reject(Over)
        }
    }
}

impl Aggregate for Session {
    const KIND: Kind = Kind::Session;
    const SNAPSHOT_EVERY: u32 = 1;
    const RESIDENCE: Residence = Residence::WhileBusy;

    type Command = Command;
    type Answer = Answer;
    type Rejection = Over;
    type Event = Event;
    type Effect = std::convert::Infallible;
    type View = View;

    fn decide(&self, at: Timestamp, command: &Command) -> Decision<Self> {
        match (command, &self.started) {
            (Command::Start { account }, None) => {
                let answer = Answer { account: *account, number: 1 };
                Decision::event(Event::Started { account: *account }, answer)
            }
            (Command::Start { .. }, Some(started)) => {
                Decision::answer(Answer { account: started.account, number: started.number })
            }
            (Command::Refresh { number }, _) => self.refresh(at, *number),
        }
    }

    fn apply(&mut self, at: Timestamp, event: &Event) {
        match (event, &mut self.started) {
            (Event::Started { account }, _) => {
                self.started = Some(Started { account: *account, number: 1, rotated_at: at, ended: false });
            }
            (Event::Rotated, Some(started)) => {
                started.number = started.number.saturating_add(1);
                started.rotated_at = at;
            }
            (Event::Ended, Some(started)) => started.ended = true,
            (Event::Rotated | Event::Ended, None) => {}
        }
    }

    fn effects(&self) -> Vec<(Timestamp, Self::Effect)> {
        Vec::new()
    }

    fn effect_name(effect: &Self::Effect) -> &'static str {
        match *effect {}
    }

    fn view(&self) -> View {
        View { ended: self.started.as_ref().is_some_and(|started| started.ended) }
    }

    fn owner(&self) -> Option<Uuid> {
        self.started.as_ref().map(|started| started.account.uuid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::given::{given, then, when};

    const SECOND: i64 = 1_000_000;

    fn account() -> Id<Account> {
        Id::from(Uuid::from_u128(1))
    }

    fn token(number: u32) -> Result<Answer, Over> {
        Ok(Answer { account: account(), number })
    }

    fn refresh(number: u32) -> Command {
        Command::Refresh { number }
    }

    fn started_and_rotated() -> Session {
        given(&[(0, Event::Started { account: account() }), (SECOND, Event::Rotated)])
    }

    #[test]
    fn a_session_begins_with_token_one_and_the_same_start_is_the_same_session() {
        let mut session = Session::default();
        assert_eq!(then(&mut session, 0, Command::Start { account: account() }), token(1));
        assert_eq!(when(&session, 1, Command::Start { account: account() }), (vec![], token(1)));
    }

    #[test]
    fn the_current_token_is_answered_with_the_next() {
        assert_eq!(when(&started_and_rotated(), 2 * SECOND, refresh(2)), (vec![Event::Rotated], token(3)));
    }

    #[test]
    fn a_lost_answer_is_given_again_for_ten_seconds() {
        let session = started_and_rotated();
        assert_eq!(when(&session, 10 * SECOND, refresh(1)), (vec![], token(2)));
        assert_eq!(when(&session, 11 * SECOND, refresh(1)), (vec![Event::Ended], Err(Over)));
    }

    #[test]
    fn an_older_token_ends_the_session_for_everybody() {
        let mut session = started_and_rotated();
        then(&mut session, 2 * SECOND, refresh(2)).expect("the third token");
        assert_eq!(then(&mut session, 3 * SECOND, refresh(1)), Err(Over));
        assert_eq!(when(&session, 3 * SECOND, refresh(3)), (vec![], Err(Over)));
    }

    #[test]
    fn a_token_of_no_session_or_of_the_future_is_refused_and_nothing_is_written() {
        assert_eq!(when(&Session::default(), 1, refresh(1)), (vec![], Err(Over)));
        assert_eq!(when(&started_and_rotated(), 2 * SECOND, refresh(9)), (vec![], Err(Over)));
    }
}
