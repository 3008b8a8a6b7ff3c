//! What an aggregate is: a value with pure functions. All that the shop knows is in these.
//!
//! One kind of actor, [`crate::entity`], hosts any of them. To add one, write its file in the order state,
//! commands, events, decide, apply, tests, give it a number in [`Kind`], and a host in
//! [`crate::directory`].

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use souk_persistence::Timestamp;
use uuid::Uuid;

/// The number under which the journal stores an aggregate. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i16)]
#[expect(missing_docs, reason = "each is the aggregate of its name")]
pub enum Kind {
    Account = 1,
    Session = 2,
    Email = 3,
    Category = 4,
    Product = 5,
    Order = 6,
    Payment = 7,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Account,
        Self::Session,
        Self::Email,
        Self::Category,
        Self::Product,
        Self::Order,
        Self::Payment,
    ];

    /// As the journal stores it.
    pub fn number(self) -> i16 {
        self as i16
    }

    /// The kind that the journal stores under `number`.
    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// For people and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Session => "session",
            Self::Email => "email",
            Self::Category => "category",
            Self::Product => "product",
            Self::Order => "order",
            Self::Payment => "payment",
        }
    }
}

/// When an entity that owes nothing leaves memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residence {
    /// At once.
    WhileBusy,
    /// When nobody has asked it for a while, or room is short.
    WhileUsed,
}

/// What an aggregate says to a command.
pub enum Decision<A: Aggregate> {
    /// This happened (perhaps nothing), and this is to be answered once it is durable.
    Done {
        /// What happened.
        events: Vec<A::Event>,
        /// What the asker is told. A refusal may come with events too.
        answer: Result<A::Answer, A::Rejection>,
    },
    /// The world must be asked first; then the command is decided again.
    AskFirst(A::Effect),
    /// Neither done nor refused: past its deadline. Whoever asked may ask again, and will be told the same.
    Unknown,
}

impl<A: Aggregate> Decision<A> {
    /// Nothing happens and nothing needs to: the answer is already so.
    pub fn answer(answer: A::Answer) -> Self {
        Self::Done { events: Vec::new(), answer: Ok(answer) }
    }

    /// It did not happen and will not.
    pub fn reject(rejection: A::Rejection) -> Self {
        Self::Done { events: Vec::new(), answer: Err(rejection) }
    }

    /// One thing happens.
    pub fn event(event: A::Event, answer: A::Answer) -> Self {
        Self::Done { events: vec![event], answer: Ok(answer) }
    }
}

/// A consistency boundary: one stream, one decider.
pub trait Aggregate: Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its number in the journal.
    const KIND: Kind;
    /// A snapshot is written when so many rows have come since the last; 0: never.
    const SNAPSHOT_EVERY: u32;
    /// When it leaves memory.
    const RESIDENCE: Residence;

    /// What it can be asked. It, and what is said to it, may come from another node, of an older or newer build.
    type Command: Serialize + DeserializeOwned + Clone + Send + Sync + Debug + 'static;
    /// What it says to a command that it takes.
    type Answer: Serialize + DeserializeOwned + Send + Debug + 'static;
    /// Why it did not happen and will not.
    type Rejection: Serialize + DeserializeOwned + Send + Debug + 'static;
    /// What happened. Stored for ever: a change must still read the old form.
    type Event: Serialize + DeserializeOwned + Send + Sync + Debug + 'static;
    /// What it can owe the world.
    type Effect: Send + Debug + 'static;
    /// What readers see.
    type View: Serialize + DeserializeOwned + Send + Sync + Debug + 'static;

    /// Decides a command. Pure: the same state, time and command give the same decision.
    fn decide(&self, at: Timestamp, command: &Self::Command) -> Decision<Self>;

    /// Whether this command begins work that goes on after its answer: refused while too much is under way.
    fn begins(_command: &Self::Command) -> bool {
        false
    }

    /// Whether this command may be decided twice, and whoever asked is told the same: then it is asked again where
    /// an entity moves while it is asked. Otherwise the asker learns that nobody knows.
    fn may_repeat(_command: &Self::Command) -> bool {
        true
    }

    /// Lets an event have happened. Total: what has been stored is never refused.
    fn apply(&mut self, at: Timestamp, event: &Self::Event);

    /// Whether this event may wait for the row of what follows it, though the world is asked meanwhile: it is
    /// found again, equal, by asking again. Only the incarnation that made the stream leaves such an event
    /// unwritten, so whoever is loaded must reckon with what it may have done ([`Aggregate::reloaded`]).
    fn may_wait(_event: &Self::Event) -> bool {
        false
    }

    /// This state was loaded: an incarnation before this one may have gone on without a row.
    fn reloaded(&mut self) {}

    /// What this state owes the world, and from when. The earliest time is when the entity must be awake.
    fn effects(&self) -> Vec<(Timestamp, Self::Effect)>;

    /// Names an effect within its entity: of one name one is under way.
    fn effect_name(effect: &Self::Effect) -> &'static str;

    /// What readers see. Holds no secret.
    fn view(&self) -> Self::View;

    /// Whose lists show it.
    fn owner(&self) -> Option<Uuid>;
}

#[cfg(test)]
pub(crate) mod given {
    //! Tests as sentences: given events, when a command, then events and an answer.

    use super::*;

    pub fn micros(at: i64) -> Timestamp {
        Timestamp::from_micros(at)
    }

    /// The state after `events`, each at its time.
    pub fn given<A: Aggregate>(events: &[(i64, A::Event)]) -> A {
        let mut state = A::default();
        for (at, event) in events {
            state.apply(micros(*at), event);
        }
        state
    }

    /// What the command leads to: (events, answer). Panics if the world must be asked, or nothing is known.
    pub fn when<A: Aggregate>(
        state: &A,
        at: i64,
        command: A::Command,
    ) -> (Vec<A::Event>, Result<A::Answer, A::Rejection>) {
        match state.decide(micros(at), &command) {
            Decision::Done { events, answer } => (events, answer),
            Decision::AskFirst(effect) => panic!("the world must be asked first: {effect:?}"),
            Decision::Unknown => panic!("the answer is unknown"),
        }
    }

    /// As [`when`], and the state after it.
    pub fn then<A: Aggregate>(
        state: &mut A,
        at: i64,
        command: A::Command,
    ) -> Result<A::Answer, A::Rejection> {
        let (events, answer) = when(state, at, command);
        for event in &events {
            state.apply(micros(at), event);
        }
        answer
    }
}
