//! Which loads there are.

use std::time::Duration;

/// A load: what is sent, by how many, when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// As it is asked for and shown.
    pub name: String,
    /// By how many, when.
    pub load: Load,
    /// Of which products.
    pub spread: Spread,
    /// So many of a hundred pay with a token that is declined.
    pub declined_percent: u32,
    /// Each purchase has an `Idempotency-Key` of its own.
    pub is_keyed: bool,
    /// The end of each purchase is waited for; otherwise it is only accepted.
    pub is_patient: bool,
    /// So many read products beside, and as many read purchases.
    pub readers: usize,
}

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// One each, all at once.
    AtOnce {
        /// How many.
        connections: usize,
    },
    /// Each sends the next when the last one is answered.
    Closed {
        /// How many.
        connections: usize,
    },
    /// At fixed moments, whatever was answered.
    Open {
        /// A second.
        rate: u32,
        /// At most so many at once.
        connections: usize,
    },
}

/// Which products are bought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Two different ones of a thousand, at random.
    Uniform,
    /// Always the same two.
    Hot,
}

/// No such load.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no scenario {0:?}: it is one of burst, burst-uniform, uniform-N, hot-N (N connections, 1 to \
     4000), declined, keyed, reads, open, growth, overload, or table for those that have a target"
)]
pub struct UnknownScenario(String);

/// More would not get a file descriptor each.
const CONNECTIONS_MAX: usize = 4_000;
/// Of the system that Souk replaces.
const BURST: usize = 1_000;
const OPEN_CONNECTIONS: usize = 1_000;
/// Those that have a target, in the order of the table.
const TABLE: [&str; 6] = ["uniform-1", "uniform-32", "uniform-256", "hot-256", "burst-uniform", "burst"];
/// What is measured if nothing is named: about 90 seconds.
pub const DEFAULT: [&str; 5] = ["table", "uniform-1000", "declined", "keyed", "reads"];

/// The scenarios of a name. `rate`: of an open loop.
pub fn named(name: &str, rate: u32) -> Result<Vec<Scenario>, UnknownScenario> {
    let unknown = || UnknownScenario(name.to_owned());
    let plain = |load, spread| Scenario {
        name: name.to_owned(),
        load,
        spread,
        declined_percent: 0,
        is_keyed: false,
        is_patient: true,
        readers: 0,
    };
    let closed = |connections, spread| plain(Load::Closed { connections }, spread);
    let counted = |connections: &str, spread| match connections.parse() {
        Ok(connections) if (1..=CONNECTIONS_MAX).contains(&connections) => Ok(closed(connections, spread)),
        Ok(_) | Err(_) => Err(unknown()),
    };
    let scenario = match name {
        "table" => return TABLE.iter().map(|name| Ok(named(name, rate)?.remove(0))).collect(),
        "burst" => plain(Load::AtOnce { connections: BURST }, Spread::Hot),
        "burst-uniform" => plain(Load::AtOnce { connections: BURST }, Spread::Uniform),
        "declined" => Scenario { declined_percent: 5, ..closed(256, Spread::Uniform) },
        "keyed" => Scenario { is_keyed: true, ..closed(256, Spread::Uniform) },
        "reads" => Scenario { readers: 16, ..closed(32, Spread::Uniform) },
        "open" => plain(Load::Open { rate, connections: OPEN_CONNECTIONS }, Spread::Uniform),
        other => match other.split_once('-') {
            Some(("uniform", connections)) => counted(connections, Spread::Uniform)?,
            Some(("hot", connections)) => counted(connections, Spread::Hot)?,
            Some(_) | None => return Err(unknown()),
        },
    };
    Ok(vec![scenario])
}

impl Scenario {
    /// How many connections buy.
    pub fn connections(&self) -> usize {
        match self.load {
            Load::AtOnce { connections } | Load::Closed { connections } | Load::Open { connections, .. } => {
                connections
            }
        }
    }

    /// Hand-written SQL does this too.
    pub fn has_baseline(&self) -> bool {
        let is_plain = self.declined_percent == 0 && !self.is_keyed && self.is_patient && self.readers == 0;
        is_plain
            && match self.load {
                Load::AtOnce { .. } | Load::Closed { .. } => true,
                Load::Open { .. } => false,
            }
    }

    /// In words.
    pub fn title(&self) -> String {
        let products = match self.spread {
            Spread::Uniform => "uniform",
            Spread::Hot => "hot",
        };
        let mut title = match self.load {
            Load::AtOnce { connections } => format!("{connections} at once, {products}"),
            Load::Closed { connections: 1 } => format!("1 connection, {products}"),
            Load::Closed { connections } => format!("{connections} connections, {products}"),
            Load::Open { rate, .. } => format!("{rate} arrivals/s, {products}"),
        };
        if self.declined_percent > 0 {
            title += &format!(", {} % declined", self.declined_percent);
        }
        if self.is_keyed {
            title += ", with keys";
        }
        if self.readers > 0 {
            title += &format!(", and {} reading", 2 * self.readers);
        }
        title
    }

    /// What is to be reached on two cores.
    pub fn goal(&self) -> Option<Goal> {
        let goal = match self.name.as_str() {
            "uniform-1" => Goal::Rate { least: 400.0, p99_most_ms: None },
            "uniform-32" => Goal::Rate { least: 4_000.0, p99_most_ms: Some(15.0) },
            "uniform-256" => Goal::Rate { least: 8_000.0, p99_most_ms: Some(60.0) },
            "hot-256" => Goal::AsFastAs("uniform-256"),
            "burst" | "burst-uniform" => Goal::Within(Duration::from_millis(250)),
            _ => return None,
        };
        Some(goal)
    }
}

/// What a scenario is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// So many purchases a second.
    Rate {
        /// At least.
        least: f64,
        /// Of a hundred all but one take at most so long.
        p99_most_ms: Option<f64>,
    },
    /// As many as in another scenario.
    AsFastAs(&'static str),
    /// All are complete within this.
    Within(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_is_told_of_is_known_and_no_other() {
        for name in DEFAULT.iter().chain(&TABLE).chain(&["hot-4000", "open"]) {
            assert!(!named(name, 10).expect("is known").is_empty(), "{name}");
        }
        for name in ["", "uniform", "uniform-", "uniform-0", "hot-4001", "warm-3", "growth2"] {
            assert!(named(name, 10).is_err(), "{name}");
        }
        let names: Vec<_> = named("table", 10).expect("is known").into_iter().map(|s| s.name).collect();
        assert_eq!(names, TABLE);
    }

    #[test]
    fn hand_written_sql_is_beside_each_scenario_with_a_goal() {
        for scenario in named("table", 10).expect("is known") {
            assert!(scenario.goal().is_some() && scenario.has_baseline(), "{scenario:?}");
        }
        for name in ["declined", "keyed", "reads", "open"] {
            assert!(!named(name, 10).expect("is known")[0].has_baseline(), "{name}");
        }
    }
}
