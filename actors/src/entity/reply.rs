//! Who waits for an answer.

use crate::admission::Permit;
use crate::sync::oneshot;

/// Whoever waits for an answer. Dropped unanswered it tells them that the outcome is unknown, so nobody
/// ever waits for an actor that has died.
#[derive(Debug)]
pub struct Reply<T> {
    /// The waiting side.
    pub to: oneshot::Sender<T>,
    /// The place in the mailbox, free again when the answer has left.
    pub permit: Permit,
}

impl<T> Reply<T> {
    /// The answer leaves.
    pub fn answer(self, answer: T) {
        // Whoever has stopped waiting asks again.
        let _ = self.to.send(answer);
        drop(self.permit);
    }
}
