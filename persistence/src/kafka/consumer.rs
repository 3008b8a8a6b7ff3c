//! Reads from Kafka: a group of consumers, many records at a time, and an offset that passes a record only when that has
//! had its effect.
//!
//! One thread polls and does nothing else that waits. A client that hangs, or hears nothing though there is something, is
//! left behind and another one made: both happen to librdkafka. It is closed and dropped on a thread where nobody waits
//! for it.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::member::{Context, connect};
use super::offsets::Offsets;
use super::{Brokers, Incoming};

const POLL: Duration = Duration::from_millis(20);
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_LAST: Duration = Duration::from_secs(30);
/// A thread that has not come round for so long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(60);
const WATCH_EVERY: Duration = Duration::from_secs(5);
/// So long the client is not polled while too much is under way.
const FULL_FOR: Duration = Duration::from_secs(2);
/// So long records under way may take when it ends.
const CLOSE_MAX: Duration = Duration::from_secs(4);
/// The same complaint is not logged again within this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// Works upon a record. Resolves when it has had its effect for good, or has been put aside: then it is not read again.
pub type Handler = Arc<dyn Fn(Incoming) -> BoxFuture<'static, ()> + Send + Sync>;

/// What is read, and how.
#[derive(Clone, Debug)]
pub struct ConsumerSettings {
    /// From whom.
    pub brokers: Brokers,
    /// As a member of which group.
    pub group: String,
    /// What: one topic, so that its partitions are shared out evenly whatever else members read, and what waits on one
    /// topic holds up nothing of another.
    pub topic: String,
    /// The most records at once that are worked upon.
    pub in_flight_max: usize,
    /// Behind, and nothing heard for so long: it is made anew.
    pub silence: Duration,
}

/// Reads as a member of a group until it is stopped, or dropped: then nothing waits for what is under way.
pub struct KafkaConsumer {
    shared: Arc<Shared>,
    ended: oneshot::Receiver<()>,
}

struct Shared {
    settings: ConsumerSettings,
    /// `None`: nothing is taken any more. Nobody keeps it longer than for a record: what it belongs to may have to end
    /// before a client that hangs.
    handler: Mutex<Option<Handler>>,
    stops: AtomicBool,
    /// Of several threads the last one reads; one that hung ends when it comes to itself.
    generation: AtomicU64,
    /// When its thread last came round, in milliseconds since it was started.
    beat: AtomicU64,
    started: Instant,
    end: Mutex<Option<oneshot::Sender<()>>>,
    /// Turns true when nobody waits for records under way any more.
    cancel: watch::Sender<bool>,
}

impl Shared {
    fn beat(&self) {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(millis, Ordering::Release);
    }

    fn since_beat(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.beat.load(Ordering::Acquire)))
    }

    fn handler(&self) -> Option<Handler> {
        self.handler.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Nothing of whoever handles records is kept from now on. Those under way are read again by whoever has their
    /// partition next.
    fn let_go(&self) {
        self.handler.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.cancel.send_replace(true);
    }

    fn is_current(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Acquire) == generation
    }
}

impl KafkaConsumer {
    /// Starts to read.
    pub fn start(settings: ConsumerSettings, handler: Handler) -> Self {
        let (end, ended) = oneshot::channel();
        let shared = Arc::new(Shared {
            settings,
            handler: Mutex::new(Some(handler)),
            stops: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            beat: AtomicU64::new(0),
            started: Instant::now(),
            end: Mutex::new(Some(end)),
            cancel: watch::Sender::new(false),
        });
        metrics::counter!("souk_kafka_consumer_restarts_total").increment(0);
        begin(&shared, 0);
        tokio::spawn(watch_over(Arc::downgrade(&shared)));
        Self { shared, ended }
    }

    /// Takes no more records, waits for those under way, tells how far it has come, and leaves the group. `false`: it did
    /// not within this time, and what it had had is read again by others.
    pub async fn stop(mut self, within: Duration) -> bool {
        self.shared.stops.store(true, Ordering::Release);
        tokio::time::timeout(within, &mut self.ended).await.is_ok()
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::Release);
        self.shared.let_go();
    }
}

/// Begins a thread that reads.
fn begin(shared: &Arc<Shared>, generation: u64) {
    let (shared, runtime) = (Arc::clone(shared), Handle::current());
    shared.beat();
    let reader = Arc::clone(&shared);
    let spawned = std::thread::Builder::new()
        .name("kafka-consumer".to_owned())
        .spawn(move || read_for_ever(&reader, generation, &runtime));
    if let Err(error) = spawned {
        tracing::error!(%error, "no thread to read from Kafka with");
    }
}

/// Begins another thread where one hangs.
async fn watch_over(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        let Some(shared) = shared.upgrade().filter(|shared| !shared.stops.load(Ordering::Acquire)) else {
            return;
        };
        if shared.since_beat() > HANGS_AFTER {
            tracing::error!("the Kafka client hangs: another one is begun");
            metrics::counter!("souk_kafka_consumer_restarts_total").increment(1);
            let generation = shared.generation.fetch_add(1, Ordering::AcqRel) + 1;
            begin(&shared, generation);
        }
    }
}

fn read_for_ever(shared: &Arc<Shared>, generation: u64, runtime: &Handle) {
    let mut again = AGAIN_FIRST;
    loop {
        let begun = Instant::now();
        match read(shared, generation, runtime) {
            End::Stopped => break,
            End::Replaced => return,
            End::Silent => tracing::warn!("behind, and nothing is heard: the Kafka consumer is made anew"),
            End::Failed(error) => tracing::warn!(%error, "the Kafka consumer has failed and is made anew"),
            End::Panicked => tracing::error!("the Kafka consumer has panicked and is made anew"),
        }
        metrics::counter!("souk_kafka_consumer_restarts_total").increment(1);
        again = if begun.elapsed() > AGAIN_LAST { AGAIN_FIRST } else { (again * 2).min(AGAIN_LAST) };
        let until = Instant::now() + again;
        while Instant::now() < until && !shared.stops.load(Ordering::Acquire) {
            shared.beat();
            std::thread::sleep(POLL);
        }
    }
    if let Some(end) = shared.end.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Whoever stopped it may have lost patience.
        let _ = end.send(());
    }
}

/// Why reading has ended.
enum End {
    Stopped,
    /// Another thread reads.
    Replaced,
    Silent,
    Failed(KafkaError),
    Panicked,
}

/// A record, by where it was.
type Place = (String, i32, i64);

struct Reading<'a> {
    shared: &'a Arc<Shared>,
    runtime: &'a Handle,
    consumer: BaseConsumer<Context>,
    offsets: HashMap<(String, i32), Offsets>,
    in_flight: usize,
    done: (mpsc::Sender<Place>, mpsc::Receiver<Place>),
    is_paused: bool,
    /// When less than the most was under way.
    had_room: Instant,
    heard: Instant,
    complained: Option<Instant>,
}

fn read(shared: &Arc<Shared>, generation: u64, runtime: &Handle) -> End {
    if shared.stops.load(Ordering::Acquire) {
        return End::Stopped;
    }
    let consumer = match connect(&shared.settings) {
        Ok(consumer) => consumer,
        Err(error) => return End::Failed(error),
    };
    let mut reading = Reading {
        shared,
        runtime,
        consumer,
        offsets: HashMap::new(),
        in_flight: 0,
        done: mpsc::channel(),
        is_paused: false,
        had_room: Instant::now(),
        heard: Instant::now(),
        complained: None,
    };
    // What must never be must not end all reading.
    let end = catch_unwind(AssertUnwindSafe(|| reading.go_on(generation))).unwrap_or(End::Panicked);
    reading.show(0, Duration::ZERO);
    let Reading { consumer, .. } = reading;
    match end {
        // It tells how far it has come, and leaves the group.
        End::Stopped => drop(consumer),
        // It may hang.
        End::Replaced | End::Silent | End::Failed(_) | End::Panicked => {
            drop(std::thread::spawn(move || drop(consumer)))
        }
    }
    end
}

impl Reading<'_> {
    /// Until there is a reason to end.
    fn go_on(&mut self, generation: u64) -> End {
        loop {
            self.shared.beat();
            if !self.shared.is_current(generation) {
                return End::Replaced;
            }
            if self.shared.stops.load(Ordering::Acquire) {
                self.finish();
                return End::Stopped;
            }
            if let Err(error) = self.turn() {
                return End::Failed(error);
            }
            if self.is_silent() {
                return End::Silent;
            }
        }
    }

    fn turn(&mut self) -> Result<(), KafkaError> {
        self.pace()?;
        if self.is_full() && !self.is_paused {
            // Until one of them is done, and no longer.
            if let Ok(place) = self.done.1.recv_timeout(POLL) {
                self.ended(place);
            }
            self.tell();
            return Ok(());
        }
        match self.consumer.poll(POLL) {
            None => {}
            Some(Ok(message)) => {
                let incoming = Incoming::from(&message);
                drop(message);
                self.take(incoming);
            }
            Some(Err(error)) => {
                if let Some(RDKafkaErrorCode::Fatal) = error.rdkafka_error_code() {
                    return Err(error);
                }
                self.complain(&error);
            }
        }
        self.tell();
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.in_flight >= self.shared.settings.in_flight_max
    }

    /// Nothing of what is under way gets done: nothing more is taken until half of it is. The client is polled meanwhile,
    /// or the group would take it for dead. Not at once: what it has fetched ahead it fetches anew after a pause.
    fn pace(&mut self) -> Result<(), KafkaError> {
        let max = self.shared.settings.in_flight_max;
        let has_assigned = self.consumer.context().has_assigned.swap(false, Ordering::AcqRel);
        if !self.is_full() {
            self.had_room = Instant::now();
        }
        let should_pause = match self.is_paused {
            true => self.in_flight > max / 2,
            false => self.had_room.elapsed() > FULL_FOR,
        };
        if should_pause && (!self.is_paused || has_assigned) {
            self.consumer.pause(&self.consumer.assignment()?)?;
        } else if self.is_paused && !should_pause {
            self.consumer.resume(&self.consumer.assignment()?)?;
            self.heard = Instant::now();
        }
        self.is_paused = should_pause;
        Ok(())
    }

    fn take(&mut self, incoming: Incoming) {
        let Some(handler) = self.shared.handler() else { return };
        self.heard = Instant::now();
        self.in_flight += 1;
        let place = (incoming.topic.clone(), incoming.partition, incoming.offset);
        let offsets = self.offsets.entry((incoming.topic.clone(), incoming.partition)).or_default();
        offsets.take(incoming.offset, self.heard);
        let done = self.done.0.clone();
        let mut cancelled = self.shared.cancel.subscribe();
        self.runtime.spawn(async move {
            // Whoever handles it sees to what fails; should it panic nevertheless, the record must not hold up others.
            tokio::select! {
                handled = AssertUnwindSafe(handler(incoming)).catch_unwind() => if handled.is_err() {
                    tracing::error!(?place, "a record could not be handled, and is passed over");
                },
                _ = cancelled.wait_for(|cancelled| *cancelled) => return,
            }
            // Nobody listens any more: it is read again by whoever has the partition now.
            let _ = done.send(place);
        });
    }

    fn ended(&mut self, (topic, partition, offset): Place) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(offsets) = self.offsets.get_mut(&(topic, partition)) {
            offsets.done(offset);
        }
    }

    /// Tells the client how far all has had its effect.
    fn tell(&mut self) {
        let revoked = std::mem::take(
            &mut *self.consumer.context().revoked.lock().unwrap_or_else(PoisonError::into_inner),
        );
        for partition in revoked {
            self.offsets.remove(&partition);
        }
        while let Ok(place) = self.done.1.try_recv() {
            self.ended(place);
        }
        for ((topic, partition), offsets) in &mut self.offsets {
            if let Some(offset) = offsets.news()
                && let Err(error) = self.consumer.store_offset(topic, *partition, offset)
            {
                // It has just gone to somebody else, who reads again what was not told.
                tracing::debug!(%error, topic, partition, "an offset is not kept");
            }
        }
        let oldest = self.offsets.values().filter_map(Offsets::oldest).min();
        let oldest = oldest.map(|taken| taken.elapsed()).unwrap_or_default();
        self.show(self.in_flight, oldest);
    }

    fn show(&self, in_flight: usize, oldest: Duration) {
        let topic = || self.shared.settings.topic.clone();
        metrics::gauge!("souk_kafka_consumer_in_flight", "topic" => topic()).set(in_flight as f64);
        metrics::gauge!("souk_kafka_oldest_in_flight_seconds", "topic" => topic()).set(oldest.as_secs_f64());
    }

    /// Waits for what is under way.
    fn finish(&mut self) {
        let deadline = Instant::now() + CLOSE_MAX;
        if let Ok(assignment) = self.consumer.assignment() {
            // It is about to be closed anyway.
            let _ = self.consumer.pause(&assignment);
        }
        while self.in_flight > 0 && Instant::now() < deadline {
            self.shared.beat();
            std::thread::sleep(POLL);
            self.tell();
        }
        // To close takes as long as brokers take.
        self.shared.let_go();
    }

    /// There is something, somebody could say it, and nothing is heard.
    fn is_silent(&self) -> bool {
        let context = self.consumer.context();
        let is_behind =
            context.behind.load(Ordering::Acquire) > 0 && context.brokers_up.load(Ordering::Acquire) > 0;
        let waits = !self.is_paused && self.in_flight == 0;
        is_behind && waits && self.heard.elapsed() > self.shared.settings.silence
    }

    fn complain(&mut self, error: &KafkaError) {
        if self.complained.is_none_or(|last| last.elapsed() > COMPLAIN_EVERY) {
            tracing::warn!(%error, "Kafka cannot be read now");
            self.complained = Some(Instant::now());
        }
    }
}
