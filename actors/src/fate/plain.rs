//! Everything arrives, and nobody is struck down.

use std::sync::Arc;

use uuid::Uuid;

use super::{Answer, Moment};
use crate::aggregate::{Aggregate, Kind};
use crate::host::Host;
use crate::ids::Id;

/// Carries a command to an entity.
pub(crate) fn carry<A: Aggregate>(
    host: &Arc<Host<A>>,
    id: Id<A>,
    command: A::Command,
    is_new: bool,
) -> Answer<A> {
    host.ask(id, command, is_new)
}

/// Carries what the world answered to the entity that it is for.
pub(crate) fn deliver<A: Aggregate>(
    host: &Arc<Host<A>>,
    id: Id<A>,
    incarnation: u64,
    effect: &'static str,
    command: A::Command,
) {
    host.deliver_answer(id, incarnation, effect, command);
}

/// An entity handles a message.
pub(crate) const fn strike(_kind: Kind, _id: Uuid, _message: &'static str, _moment: Moment) {}
