//! Walks one database in order of stream, a page at a time: each entity, and behind it its rows.

use std::collections::VecDeque;

use souk_persistence::journal::{Journal, JournalError, Scanned, ScannedRow};
use uuid::Uuid;

/// How many entities, and how many rows, are read at once.
const PAGE: usize = 1_000;

/// What comes next.
pub(super) enum Item {
    /// An entity. Its rows follow.
    Entity(Scanned),
    /// A row: of the entity before, or of none.
    Row(ScannedRow),
}

pub(super) struct Walk<'a> {
    journal: &'a dyn Journal,
    entities: VecDeque<Scanned>,
    behind: Option<Uuid>,
    is_last_page: bool,
    rows: VecDeque<ScannedRow>,
    rows_behind: Option<(Uuid, i32)>,
    /// Rows are read no further than entities: a row that was read before its entity might be missing.
    until: Uuid,
    are_rows_read: bool,
}

impl<'a> Walk<'a> {
    pub fn over(journal: &'a dyn Journal) -> Self {
        Self {
            journal,
            entities: VecDeque::new(),
            behind: None,
            is_last_page: false,
            rows: VecDeque::new(),
            rows_behind: None,
            until: Uuid::nil(),
            are_rows_read: true,
        }
    }

    /// The next entity or row; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Item>, JournalError> {
        loop {
            if self.rows.is_empty() && !self.are_rows_read {
                self.read_rows().await?;
            }
            match (self.entities.front(), self.rows.front()) {
                (Some(entity), Some(row)) if row.stream < entity.stream => {
                    return Ok(self.rows.pop_front().map(Item::Row));
                }
                (Some(_), Some(_) | None) => return Ok(self.entities.pop_front().map(Item::Entity)),
                (None, Some(_)) => return Ok(self.rows.pop_front().map(Item::Row)),
                (None, None) if self.is_last_page => return Ok(None),
                (None, None) => self.read_entities().await?,
            }
        }
    }

    async fn read_entities(&mut self) -> Result<(), JournalError> {
        let page = self.journal.scan(self.behind, PAGE as i64).await?;
        self.is_last_page = page.len() < PAGE;
        self.behind = page.last().map(|entity| entity.stream).or(self.behind);
        self.until = if self.is_last_page { Uuid::max() } else { self.behind.unwrap_or(Uuid::max()) };
        self.are_rows_read = false;
        self.entities = page.into();
        Ok(())
    }

    async fn read_rows(&mut self) -> Result<(), JournalError> {
        let page = self.journal.scan_rows(self.rows_behind, self.until, PAGE as i64).await?;
        self.are_rows_read = page.len() < PAGE;
        self.rows_behind = page.last().map(|row| (row.stream, row.row.version)).or(self.rows_behind);
        self.rows = page.into();
        Ok(())
    }
}
