//! What an entity is sent, and what it begins with.

use std::sync::Arc;

use crate::admission::{Gate, Permit};
use crate::aggregate::Aggregate;
use crate::entity::Reply;
use crate::host::Host;
use crate::ids::Id;

/// What an entity can be sent.
#[derive(Debug)]
pub enum Message<A: Aggregate> {
    /// Somebody asks.
    Ask(Envelope<A>),
    /// What the world answered to an effect. Delivered by name: it may be another incarnation's.
    Answered(Effected<A>),
    /// Whoever performed this effect panicked: there will be no answer.
    EffectPanicked(&'static str),
    /// The row is durable; what was held for it has been released.
    Durable(i32),
    /// A row is not ours.
    NotOurs,
    /// The database refuses a row.
    Poisoned(Arc<str>),
    /// Look again at what is owed.
    Wake(Permit),
    /// Leave memory, if at rest.
    Leave,
}

impl<A: Aggregate> Message<A> {
    /// Its name, for a simulation.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ask(_) => "ask",
            Self::Answered(_) => "answered",
            Self::EffectPanicked(_) => "effect panicked",
            Self::Durable(_) => "durable",
            Self::NotOurs => "not ours",
            Self::Poisoned(_) => "poisoned",
            Self::Wake(_) => "wake",
            Self::Leave => "leave",
        }
    }
}

/// A command and who waits for its answer.
#[derive(Debug)]
pub struct Envelope<A: Aggregate> {
    /// What is asked.
    pub command: A::Command,
    /// Where the answer goes.
    pub reply: Reply<Outcome<A>>,
}

/// What an aggregate answers.
pub type Outcome<A> = Result<<A as Aggregate>::Answer, <A as Aggregate>::Rejection>;

/// The answer of the world, as a command.
#[derive(Debug)]
pub struct Effected<A: Aggregate> {
    /// Who asked.
    pub incarnation: u64,
    /// The effect's name.
    pub effect: &'static str,
    /// What was answered.
    pub command: A::Command,
    /// The place in the mailbox.
    pub permit: Permit,
}

/// How an entity begins.
#[derive(Debug)]
pub struct Birth<A: Aggregate> {
    /// Where it lives.
    pub host: Arc<Host<A>>,
    /// Who it is.
    pub id: Id<A>,
    /// Which of its lives this is, unique in this process.
    pub incarnation: u64,
    /// Its stream is known to be empty.
    pub is_new: bool,
    /// How often it has failed since it last wrote a row.
    pub failures: u32,
    /// The bound of its mailbox.
    pub gate: Arc<Gate>,
}

/// Only within a node: an entity is never seen from another one.
impl<A: Aggregate> ractor::Message for Message<A> {}
