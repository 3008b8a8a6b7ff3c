//! Who waits for an answer.

use crate::admission::Permit;
use crate::sync::oneshot;

/// Whoever waits for an answer. Dropped unanswered it tells them that the outcome is unknown, so nobody
/// ever waits for an actor that has died.
#[derive(Debug)]
pub struct Reply<T> {
    /// The place in the mailbox. First, so that it is free before anybody is told: who asks again at once
    /// must not be turned away for itself.
    pub permit: Permit,
    /// The waiting side.
    pub to: oneshot::Sender<T>,
}

impl<T> Reply<T> {
    /// The answer leaves.
    pub fn answer(self, answer: T) {
        drop(self.permit);
        // Whoever has stopped waiting asks again.
        let _ = self.to.send(answer);
    }
}
