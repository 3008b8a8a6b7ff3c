//! What waits for a writer: which rows are the next batch, and who waits for which of them. Pure: it knows
//! no task, no clock and no store.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use uuid::Uuid;

use crate::chance;
use crate::journal::{Done, Reschedule, Row};
use crate::sync::oneshot;

/// The most rows of a batch.
const ROWS_MAX: usize = 2_000;
/// A batch is closed by the row that passes this, in bytes of JSON.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// The most changes of what is owed that ride in one batch: in bulk they stall the writer.
const RESCHEDULES_MAX: usize = 100;
/// The most that wait; what comes then is dropped, and the sweep repeats it.
const RESCHEDULES_WAITING_MAX: usize = 200_000;

/// What one statement commits.
pub struct Batch {
    /// Names it, however often it is sent.
    pub id: Uuid,
    /// Sorted by stream, one row of each.
    pub rows: Vec<Row>,
    /// Changes of streams that have no row in the batch, one of each stream and version.
    pub reschedules: Vec<Reschedule>,
}

/// Whoever wants to know what became of a row.
pub struct Asker {
    /// The row's place in the order in which rows were given.
    pub ticket: u64,
    /// Told what became of the row.
    pub done: Done,
}

/// The rows of a stream that wait or are under way.
#[derive(Default)]
struct Held {
    rows: usize,
    loads: Vec<oneshot::Sender<()>>,
}

/// What waits to be committed. It has no bound of its own on rows: an entity gives one and waits for its
/// answer, so there are at most as many as there are entities awake.
#[derive(Default)]
pub struct Queue {
    waiting: VecDeque<(Row, Asker)>,
    held: HashMap<Uuid, Held>,
    unanswered: BTreeSet<u64>,
    next_ticket: u64,
    reschedules: VecDeque<Reschedule>,
    /// Changes of what is owed that are under way.
    moving: usize,
    /// Each waits for the rows whose tickets are lower than its own.
    flushes: VecDeque<(u64, oneshot::Sender<()>)>,
    is_closed: bool,
}

impl Queue {
    /// Takes a row in; `done` is told what became of it.
    pub fn push(&mut self, row: Row, done: Done) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.unanswered.insert(ticket);
        self.held.entry(row.stream).or_default().rows += 1;
        self.waiting.push_back((row, Asker { ticket, done }));
    }

    /// Takes a change of what is owed in.
    pub fn reschedule(&mut self, change: Reschedule) {
        if self.reschedules.len() < RESCHEDULES_WAITING_MAX {
            self.reschedules.push_back(change);
        }
    }

    /// Nothing more will be given.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// Whether nothing more will be given.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Resolves when no row of `stream` is held; `None`: none is.
    pub fn passed(&mut self, stream: Uuid) -> Option<oneshot::Receiver<()>> {
        let held = self.held.get_mut(&stream)?;
        // Loads come again and again while the database is away.
        held.loads.retain(|load| !load.is_closed());
        let (sender, receiver) = oneshot::channel();
        held.loads.push(sender);
        Some(receiver)
    }

    /// Resolves when every row given so far is answered, whatever is given later; `None`: all are.
    pub fn flushed(&mut self) -> Option<oneshot::Receiver<()>> {
        if self.unanswered.is_empty() {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.flushes.push_back((self.next_ticket, sender));
        Some(receiver)
    }

    /// Rows and changes that wait or are under way.
    pub fn backlog(&self) -> usize {
        self.unanswered.len() + self.reschedules.len() + self.moving
    }

    /// The next batch. A second row of a stream waits for the one after.
    pub fn take(&mut self) -> Option<(Batch, Vec<Asker>)> {
        let (mut taken, mut later, mut bytes) = (Vec::new(), VecDeque::new(), 0);
        let mut streams = HashSet::new();
        while taken.len() < ROWS_MAX && bytes < BYTES_MAX {
            let Some((row, asker)) = self.waiting.pop_front() else { break };
            if streams.insert(row.stream) {
                bytes += row.events.len() + row.view.len() + row.snapshot.as_ref().map_or(0, String::len);
                taken.push((row, asker));
            } else {
                later.push_back((row, asker));
            }
        }
        later.append(&mut self.waiting);
        self.waiting = later;
        taken.sort_by_key(|(row, _)| row.stream);

        let reschedules = self.take_reschedules(&streams);
        self.moving = reschedules.len();
        let is_empty = taken.is_empty() && reschedules.is_empty();
        let (rows, askers) = taken.into_iter().unzip();
        (!is_empty).then_some((Batch { id: new_id(), rows, reschedules }, askers))
    }

    fn take_reschedules(&mut self, streams: &HashSet<Uuid>) -> Vec<Reschedule> {
        let count = self.reschedules.len().min(RESCHEDULES_MAX);
        // Beside a row of its stream the statement would not see the version that it is meant for.
        let (wait, mut ready): (Vec<_>, Vec<_>) =
            self.reschedules.drain(..count).partition(|change| streams.contains(&change.stream));
        for change in wait.into_iter().rev() {
            self.reschedules.push_front(change);
        }
        // Of several for one version the last is meant: it comes first here, and the sort is stable.
        ready.reverse();
        ready.sort_by_key(|change| (change.stream, change.version));
        ready.dedup_by_key(|change| (change.stream, change.version));
        ready
    }

    /// A row of each of these streams has its answer from the store: who may load now.
    pub fn settle(&mut self, streams: impl Iterator<Item = Uuid>) -> Vec<oneshot::Sender<()>> {
        self.moving = 0;
        let mut free = Vec::new();
        for stream in streams {
            if let Some(held) = self.held.get_mut(&stream) {
                held.rows -= 1;
                if held.rows == 0 {
                    free.append(&mut held.loads);
                    self.held.remove(&stream);
                }
            }
        }
        free
    }

    /// Whoever gave the rows with these tickets was told: who waited for that.
    pub fn answered(&mut self, tickets: Vec<u64>) -> Vec<oneshot::Sender<()>> {
        for ticket in tickets {
            self.unanswered.remove(&ticket);
        }
        let mut silent = Vec::new();
        let oldest = self.unanswered.first().copied().unwrap_or(self.next_ticket);
        // They were pushed with rising tickets.
        while self.flushes.front().is_some_and(|(ticket, _)| *ticket <= oldest) {
            silent.extend(self.flushes.pop_front().map(|(_, sender)| sender));
        }
        silent
    }
}

/// Names a batch.
pub(super) fn new_id() -> Uuid {
    uuid::Builder::from_random_bytes(chance::draw()).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    fn row(stream: u128, version: i32) -> Row {
        Row {
            stream: Uuid::from_u128(stream),
            version,
            kind: 5,
            slot: 0,
            at: Timestamp::default(),
            updated_at: Timestamp::default(),
            events: "[]".to_owned(),
            owner: None,
            owed: None,
            view: "{}".into(),
            snapshot: None,
        }
    }

    fn queue(rows: &[(u128, i32)]) -> Queue {
        let mut queue = Queue::default();
        for (stream, version) in rows {
            queue.push(row(*stream, *version), Box::new(|_| {}));
        }
        queue
    }

    fn change(stream: u128, version: i32, owed: Option<i64>) -> Reschedule {
        let owed = owed.map(Timestamp::from_micros);
        Reschedule { stream: Uuid::from_u128(stream), version, owed }
    }

    fn take(queue: &mut Queue) -> Vec<(u128, i32)> {
        let (batch, askers) = queue.take().expect("rows wait");
        assert_eq!(batch.rows.len(), askers.len());
        batch.rows.iter().map(|row| (row.stream.as_u128(), row.version)).collect()
    }

    /// Takes a batch and answers it.
    fn answer(queue: &mut Queue) {
        let taken = queue.take().expect("rows wait");
        for sender in tell(queue, taken) {
            // Whoever waited may have gone.
            let _ = sender.send(());
        }
    }

    /// Answers a batch that was taken: who waited for it.
    fn tell(queue: &mut Queue, (batch, askers): (Batch, Vec<Asker>)) -> Vec<oneshot::Sender<()>> {
        let mut free = queue.settle(batch.rows.iter().map(|row| row.stream));
        free.extend(queue.answered(askers.into_iter().map(|asker| asker.ticket).collect()));
        free
    }

    #[test]
    fn a_batch_is_sorted_and_has_one_row_of_each_stream() {
        let mut queue = queue(&[(3, 1), (1, 1), (3, 2), (2, 1), (3, 3)]);
        assert_eq!(take(&mut queue), vec![(1, 1), (2, 1), (3, 1)]);
        assert_eq!(take(&mut queue), vec![(3, 2)]);
        assert_eq!(take(&mut queue), vec![(3, 3)]);
        assert!(queue.take().is_none());
    }

    #[test]
    fn a_batch_is_bounded_in_rows_and_in_bytes_of_everything_it_sends() {
        let many: Vec<_> = (0..2_500).map(|stream| (stream, 1)).collect();
        let mut rows = queue(&many);
        assert_eq!((take(&mut rows).len(), take(&mut rows).len()), (2_000, 500));

        let mut bytes = Queue::default();
        for stream in 0..12 {
            let snapshot = Some("x".repeat(1024 * 1024));
            bytes.push(Row { snapshot, ..row(stream, 1) }, Box::new(|_| {}));
        }
        assert_eq!((take(&mut bytes).len(), take(&mut bytes).len()), (8, 4));
    }

    #[test]
    fn a_load_waits_for_every_row_of_its_stream_and_for_no_other() {
        let mut queue = queue(&[(1, 1), (1, 2), (2, 1)]);
        assert!(queue.passed(Uuid::from_u128(9)).is_none());
        let mut both = queue.passed(Uuid::from_u128(1)).expect("rows are held");
        let mut other = queue.passed(Uuid::from_u128(2)).expect("a row is held");
        answer(&mut queue);
        assert!(both.try_recv().is_err());
        assert!(other.try_recv().is_ok());
        answer(&mut queue);
        assert!(both.try_recv().is_ok());
        assert!(queue.passed(Uuid::from_u128(1)).is_none());
    }

    #[test]
    fn loads_that_were_given_up_are_not_kept() {
        let mut queue = queue(&[(1, 1)]);
        for _ in 0..100 {
            drop(queue.passed(Uuid::from_u128(1)));
        }
        assert_eq!(queue.held[&Uuid::from_u128(1)].loads.len(), 1);
    }

    #[test]
    fn whoever_waits_for_silence_does_not_wait_for_what_is_given_later() {
        let mut queue = queue(&[(1, 1), (1, 2), (2, 1)]);
        let mut flushed = queue.flushed().expect("rows are held");
        let taken = queue.take().expect("rows wait");
        queue.push(row(3, 1), Box::new(|_| {}));
        let mut later = queue.flushed().expect("rows are held");
        assert_eq!(tell(&mut queue, taken).len(), 0);
        queue.push(row(2, 2), Box::new(|_| {}));
        // 1/2 is of the time before the first flush, 3/1 of the time before the second, 2/2 of neither.
        answer(&mut queue);
        assert!(flushed.try_recv().is_ok() && later.try_recv().is_ok());

        queue.push(row(4, 1), Box::new(|_| {}));
        let mut flushed = queue.flushed().expect("a row is held");
        let taken = queue.take().expect("a row waits");
        queue.push(row(5, 1), Box::new(|_| {}));
        for sender in tell(&mut queue, taken) {
            sender.send(()).expect("somebody waits");
        }
        assert!(flushed.try_recv().is_ok(), "5/1 came later and is still held");
        assert_eq!(queue.backlog(), 1);
    }

    #[test]
    fn what_is_owed_is_not_moved_beside_a_row_of_the_same_stream_but_after_it() {
        let mut queue = queue(&[(1, 4)]);
        queue.reschedule(change(1, 4, None));
        queue.reschedule(change(2, 3, None));
        assert_eq!(queue.backlog(), 3);
        let taken = queue.take().expect("a row waits");
        assert_eq!(taken.0.reschedules, vec![change(2, 3, None)]);
        assert_eq!(queue.backlog(), 3);
        drop(tell(&mut queue, taken));
        assert_eq!(queue.take().expect("a change waits").0.reschedules, vec![change(1, 4, None)]);
        drop(queue.settle(std::iter::empty()));
        assert_eq!(queue.backlog(), 0);
    }

    #[test]
    fn of_several_changes_for_one_version_the_last_is_made() {
        let mut queue = Queue::default();
        for change in
            [change(1, 3, Some(5)), change(1, 3, None), change(1, 4, Some(7)), change(1, 4, Some(8))]
        {
            queue.reschedule(change);
        }
        let (batch, _) = queue.take().expect("changes wait");
        assert_eq!(batch.reschedules, vec![change(1, 3, None), change(1, 4, Some(8))]);
    }

    #[test]
    fn changes_of_what_is_owed_go_a_hundred_at_a_time() {
        let mut queue = Queue::default();
        for stream in 0..150 {
            queue.reschedule(change(stream, 1, None));
        }
        let mut taken = || queue.take().expect("changes wait").0.reschedules.len();
        assert_eq!((taken(), taken()), (100, 50));
    }
}
