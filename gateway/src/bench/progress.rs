//! A line on the terminal that shows how far a load is. Nothing where nobody looks.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::tally::{Tally, Window};

const EVERY: Duration = Duration::from_millis(250);
const WIDTH: usize = 30;

/// The line, as long as there is something to show.
#[derive(Debug)]
pub struct Progress(Option<JoinHandle<()>>);

impl Progress {
    /// Shows what is counted, until the window is over.
    pub fn start(name: &str, tally: Arc<Tally>, window: Window) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let (name, began) = (name.to_owned(), Instant::now());
        let all = window.until - began;
        Self(Some(tokio::spawn(async move {
            let mut before = 0;
            loop {
                tokio::time::sleep(EVERY).await;
                let seen = tally.seen();
                let rate = (seen - before) as f64 / EVERY.as_secs_f64();
                before = seen;
                show(&line(&name, began.elapsed(), all, rate));
            }
        })))
    }

    /// Takes the line away.
    pub async fn end(self) {
        let Some(task) = self.0 else { return };
        task.abort();
        // Cancelled, as it never ends by itself.
        let _ = task.await;
        show("");
    }
}

/// Says what is being done, where somebody looks.
pub fn note(what: &str) {
    if std::io::stderr().is_terminal() {
        show(what);
    }
}

fn show(line: &str) {
    // A terminal that is gone is no reason to stop.
    let _ = write!(std::io::stderr(), "\r\x1b[2K{line}");
    let _ = std::io::stderr().flush();
}

fn line(name: &str, past: Duration, all: Duration, rate: f64) -> String {
    let part = (past.as_secs_f64() / all.as_secs_f64().max(0.001)).min(1.0);
    let full = (part * WIDTH as f64) as usize;
    let bar = "#".repeat(full) + &".".repeat(WIDTH - full);
    format!("{name:<14} [{bar}] {:>4.0} s  {rate:>7.0}/s", past.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_full_at_the_end_and_not_longer() {
        let seconds = Duration::from_secs;
        assert!(line("burst", seconds(1), seconds(2), 8_000.0).contains(&"#".repeat(15)));
        assert!(line("burst", seconds(9), seconds(2), 0.0).contains(&format!("[{}]", "#".repeat(WIDTH))));
        assert!(line("burst", seconds(0), seconds(0), 0.0).contains(&".".repeat(WIDTH)));
    }
}
