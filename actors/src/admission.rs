//! Admission: how much may be under way at once. Mailboxes have no bound of their own, so the bound is
//! here, before the mailbox. A permit is given back when it is dropped, whoever drops it.

use crate::sync::{Arc, AtomicUsize, Ordering};

/// So many may be inside at once.
#[derive(Debug)]
pub struct Gate {
    inside: AtomicUsize,
    max: usize,
}

/// The right to be inside.
#[derive(Debug)]
pub struct Permit(Arc<Gate>);

impl Gate {
    /// A gate for `max`.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { inside: AtomicUsize::new(0), max })
    }

    /// Goes in. `None`: full.
    pub fn enter(self: &Arc<Self>) -> Option<Permit> {
        self.inside
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |inside| {
                (inside < self.max).then_some(inside + 1)
            })
            .ok()
            .map(|_| Permit(Arc::clone(self)))
    }

    /// Goes in even if it is full: for what was itself let in before, and may not be turned away now.
    pub fn return_inside(self: &Arc<Self>) -> Permit {
        self.inside.fetch_add(1, Ordering::AcqRel);
        Permit(Arc::clone(self))
    }

    /// How many are inside.
    pub fn inside(&self) -> usize {
        self.inside.load(Ordering::Acquire)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_gate_opens_when_somebody_leaves() {
        let gate = Gate::new(1);
        let permit = gate.enter().expect("empty");
        assert!(gate.enter().is_none());
        let returned = gate.return_inside();
        drop(permit);
        assert!((gate.inside(), gate.enter().is_none()) == (1, true));
        drop(returned);
        assert!((gate.inside(), gate.enter().is_some()) == (0, true));
    }
}
