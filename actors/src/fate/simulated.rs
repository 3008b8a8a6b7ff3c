//! The fates that a simulation deals out.

use std::any::Any;
use std::cell::RefCell;
use std::panic;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Answer, Moment};
use crate::aggregate::{Aggregate, Kind};
use crate::host::Host;
use crate::ids::Id;

/// What becomes of a message, and of its answer.
pub enum Fate {
    /// It arrives, and so does its answer.
    Delivered,
    /// It gets lost, and nobody is told.
    RequestLost,
    /// It arrives; its answer gets lost, and nobody is told.
    AnswerLost,
    /// It does not arrive, and whoever asks is told that nobody knows.
    Unknown,
    /// It arrives, and whoever asks is told that nobody knows.
    DoneUnknown,
    /// It arrives twice, and is answered once.
    Twice,
    /// It arrives late, whether or not somebody still waits.
    RequestLate(Duration),
    /// Its answer arrives late.
    AnswerLate(Duration),
    /// It does not arrive, and is answered with this rejection.
    Refused(Box<dyn Any>),
    /// Once it has been answered this happens, and the answer is lost.
    Then(Box<dyn FnOnce() + Send>),
}

/// A message that is about to leave.
#[derive(Clone, Copy)]
pub struct Sent<'a> {
    /// The kind of the entity that it is for.
    pub kind: Kind,
    /// Its id.
    pub to: Uuid,
    /// What it is.
    pub what: What<'a>,
}

/// What a message is.
#[derive(Clone, Copy)]
pub enum What<'a> {
    /// The aggregate's command.
    Ask(&'a dyn Any),
    /// The world's answer to the effect of this name, as the aggregate's command.
    Answer(&'static str, &'a dyn Any),
}

/// Decides what happens.
pub trait Director {
    /// The fate of a message.
    fn fate(&self, sent: Sent<'_>) -> Fate;
    /// Whether an entity that handles a message panics now.
    fn strikes(&self, kind: Kind, id: Uuid, message: &'static str, moment: Moment) -> bool;
}

thread_local! {
    static DIRECTOR: RefCell<Option<Rc<dyn Director>>> = const { RefCell::new(None) };
}

/// Who directs this thread from now on; `None`: nobody, and nothing ever happens.
pub fn direct(director: Option<Rc<dyn Director>>) {
    DIRECTOR.set(director);
}

fn director() -> Option<Rc<dyn Director>> {
    DIRECTOR.with_borrow(Clone::clone)
}

fn fate(kind: Kind, to: Uuid, what: What<'_>) -> Fate {
    director().map_or(Fate::Delivered, |director| director.fate(Sent { kind, to, what }))
}

/// Panics if the director says so, quietly.
pub(crate) fn strike(kind: Kind, id: Uuid, message: &'static str, moment: Moment) {
    if director().is_some_and(|director| director.strikes(kind, id, message, moment)) {
        panic::resume_unwind(Box::new(format!("struck at {message}")));
    }
}

/// Carries a command to an entity, or does with it what the director says.
pub(crate) fn carry<A: Aggregate>(
    host: &Arc<Host<A>>,
    id: Id<A>,
    command: A::Command,
    is_new: bool,
) -> Answer<A> {
    let fate = fate(A::KIND, id.uuid(), What::Ask(&command));
    let (mut to, answer) = oneshot::channel();
    let far = Arc::clone(host);
    match fate {
        Fate::Delivered => return host.ask(id, command, is_new),
        Fate::RequestLost => drop(tokio::spawn(async move { to.closed().await })),
        Fate::AnswerLost => {
            let lost = host.ask(id, command, is_new);
            tokio::spawn(async move {
                let _ = lost.await;
                to.closed().await;
            });
        }
        Fate::Unknown => drop(to),
        Fate::DoneUnknown => {
            let lost = host.ask(id, command, is_new);
            tokio::spawn(async move {
                let _ = lost.await;
                drop(to);
            });
        }
        Fate::Twice => {
            let (first, second) = (host.ask(id, command.clone(), is_new), host.ask(id, command, false));
            tokio::spawn(async move { drop(second.await) });
            return first;
        }
        Fate::RequestLate(late) => {
            tokio::spawn(async move {
                tokio::time::sleep(late).await;
                pass_on(far.ask(id, command, false).await, to);
            });
        }
        Fate::AnswerLate(late) => {
            let delayed = host.ask(id, command, is_new);
            tokio::spawn(async move {
                let answer = delayed.await;
                tokio::time::sleep(late).await;
                pass_on(answer, to);
            });
        }
        Fate::Refused(rejection) => {
            let rejection = rejection.downcast().expect("the director knows whom it refuses");
            drop(to.send(Err(*rejection)));
        }
        Fate::Then(then) => {
            let lost = host.ask(id, command, is_new);
            tokio::spawn(async move {
                let _ = lost.await;
                then();
                drop(to);
            });
        }
    }
    answer
}

fn pass_on<T>(answer: Result<T, oneshot::error::RecvError>, to: oneshot::Sender<T>) {
    // Unknown stays unknown; and whoever has stopped waiting does not hear it.
    if let Ok(answer) = answer {
        let _ = to.send(answer);
    }
}

/// Carries what the world answered to the entity that it is for, or does with it what the director says.
pub(crate) fn deliver<A: Aggregate>(
    host: &Arc<Host<A>>,
    id: Id<A>,
    incarnation: u64,
    effect: &'static str,
    command: A::Command,
) {
    match fate(A::KIND, id.uuid(), What::Answer(effect, &command)) {
        Fate::Twice => {
            host.deliver_answer(id, incarnation, effect, command.clone());
            host.deliver_answer(id, incarnation, effect, command);
        }
        Fate::RequestLate(late) | Fate::AnswerLate(late) => {
            let host = Arc::clone(host);
            tokio::spawn(async move {
                tokio::time::sleep(late).await;
                host.deliver_answer(id, incarnation, effect, command);
            });
        }
        // It does not leave the node: it cannot get lost.
        Fate::Delivered
        | Fate::RequestLost
        | Fate::AnswerLost
        | Fate::Unknown
        | Fate::DoneUnknown
        | Fate::Refused(_)
        | Fate::Then(_) => host.deliver_answer(id, incarnation, effect, command),
    }
}
