//! What was looked at, and what was found.

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;
use uuid::Uuid;

use super::{Law, Moment};
use crate::order::Status;

/// A report names so many violations of each law; the rest are counted.
const EXAMPLES_MAX: usize = 20;

/// What a look has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// One for each law, in the order of [`Law::ALL`].
    pub verdicts: Vec<Verdict>,
    /// What became of the purchases.
    pub purchases: Purchases,
    /// The provider's record was there to compare with.
    pub has_books: bool,
}

/// Purchases by their outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Purchases {
    /// Bought.
    pub completed: u64,
    /// Refused or not answered in time.
    pub failed: u64,
    /// By the customer.
    pub cancelled: u64,
    /// Under way.
    pub pending: u64,
}

/// Whether a law holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Which.
    pub law: Law,
    /// How many rows, entities or holds it was judged by.
    pub rows: u64,
    /// How many violations there are.
    pub count: u64,
    /// Some of them.
    pub examples: Vec<Violation>,
    /// Where they all are.
    #[serde(skip)]
    streams: Vec<Uuid>,
}

/// A law is broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// In this stream.
    pub stream: Uuid,
    /// Like this.
    pub what: String,
}

impl Report {
    /// Every law holds.
    pub fn holds(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.count == 0)
    }

    /// The laws that are broken.
    pub fn broken(&self) -> Vec<Law> {
        self.verdicts.iter().filter(|verdict| verdict.count > 0).map(|verdict| verdict.law).collect()
    }

    /// There was nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.rows == 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<22}{:>14}{:>14}", "law", "rows", "violations")?;
        for Verdict { law, rows, count, .. } in &self.verdicts {
            writeln!(f, "{:<22}{rows:>14}{count:>14}", law.name())?;
        }
        for Verdict { law, count, examples, .. } in &self.verdicts {
            for Violation { stream, what } in examples {
                writeln!(f, "{}: {stream} {what}", law.name())?;
            }
            if *count > examples.len() as u64 {
                writeln!(f, "{}: and {} more", law.name(), *count - examples.len() as u64)?;
            }
        }
        Ok(())
    }
}

/// What has been found so far.
#[derive(Debug)]
pub(super) struct Findings {
    pub moment: Moment,
    report: Report,
    /// Only what was found before counts.
    suspects: Option<HashSet<(Law, Uuid)>>,
}

impl Findings {
    pub fn new(moment: Moment) -> Self {
        let verdict = |law| Verdict { law, rows: 0, count: 0, examples: Vec::new(), streams: Vec::new() };
        let verdicts = Law::ALL.map(verdict).to_vec();
        let report = Report { verdicts, purchases: Purchases::default(), has_books: false };
        Self { moment, report, suspects: None }
    }

    pub fn among(first: &Report, moment: Moment) -> Self {
        let suspects = first
            .verdicts
            .iter()
            .flat_map(|verdict| verdict.streams.iter().map(|stream| (verdict.law, *stream)))
            .collect();
        Self { suspects: Some(suspects), ..Self::new(moment) }
    }

    pub fn is_live(&self) -> bool {
        match self.moment {
            Moment::AtRest(_) | Moment::Stopped => false,
            Moment::Live(_) => true,
        }
    }

    /// Counts what a law was judged by.
    pub fn saw(&mut self, law: Law, rows: u64) {
        self.verdict(law).rows += rows;
    }

    pub fn saw_purchase(&mut self, status: Status) {
        let Purchases { completed, failed, cancelled, pending } = &mut self.report.purchases;
        *match status {
            Status::Completed => completed,
            Status::Failed => failed,
            Status::Cancelled => cancelled,
            Status::Pending => pending,
        } += 1;
    }

    /// Notes how a law was judged.
    pub fn judge(&mut self, law: Law, stream: Uuid, judged: Result<(), String>) {
        let Err(what) = judged else { return };
        if self.suspects.as_ref().is_some_and(|suspects| !suspects.contains(&(law, stream))) {
            return;
        }
        let verdict = self.verdict(law);
        verdict.count += 1;
        verdict.streams.push(stream);
        if verdict.examples.len() < EXAMPLES_MAX {
            verdict.examples.push(Violation { stream, what });
        }
    }

    pub fn report(self, has_books: bool) -> Report {
        Report { has_books, ..self.report }
    }

    fn verdict(&mut self, law: Law) -> &mut Verdict {
        let verdict = self.report.verdicts.iter_mut().find(|verdict| verdict.law == law);
        verdict.expect("a report has a verdict for every law")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use souk_persistence::Timestamp;

    fn stream(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[test]
    fn a_report_names_twenty_violations_and_counts_them_all() {
        let mut found = Findings::new(Moment::AtRest(Timestamp::default()));
        found.saw(Law::OneStory, 30);
        for number in 0..25 {
            found.judge(Law::OneStory, stream(number), Err(format!("is wrong {number}")));
        }
        found.judge(Law::OneOutcome, stream(1), Ok(()));
        let report = found.report(false);
        assert_eq!((report.holds(), report.broken()), (false, vec![Law::OneStory]));
        assert_eq!((report.verdicts[6].count, report.verdicts[6].examples.len()), (25, 20));
        let text = report.to_string();
        assert!(text.contains("one story                         30            25\n"), "{text}");
        assert!(text.contains("one story: 00000000-0000-0000-0000-000000000013 is wrong 19\n"), "{text}");
        assert!(text.ends_with("one story: and 5 more\n"), "{text}");
    }

    #[test]
    fn a_second_look_counts_only_what_the_first_has_found_in_the_same_stream() {
        let moment = Moment::Live(Timestamp::default());
        let mut first = Findings::new(moment);
        for number in [1, 2] {
            first.judge(Law::OneStory, stream(number), Err("is wrong".to_owned()));
        }
        let mut second = Findings::among(&first.report(true), moment);
        for (law, number) in [(Law::OneStory, 2), (Law::OneStory, 3), (Law::OneOutcome, 1)] {
            second.judge(law, stream(number), Err("is wrong".to_owned()));
        }
        let report = second.report(true);
        assert_eq!(
            (report.broken(), report.verdicts[6].examples[0].stream),
            (vec![Law::OneStory], stream(2))
        );
    }
}
