//! The sandbox's books on one machine: a file of lines that several processes append to, and what this one has read of it.
//!
//! Whoever decides holds the lock: it first reads on, then writes what it decided. So a torn line at the
//! end, of a writer that was killed within it, is met under the lock, and nothing was answered for it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::rules::{self, Decided, Known, Line};
use super::{AT_ONCE_MAX, Request, now};
use crate::provider::ProviderUnknown;

const BOOKS: &str = "payments.log";
const LOCK: &str = "payments.lock";
/// When several came at once, so long is waited for the next ones: one turn then serves many.
const LINGER: Duration = Duration::from_micros(500);

/// The books, and what this process has read of them.
#[derive(Debug)]
pub(super) struct Books {
    file: File,
    lock: File,
    read: u64,
    known: HashMap<Uuid, Known>,
}

impl Books {
    /// Opens the books in the folder, or begins them.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let file = File::options().create(true).read(true).append(true).open(folder.join(BOOKS))?;
        let lock = File::options().create(true).append(true).open(folder.join(LOCK))?;
        Ok(Self { file, lock, read: 0, known: HashMap::new() })
    }

    pub fn of(&self, key: Uuid) -> Option<&Known> {
        self.known.get(&key)
    }

    /// Decides under the lock of the books: what `decide` notes is written when this returns.
    pub fn locked<T>(&mut self, decide: impl FnOnce(&mut Page<'_>) -> T) -> io::Result<T> {
        self.lock.lock()?;
        let decided = self.decide(decide);
        if decided.is_err() {
            // What is in memory was perhaps never written: the file alone says what happened.
            self.known.clear();
            self.read = 0;
        }
        self.lock.unlock()?;
        decided
    }

    fn decide<T>(&mut self, decide: impl FnOnce(&mut Page<'_>) -> T) -> io::Result<T> {
        self.read_on()?;
        if self.file.metadata()?.len() > self.read {
            // What is appended to a torn line would be lost with it.
            tracing::warn!(
                "a line of the sandbox's books was torn and is cut off: nobody was answered for it"
            );
            self.file.set_len(self.read)?;
        }
        let mut page = Page { books: self, lines: Vec::new() };
        let decided = decide(&mut page);
        let lines = page.lines;
        self.file.write_all(&lines)?;
        self.read += lines.len() as u64;
        Ok(decided)
    }

    /// Reads what others have written since, up to the last line that is whole.
    fn read_on(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() == self.read {
            return Ok(());
        }
        self.file.seek(SeekFrom::Start(self.read))?;
        let mut reader = BufReader::new(self.file.try_clone()?);
        let mut text = Vec::new();
        while reader.read_until(b'\n', &mut text)? > 0 && text.ends_with(b"\n") {
            self.read += text.len() as u64;
            match serde_json::from_slice(&text) {
                Ok(line) => self.learn(line),
                Err(error) => tracing::error!(%error, "a line of the sandbox's books cannot be read"),
            }
            text.clear();
        }
        Ok(())
    }

    fn learn(&mut self, line: Line) {
        self.known.entry(line.key()).or_default().learn(line);
    }
}

/// Gives an answer to whoever waits for it.
type Tell = Box<dyn FnOnce()>;

/// Decides what comes, until nobody is left who could ask. For a thread of its own, because files block.
pub(super) fn serve(mut books: Books, unknown_for: Duration, mut waiting: mpsc::Receiver<Request>) {
    while let Some(first) = waiting.blocking_recv() {
        let more = std::iter::from_fn(|| waiting.try_recv().ok()).take(AT_ONCE_MAX - 1);
        let requests = std::iter::once(first).chain(more);
        let now = now();
        let decided = books.locked(|page| {
            let decide = |request| match request {
                Request::Charge(request, expires, to) => {
                    let known = page.of(request.key);
                    let decided = rules::charge(known, now, unknown_for, &request, expires);
                    page.noted(decided, to)
                }
                Request::Find(key, to) => {
                    let decided = rules::find(page.of(key), key);
                    page.noted(decided, to)
                }
                Request::Refund(request, to) => {
                    let decided = rules::refund(page.of(request.key), now, &request);
                    page.noted(decided, to)
                }
            };
            requests.map(decide).collect::<Vec<Tell>>()
        });
        match decided {
            // All lines are written before the first answer is given.
            Ok(answers) => {
                let is_busy = answers.len() > 1;
                answers.into_iter().for_each(|tell| tell());
                if is_busy {
                    std::thread::sleep(LINGER);
                }
            }
            // Whoever asked learns that nobody knows.
            Err(error) => tracing::error!(%error, "the sandbox's books fail"),
        }
    }
}

/// What was moved under each key, in minor units: (captured, refunded). Reads without the lock, and so
/// disturbs nobody: lines are only appended, and one that is not whole yet was not answered for.
pub(super) fn moved(folder: &Path) -> io::Result<HashMap<Uuid, (i64, i64)>> {
    let file = match File::open(folder.join(BOOKS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        opened => opened?,
    };
    let mut reader = BufReader::new(file);
    let (mut moved, mut refunds) = (HashMap::<Uuid, (i64, i64)>::new(), HashSet::new());
    let mut text = Vec::new();
    while reader.read_until(b'\n', &mut text)? > 0 && text.ends_with(b"\n") {
        match serde_json::from_slice(&text) {
            // Of two lines of one name the first counts, as for whoever decides.
            Ok(Line::Captured { key, amount, .. }) => {
                let (captured, _) = moved.entry(key).or_default();
                *captured = if *captured == 0 { amount } else { *captured };
            }
            Ok(Line::Refunded { key, refund_key, amount, .. }) => {
                if refunds.insert((key, refund_key)) {
                    moved.entry(key).or_default().1 += amount;
                }
            }
            Ok(Line::Asked { key, .. } | Line::Declined { key, .. }) => {
                moved.entry(key).or_default();
            }
            Err(error) => tracing::error!(%error, "a line of the sandbox's books cannot be read"),
        }
        text.clear();
    }
    Ok(moved)
}

/// What is decided under one lock.
#[derive(Debug)]
pub(super) struct Page<'a> {
    books: &'a mut Books,
    lines: Vec<u8>,
}

impl Page<'_> {
    /// What the books say of a key, with what this page has noted.
    pub fn of(&self, key: Uuid) -> Option<&Known> {
        self.books.of(key)
    }

    /// Notes what was decided; the answer is to be given when it is written.
    fn noted<T: 'static>(
        &mut self,
        (line, answer): Decided<T>,
        to: oneshot::Sender<Result<T, ProviderUnknown>>,
    ) -> Tell {
        line.into_iter().for_each(|line| self.note(line));
        // Whoever has stopped waiting does not hear it.
        Box::new(move || drop(to.send(answer)))
    }

    fn note(&mut self, line: Line) {
        serde_json::to_writer(&mut self.lines, &line).expect("a line has string keys and no failing parts");
        self.lines.push(b'\n');
        self.books.learn(line);
    }
}
