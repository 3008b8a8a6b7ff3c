//! tokio's `oneshot`: one value at most, and each side learns that the other is gone. Either side lets go of
//! the channel with its last word, so that its drop is not one more place where schedules part.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{Mutex, MutexGuard};

/// The side that sends, or is dropped without.
#[derive(Debug)]
pub struct Sender<T>(Option<Arc<Channel<T>>>);

/// The side that waits.
#[derive(Debug)]
pub struct Receiver<T>(Option<Arc<Channel<T>>>);

/// The sender was dropped without a value.
#[derive(Debug, PartialEq, Eq)]
pub struct RecvError;

#[derive(Debug)]
struct Channel<T>(Mutex<State<T>>);

#[derive(Debug)]
enum State<T> {
    /// Nothing is decided; who waits, once somebody does.
    Open(Option<Waker>),
    Sent(T),
    Unanswered,
    /// Nobody waits any more.
    Abandoned,
}

/// A channel for one value.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let channel = Arc::new(Channel(Mutex::new(State::Open(None))));
    (Sender(Some(Arc::clone(&channel))), Receiver(Some(channel)))
}

impl<T> Sender<T> {
    /// Sends the value, or gives it back if nobody waits any more.
    pub fn send(mut self, value: T) -> Result<(), T> {
        let channel = self.0.take().expect("a sender sends once");
        match channel.close(State::Sent(value)) {
            Err(State::Sent(value)) => Err(value),
            Err(State::Open(_) | State::Unanswered | State::Abandoned) => Ok(()),
            Ok(waiter) => {
                waiter.into_iter().for_each(Waker::wake);
                Ok(())
            }
        }
    }

    /// Whether nobody waits any more.
    pub fn is_closed(&self) -> bool {
        self.0.as_ref().is_some_and(|channel| matches!(*channel.lock(), State::Abandoned))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if let Some(channel) = self.0.take() {
            let waiter = channel.close(State::Unanswered).unwrap_or_default();
            waiter.into_iter().for_each(Waker::wake);
        }
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let channel = self.0.take().expect("a receiver is not polled after its end");
        let state = {
            let mut state = channel.lock();
            let waits = State::Open(Some(context.waker().clone()));
            std::mem::replace(&mut *state, waits)
        };
        match state {
            State::Sent(value) => Poll::Ready(Ok(value)),
            State::Unanswered => Poll::Ready(Err(RecvError)),
            State::Open(_) | State::Abandoned => {
                self.0 = Some(channel);
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if let Some(channel) = self.0.take() {
            // Nobody but itself would be woken.
            drop(channel.close(State::Abandoned));
        }
    }
}

impl<T> Channel<T> {
    /// The last word of one side: who waits for it, or the word itself if the other has spoken before.
    fn close(&self, word: State<T>) -> Result<Option<Waker>, State<T>> {
        let mut state = self.lock();
        match &mut *state {
            State::Open(waiter) => {
                let waiter = waiter.take();
                *state = word;
                Ok(waiter)
            }
            State::Sent(_) | State::Unanswered | State::Abandoned => Err(word),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
