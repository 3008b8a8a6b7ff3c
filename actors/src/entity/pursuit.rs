//! What an entity owes the world is performed, again and again, until it is answered.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use ractor::ActorRef;
use souk_persistence::Timestamp;
use souk_persistence::chance;
use souk_persistence::mutant::{self, Mutant};
use tokio::time::Instant;

use super::{Birth, Message, Resident};
use crate::aggregate::Aggregate;
use crate::fate;
use crate::world::Time;

/// What is owed within this is waited for in memory.
const AWAITED_MAX: Duration = Duration::from_secs(10);

/// Timed by the monotonic clock: a wall clock that is set back must not keep anything waiting.
pub(super) struct Attempt {
    failed: u32,
    since: Instant,
    state: AttemptState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AttemptState {
    Running,
    BackingOff {
        until: Instant,
    },
    /// Somebody else sees to it.
    HandedOver,
}

/// When something is owed. Timed by the monotonic clock, once it is known.
#[derive(Clone, Copy)]
pub(super) struct Awaited {
    due: Timestamp,
    until: Instant,
}

impl<A: Aggregate> Resident<A> {
    /// Has performed what is owed. Only what a durable row says is owed: no row is under way or waiting, but
    /// for what may wait.
    pub(super) fn pursue(&mut self, myself: &ActorRef<Message<A>>) {
        let is_durable = !self.under_way && self.is_written();
        if !is_durable && !mutant::is(Mutant::EffectsFromUndurable) {
            return;
        }
        if let Some(asking) = &mut self.asking
            && let Some(effect) = asking.unstarted.take()
        {
            self.start(effect);
        }
        // Cleared without a row where somebody else has seen to it, so the row's word counts, not the
        // state's.
        let effects = if self.owed.is_some() { self.state.effects() } else { Vec::new() };
        let now = self.now();
        let asking = self.asking.as_ref().map(|asking| asking.effect);
        // An answer that is still on its way is delivered by name: nobody need stay for it.
        self.attempts.retain(|name, _| {
            asking == Some(*name) || effects.iter().any(|(_, effect)| A::effect_name(effect) == *name)
        });
        let due = |due| self.owed.map_or(due, |owed| owed.max(due));
        let effects: Vec<_> = effects.into_iter().map(|(from, effect)| (due(from), effect)).collect();
        self.awaited = self.awaited.filter(|awaited| effects.iter().any(|(due, _)| *due == awaited.due));
        for (due, effect) in effects {
            if !self.is_due(myself, due, now) {
                continue;
            }
            let may_start = match self.attempts.get(A::effect_name(&effect)).map(|attempt| attempt.state) {
                None => true,
                Some(AttemptState::BackingOff { until }) => until <= Instant::now(),
                Some(AttemptState::Running | AttemptState::HandedOver) => false,
            };
            if may_start {
                self.start(effect);
            }
        }
    }

    /// Whether it is time; if it is soon, this wakes then. What is later the sweep wakes.
    fn is_due(&mut self, myself: &ActorRef<Message<A>>, due: Timestamp, now: Timestamp) -> bool {
        if due <= now {
            return true;
        }
        if let Some(awaited) = self.awaited.filter(|awaited| awaited.due == due) {
            return awaited.until <= Instant::now();
        }
        let wait = now.until(due);
        if wait <= AWAITED_MAX {
            self.awaited = Some(Awaited { due, until: Instant::now() + wait });
            self.wake_after(myself, wait);
        }
        false
    }

    fn start(&mut self, effect: A::Effect) {
        let Birth { host, id, incarnation, .. } = &self.birth;
        let (host, id, incarnation) = (Arc::clone(host), *id, *incarnation);
        let name = A::effect_name(&effect);
        let is_first = self.is_founder && !self.attempts.contains_key(name);
        let time = if is_first { Time::First } else { Time::Any };
        let attempt = self.attempts.entry(name).or_insert_with(|| Attempt {
            failed: 0,
            since: Instant::now(),
            state: AttemptState::Running,
        });
        if host.hand_over(id, self.written, &effect) {
            attempt.state = AttemptState::HandedOver;
            return;
        }
        attempt.state = AttemptState::Running;
        tokio::spawn(async move {
            match AssertUnwindSafe(host.perform(id, effect, time)).catch_unwind().await {
                Ok(command) => fate::deliver(&host, id, incarnation, name, command),
                Err(_panic) => host.effect_panicked(id, incarnation, name),
            }
        });
    }

    pub(super) fn close_attempt(
        &mut self,
        myself: &ActorRef<Message<A>>,
        effect: &'static str,
        is_over: bool,
    ) {
        let now = Instant::now();
        let Some(attempt) = self.attempts.get_mut(effect) else { return };
        if is_over {
            self.attempts.remove(effect);
            self.delayed = None;
            return;
        }
        let wait = self.birth.host.backoff(effect).delay(attempt.failed, chance::draw());
        attempt.failed = attempt.failed.saturating_add(1);
        attempt.state = AttemptState::BackingOff { until: now + wait };
        let delayed = now - attempt.since;
        self.must_write |= !self.next.is_empty();
        self.delayed = self.birth.host.report_unknown(self.birth.id, effect, attempt.failed, delayed);
        self.wake_after(myself, wait);
    }

    fn wake_after(&self, myself: &ActorRef<Message<A>>, wait: Duration) {
        let myself = myself.clone();
        let gate = Arc::clone(&self.birth.gate);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // A full mailbox keeps it awake anyway. One that has left does not hear it.
            if let Some(permit) = gate.enter() {
                let _ = myself.cast(Message::Wake(permit));
            }
        });
    }

    /// Something is performed, or is to be soon.
    pub(super) fn is_pursuing(&self) -> bool {
        let is_at_work = |attempt: &Attempt| match attempt.state {
            AttemptState::Running | AttemptState::BackingOff { .. } => true,
            AttemptState::HandedOver => false,
        };
        self.awaited.is_some() || self.attempts.values().any(is_at_work)
    }
}
