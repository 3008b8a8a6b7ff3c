//! What a node counts, read from the text of `/metrics`.

use std::collections::BTreeMap;

/// Sums of counters by name, and of some by database.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters(BTreeMap<String, BTreeMap<String, f64>>);

impl Counters {
    /// Reads Prometheus' text format. Lines that it does not know it passes over.
    pub fn parse(text: &str) -> Self {
        let mut counters = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let by_database = counters.0.entry(name.to_owned()).or_default();
            *by_database.entry(database(labels).to_owned()).or_default() += value;
        }
        counters
    }

    /// How much a counter has grown since. `None`: the node does not count it.
    pub fn growth(&self, before: &Self, name: &str) -> Option<f64> {
        let sum = |counters: &Self| Some(counters.0.get(name)?.values().sum::<f64>());
        Some(sum(self)? - sum(before).unwrap_or(0.0))
    }

    /// The greatest of what each database has. `None`: the node does not tell.
    pub fn greatest(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.values().copied().reduce(f64::max)
    }

    /// The same for each database.
    pub fn growth_by_database(&self, before: &Self, name: &str) -> BTreeMap<String, f64> {
        let earlier = |database| before.0.get(name).and_then(|by| by.get(database)).copied().unwrap_or(0.0);
        let now = self.0.get(name).into_iter().flatten();
        now.map(|(database, value)| (database.clone(), value - earlier(database))).collect()
    }
}

/// The value of the label `db`; empty where there is none.
fn database(labels: &str) -> &str {
    let value = labels.split("db=\"").nth(1).and_then(|rest| rest.split('"').next());
    value.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_by_database_and_in_all() {
        let text = |order: u32, product: u32| {
            Counters::parse(&format!(
                "# TYPE souk_journal_rows_total counter\n\
                 souk_journal_rows_total{{db=\"order_db\"}} {order}\n\
                 souk_journal_rows_total{{db=\"product_db\"}} {product}\n\n\
                 souk_swept_total 3\nhalf a line"
            ))
        };
        let (before, after) = (text(10, 5), text(40, 7));
        assert_eq!(after.growth(&before, "souk_journal_rows_total"), Some(32.0));
        assert_eq!(after.growth(&before, "souk_swept_total"), Some(0.0));
        assert_eq!(after.growth(&before, "souk_messages_total"), None);
        // What was not counted before has grown from nothing.
        assert_eq!(after.growth(&Counters::default(), "souk_journal_rows_total"), Some(47.0));
        let by_database = after.growth_by_database(&before, "souk_journal_rows_total");
        assert_eq!(by_database.into_values().collect::<Vec<_>>(), [30.0, 2.0]);
    }
}
