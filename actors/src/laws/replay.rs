//! Folds a stream's history anew and compares where it leads with what is stored.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use souk_persistence::Timestamp;
use souk_persistence::journal::{Scanned, ScannedRow};

use super::Law;
use super::findings::Findings;
use crate::aggregate::Aggregate;
use crate::ids::Id;
use crate::shop::FORGOTTEN;

/// An entity whose history is being folded.
pub(super) struct Replay<A: Aggregate> {
    pub entity: Scanned,
    snapshot: Option<Snapshot>,
    state: A,
    created_at: Option<Timestamp>,
    /// The time of the newest event.
    at: Timestamp,
    /// The newest row so far; 0: none yet.
    version: i32,
    /// Rows up to the snapshot are passed over: those before them are forgotten.
    is_forgetful: bool,
    /// There are rows that are newer than the entity was when it was read.
    is_overtaken: bool,
    /// It is reported, and where it leads means nothing.
    is_broken: bool,
}

#[derive(Deserialize)]
struct Snapshot {
    version: i32,
    at: Timestamp,
    state: Box<RawValue>,
}

/// Where a history leads.
pub(super) struct Replayed<A: Aggregate> {
    pub entity: Scanned,
    pub view: A::View,
}

impl<A: Aggregate> Replay<A> {
    pub fn begin(entity: Scanned, found: &mut Findings) -> Self {
        let snapshot = entity.snapshot.as_deref().map(serde_json::from_str::<Snapshot>).transpose();
        let mut replay = Self {
            entity,
            snapshot: None,
            state: A::default(),
            created_at: None,
            at: Timestamp::default(),
            version: 0,
            is_forgetful: false,
            is_overtaken: false,
            is_broken: false,
        };
        match snapshot {
            Ok(snapshot) => replay.snapshot = snapshot,
            Err(error) => {
                replay.break_off(
                    found,
                    Law::StateIsItsHistory,
                    format!("has an unreadable snapshot: {error}"),
                );
            }
        }
        replay
    }

    /// Folds the next row; `note` hears of each event.
    pub fn row(&mut self, row: &ScannedRow, found: &mut Findings, note: impl FnMut(Timestamp, &A::Event)) {
        found.saw(Law::StreamsWithoutGaps, 1);
        if row.row.version > self.entity.version {
            self.is_overtaken = true;
            if !found.is_live() && !self.is_broken {
                let what = format!("has row {} beyond its version {}", row.row.version, self.entity.version);
                self.break_off(found, Law::StreamsWithoutGaps, what);
            }
            return;
        }
        if self.is_broken {
            return;
        }
        if let Err(what) = self.follows(row) {
            return self.break_off(found, Law::StreamsWithoutGaps, what);
        }
        let folded = match self.is_forgetful {
            true => self.pass_over(row),
            false => self.fold(row, note),
        };
        if let Err((law, what)) = folded {
            self.break_off(found, law, what);
        }
    }

    /// Whether the row is the one that comes next.
    fn follows(&mut self, row: &ScannedRow) -> Result<(), String> {
        let version = row.row.version;
        let covered = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.version);
        if self.version == 0 && version != 1 && FORGOTTEN.contains(&A::KIND) && version <= covered {
            self.is_forgetful = true;
        } else if version != self.version + 1 {
            return Err(format!("has row {version} behind row {}", self.version));
        }
        if row.kind != self.entity.kind {
            return Err(format!("has row {version} of kind {}", row.kind));
        }
        if row.row.at < self.at {
            return Err(format!("goes back in time with row {version}: {} to {}", self.at, row.row.at));
        }
        self.version = version;
        Ok(())
    }

    /// Begins with the state that covers what is forgotten.
    fn pass_over(&mut self, row: &ScannedRow) -> Result<(), (Law, String)> {
        let Some(snapshot) = self.snapshot.as_ref().filter(|snapshot| snapshot.version == row.row.version)
        else {
            return Ok(());
        };
        self.state = serde_json::from_str(snapshot.state.get())
            .map_err(|error| (Law::StateIsItsHistory, format!("has an unreadable snapshot: {error}")))?;
        self.at = snapshot.at;
        self.is_forgetful = false;
        self.created_at = Some(self.entity.created_at);
        Ok(())
    }

    fn fold(
        &mut self,
        row: &ScannedRow,
        mut note: impl FnMut(Timestamp, &A::Event),
    ) -> Result<(), (Law, String)> {
        let version = row.row.version;
        let events: Vec<(i64, A::Event)> = serde_json::from_str(&row.row.events)
            .map_err(|error| (Law::StateIsItsHistory, format!("has an unreadable row {version}: {error}")))?;
        self.created_at.get_or_insert(row.row.at);
        for (offset, event) in events {
            let at = Timestamp::from_micros(row.row.at.micros().saturating_add(offset));
            if at < self.at {
                let what = format!("goes back in time within row {version}: {} to {at}", self.at);
                return Err((Law::StreamsWithoutGaps, what));
            }
            self.at = at;
            self.state.apply(at, &event);
            note(at, &event);
        }
        match &self.snapshot {
            Some(snapshot) if snapshot.version == version => {
                let state = to_json(&self.state);
                match snapshot.at == self.at && is_same(&state, snapshot.state.get()) {
                    true => Ok(()),
                    false => Err((Law::StateIsItsHistory, format!("has another snapshot than {state}"))),
                }
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Compares what is stored with where the history leads. `None`: it cannot be told. `is_cleared`:
    /// whether what a state owes may have been seen to without a row.
    pub fn end(mut self, found: &mut Findings, is_cleared: impl Fn(&A::View) -> bool) -> Option<Replayed<A>> {
        found.saw(Law::StateIsItsHistory, 1);
        // What was read of it has been forgotten before its rows were read.
        let is_gone = self.version == 0 && self.is_overtaken && FORGOTTEN.contains(&A::KIND);
        if !self.is_broken && !is_gone && self.version != self.entity.version {
            let what = format!("ends with row {} before its version {}", self.version, self.entity.version);
            self.break_off(found, Law::StreamsWithoutGaps, what);
        }
        if self.is_broken || is_gone {
            return None;
        }
        let view = self.state.view();
        let judged = self.stands_as_stored(&view, is_cleared(&view));
        found.judge(Law::StateIsItsHistory, self.entity.stream, judged);
        Some(Replayed { entity: self.entity, view })
    }

    fn stands_as_stored(&self, view: &A::View, is_cleared: bool) -> Result<(), String> {
        let Self { entity, state, created_at, at, .. } = self;
        let is_so = |what: &str, stored: String, led: String| match stored == led {
            true => Ok(()),
            false => Err(format!("has {what} {stored}, and its history leads to {led}")),
        };
        let shown = to_json(view);
        if !is_same(&entity.view, &shown) {
            return Err(format!("shows {}, and its history leads to {shown}", entity.view));
        }
        let due = state.effects().into_iter().map(|(due, _)| due).min();
        if !(is_cleared && entity.owed.is_none()) {
            is_so("owed", format!("{:?}", entity.owed), format!("{due:?}"))?;
        }
        is_so("the owner", format!("{:?}", entity.owner), format!("{:?}", state.owner()))?;
        is_so("the slot", entity.slot.to_string(), Id::<A>::from(entity.stream).slot().number().to_string())?;
        is_so("created_at", format!("{:?}", Some(entity.created_at)), format!("{created_at:?}"))?;
        is_so("updated_at", entity.updated_at.to_string(), at.to_string())
    }

    fn break_off(&mut self, found: &mut Findings, law: Law, what: String) {
        self.is_broken = true;
        found.judge(law, self.entity.stream, Err(what));
    }
}

/// Whether two JSON texts say the same.
fn is_same(one: &str, other: &str) -> bool {
    let read = |text| serde_json::from_str::<Value>(text).ok();
    one == other || read(one).is_some_and(|value| Some(value) == read(other))
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("states and views have string keys and no failing parts")
}
