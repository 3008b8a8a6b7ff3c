//! The one place that draws random numbers for waits, batches and ids, so that a simulation can replay
//! them. Secrets are drawn elsewhere, and are never replayed.

use rand::distr::{Distribution, StandardUniform};

/// Draws a number, as [`rand::random`] does.
#[cfg(not(feature = "simulation"))]
pub fn draw<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    rand::random()
}

#[cfg(feature = "simulation")]
pub use simulated::{draw, seed};

#[cfg(feature = "simulation")]
mod simulated {
    use std::cell::RefCell;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::{Distribution, StandardUniform};

    thread_local! {
        static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    }

    /// Whatever this thread draws from now on follows from `seed`; `None`: from nothing.
    pub fn seed(seed: Option<u64>) {
        SEEDED.set(seed.map(StdRng::seed_from_u64));
    }

    /// Draws a number: from the thread's seed, or as [`rand::random`] does.
    pub fn draw<T>() -> T
    where
        StandardUniform: Distribution<T>,
    {
        SEEDED.with_borrow_mut(|seeded| match seeded {
            Some(seeded) => seeded.random(),
            None => rand::random(),
        })
    }
}
