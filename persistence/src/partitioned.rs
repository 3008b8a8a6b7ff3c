//! One journal over several databases, each with ranges of the slots.
//!
//! What is about one stream goes to the database that holds its slot; what is about many is asked of all and
//! merged. A database may have rows of slots that it does not hold: copies on their way here, or what was
//! left behind. They are passed over.

mod merge;

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};

use futures::FutureExt;
use futures::future::{BoxFuture, join_all, try_join_all};
use uuid::Uuid;

use crate::Timestamp;
use crate::databases::{self, DatabasesError, Place};
use crate::journal::{
    Done, Journal, JournalError, ListQuery, Loaded, Owed, Reschedule, Row, Scanned, ScannedRow, ViewRow,
};
use crate::migrate::Service;
use crate::slots::SlotTable;
use merge::{held, merged, size};

/// How the entities of a service are spread, and where.
#[derive(Clone, Debug)]
pub struct Spread {
    /// An entity has the slot of its owner: what one owner has lies in one database.
    pub by_owner: bool,
    service: Service,
    places: Vec<Place>,
}

impl Spread {
    /// As the ids of this service say.
    pub fn of(service: Service, places: Vec<Place>) -> Self {
        let by_owner = match service {
            Service::Order | Service::Payment => true,
            // A product has a slot of its own, whoever sells it.
            Service::Account | Service::Product => false,
        };
        Self { by_owner, service, places }
    }
}

/// A journal over several.
pub struct PartitionedJournal {
    journals: Vec<Arc<dyn Journal>>,
    table: RwLock<Arc<SlotTable>>,
    spread: Spread,
}

impl fmt::Debug for PartitionedJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionedJournal").field("journals", &self.journals).finish_non_exhaustive()
    }
}

impl PartitionedJournal {
    /// Over these journals, of which each holds what the table says of its place in the list.
    pub fn over(journals: Vec<Arc<dyn Journal>>, table: SlotTable, spread: Spread) -> Arc<Self> {
        Arc::new(Self { journals, table: RwLock::new(Arc::new(table)), spread })
    }

    /// Reads again who holds which slots, and goes by that from now on, all at once.
    pub async fn reload(&self) -> Result<(), DatabasesError> {
        let table = databases::reload(self.spread.service, &self.spread.places).await?;
        self.swap(table);
        Ok(())
    }

    /// Goes by another table from now on.
    pub fn swap(&self, table: SlotTable) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    /// Who holds which slots now.
    pub fn table(&self) -> Arc<SlotTable> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn of(&self, stream: Uuid) -> &dyn Journal {
        self.journals[self.table().holder_of(stream)].as_ref()
    }

    /// The first `limit` of what all have, in order of `key`.
    async fn first<'a, T: Clone + Send + 'a, K: Ord>(
        &'a self,
        limit: i64,
        (stream, key): (fn(&T) -> Uuid, impl Fn(&T) -> K),
        page: impl Fn(&'a dyn Journal, Option<T>) -> BoxFuture<'a, Result<Vec<T>, JournalError>> + Send + Sync,
    ) -> Result<Vec<T>, JournalError> {
        loop {
            let table = self.table();
            let each = table.holders().into_iter().map(|holder| {
                let journal = self.journals[holder].as_ref();
                let (table, page) = (&table, &page);
                let is_held = move |row: &T| table.holder_of(stream(row)) == holder;
                held(limit, is_held, move |after| page(journal, after))
            });
            let each = try_join_all(each).await?;
            if self.still_goes_by(&table) {
                return Ok(merged(each, size(limit), key));
            }
        }
    }

    /// Nobody has changed meanwhile who holds what. Otherwise a row that is there may have been looked for where it had
    /// been removed.
    fn still_goes_by(&self, table: &Arc<SlotTable>) -> bool {
        Arc::ptr_eq(table, &self.table())
    }
}

impl Journal for PartitionedJournal {
    fn commit(&self, row: Row, done: Done) {
        self.of(row.stream).commit(row, done);
    }

    fn load(&self, stream: Uuid) -> BoxFuture<'_, Result<Option<Loaded>, JournalError>> {
        self.of(stream).load(stream)
    }

    fn owed(
        &self,
        slots: RangeInclusive<i16>,
        before: Timestamp,
        after: Option<(Timestamp, Uuid)>,
        limit: i64,
    ) -> BoxFuture<'_, Result<Vec<Owed>, JournalError>> {
        async move {
            let ranges = self.table().ranges(slots);
            let each = ranges
                .into_iter()
                .map(|(range, holder)| self.journals[holder].owed(range, before, after, limit));
            Ok(merged(try_join_all(each).await?, size(limit), |owed| (owed.since, owed.stream)))
        }
        .boxed()
    }

    fn reschedule(&self, change: Reschedule) {
        self.of(change.stream).reschedule(change);
    }

    fn views(&self, kind: i16, streams: Vec<Uuid>) -> BoxFuture<'_, Result<Vec<ViewRow>, JournalError>> {
        async move {
            loop {
                let table = self.table();
                let mut of_each = vec![Vec::new(); self.journals.len()];
                for stream in &streams {
                    of_each[table.holder_of(*stream)].push(*stream);
                }
                let asked = self.journals.iter().zip(of_each).filter(|(_, streams)| !streams.is_empty());
                let views = asked.map(|(journal, streams)| journal.views(kind, streams));
                let views = try_join_all(views).await?;
                if self.still_goes_by(&table) {
                    return Ok(views.concat());
                }
            }
        }
        .boxed()
    }

    fn list(&self, query: ListQuery) -> BoxFuture<'_, Result<Vec<ViewRow>, JournalError>> {
        if let Some(owner) = query.owner.filter(|_| self.spread.by_owner) {
            return self.of(owner).list(query);
        }
        let newest = |row: &ViewRow| std::cmp::Reverse((row.created_at, row.stream));
        async move {
            self.first(
                query.limit,
                (|row: &ViewRow| row.stream, newest),
                |journal, after: Option<ViewRow>| {
                    let after = after.map(|row| (row.created_at, row.stream)).or(query.after);
                    journal.list(ListQuery { after, ..query.clone() })
                },
            )
            .await
        }
        .boxed()
    }

    fn scan(&self, after: Option<Uuid>, limit: i64) -> BoxFuture<'_, Result<Vec<Scanned>, JournalError>> {
        async move {
            let stream = |row: &Scanned| row.stream;
            self.first(limit, (stream, stream), |journal, last: Option<Scanned>| {
                journal.scan(last.map(|row| row.stream).or(after), limit)
            })
            .await
        }
        .boxed()
    }

    fn scan_rows(
        &self,
        after: Option<(Uuid, i32)>,
        until: Uuid,
        limit: i64,
    ) -> BoxFuture<'_, Result<Vec<ScannedRow>, JournalError>> {
        let key = |row: &ScannedRow| (row.stream, row.row.version);
        async move {
            self.first(limit, (|row: &ScannedRow| row.stream, key), |journal, last: Option<ScannedRow>| {
                let after = last.map(|row| (row.stream, row.row.version)).or(after);
                journal.scan_rows(after, until, limit)
            })
            .await
        }
        .boxed()
    }

    fn forget(&self, kinds: Vec<i16>, limit: i64) -> BoxFuture<'_, Result<u64, JournalError>> {
        async move {
            let mut gone = 0;
            for journal in &self.journals {
                let left = limit.saturating_sub(i64::try_from(gone).unwrap_or(i64::MAX));
                if left > 0 {
                    gone += journal.forget(kinds.clone(), left).await?;
                }
            }
            Ok(gone)
        }
        .boxed()
    }

    fn backlog(&self) -> usize {
        self.journals.iter().map(|journal| journal.backlog()).sum()
    }

    fn flushed(&self) -> BoxFuture<'_, ()> {
        join_all(self.journals.iter().map(|journal| journal.flushed())).map(drop).boxed()
    }
}
