//! How long requests took: counted in buckets of a thousandth of their value, shown as percentiles.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longer than the longest a request is waited for, in microseconds.
const LONGEST_US: u64 = 120_000_000;

/// The durations of many requests.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

/// What part of them took how long at most, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what its name says")]
pub struct Percentiles {
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are in order, the digits few"))
    }
}

impl Latencies {
    /// Counts one. What is longer than two minutes is counted as two minutes.
    pub fn record(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LONGEST_US));
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// All zero where nothing was counted.
    pub fn percentiles(&self) -> Percentiles {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e3;
        Percentiles {
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: self.0.max() as f64 / 1e3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_list_but_for_a_thousandth() {
        let mut latencies = Latencies::default();
        // 1 to 10,000 µs, in no order: 7,919 is prime to 10,000.
        for number in 0..10_000_u64 {
            latencies.record(Duration::from_micros(number * 7_919 % 10_000 + 1));
        }
        assert_eq!(latencies.count(), 10_000);
        let found = latencies.percentiles();
        let expected = [(found.p50_ms, 5.0), (found.p90_ms, 9.0), (found.p99_ms, 9.9), (found.p999_ms, 9.99)];
        for (found, expected) in expected {
            assert!((found - expected).abs() <= expected / 500.0, "{found} for {expected}");
        }
        assert!((found.max_ms - 10.0).abs() < 0.02, "{found:?}");
    }

    #[test]
    fn nothing_and_what_is_too_long_can_be_shown() {
        assert_eq!(Latencies::default().percentiles(), Percentiles::default());
        let mut latencies = Latencies::default();
        latencies.record(Duration::from_secs(3_600));
        latencies.record(Duration::ZERO);
        assert!((latencies.percentiles().max_ms - 120_000.0).abs() < 120.0);
    }
}
