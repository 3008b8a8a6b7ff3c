//! One link: what waits to be sent, what waits for an answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use ractor::ActorRef;
use souk_actors::admission::{Gate, Permit};
use souk_proto::node::response::Outcome;
use souk_proto::node::{Frame, Hello, Request, Response, Standing, Unknown};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::host::FrameBytes;
use super::{Asked, LinkSettings};

/// The most messages in one frame.
const FRAME_MESSAGES: usize = 256;
/// A frame is closed once it has so many bytes. One message may add `payload_max` to it.
const FRAME_BYTES: usize = 128 * 1024;
/// How often answers that nobody waits for any more are given up.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// The most bytes of requests that are unanswered: what a peer that takes nothing could make this node keep.
const IN_FLIGHT_BYTES: usize = 16 * 1024 * 1024;

/// Names requests. Of the process, not of a link: a late answer of a link before names nobody's request.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// What goes to the other side.
#[derive(Debug)]
pub(super) enum Outgoing {
    Request(Request),
    Response(Response),
    Cancelled(u64),
}

/// Who waits for an answer.
enum Waiting {
    /// Of one answer.
    Once(oneshot::Sender<Outcome>),
    /// Of many: the newest counts.
    Many(watch::Sender<Option<Standing>>),
}

struct Pending {
    waiting: Waiting,
    /// Given up then: whoever asked has given up before.
    until: Instant,
    /// A place in flight, kept until the answer is there: the other side may be as slow as it likes.
    _permit: Permit,
    _bytes: InFlight,
}

/// Bytes in flight, until it is dropped.
struct InFlight {
    count: usize,
    all: Arc<AtomicUsize>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.all.fetch_sub(self.count, Ordering::AcqRel);
    }
}

/// A link with one start of one node.
pub(super) struct Link {
    pub peer: Uuid,
    me: Uuid,
    /// The other side has said who it is, and it fits.
    is_open: AtomicBool,
    /// Has room for all that can be: requests and follows have a place in flight here, responses one at the other side,
    /// what is cancelled had one, and news of what is followed is not told while too much waits here. What has left
    /// here waits in `ractor_cluster`, at most until the peer counts as stalled.
    outgoing: mpsc::Sender<Outgoing>,
    waiting: AtomicUsize,
    waiting_max: usize,
    pending: Mutex<HashMap<u64, Pending>>,
    /// Follows of the other side: closed when it wants no more.
    followed: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    gate: Arc<Gate>,
    /// Of follows, which last: they must not take the places of asks.
    follows: Arc<Gate>,
    bytes: Arc<AtomicUsize>,
    payload_max: usize,
    stall: Duration,
}

impl Link {
    /// Begins a link to the host of the other side: it says Hello first.
    pub fn begin(peer: Uuid, host: ActorRef<FrameBytes>, hello: Hello, settings: &LinkSettings) -> Arc<Self> {
        let waiting_max = settings.in_flight_max * 2;
        let (outgoing, waiting) = mpsc::channel(4 * (settings.in_flight_max + settings.follows_max));
        let link = Arc::new(Self {
            peer,
            me: settings.incarnation,
            is_open: AtomicBool::new(false),
            outgoing,
            waiting: AtomicUsize::new(0),
            waiting_max,
            pending: Mutex::default(),
            followed: Mutex::default(),
            bytes: Arc::default(),
            gate: Gate::new(settings.in_flight_max),
            follows: Gate::new(settings.follows_max),
            payload_max: settings.payload_max,
            stall: settings.stall_timeout,
        });
        tokio::spawn(send(Arc::downgrade(&link), link.me, host, hello, waiting));
        link
    }

    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    pub fn open(&self) {
        self.is_open.store(true, Ordering::Release);
    }

    /// Nothing comes any more: whoever waits learns that it is lost.
    pub fn end(&self) {
        self.is_open.store(false, Ordering::Release);
        lock(&self.pending).clear();
        lock(&self.followed).clear();
    }

    pub async fn request(self: &Arc<Self>, request: Request, within: Duration) -> Asked {
        let (answer, answered) = oneshot::channel();
        if self.send(request, within, Waiting::Once(answer)).is_none() {
            return Asked::NotSent;
        }
        match tokio::time::timeout(within, answered).await {
            Ok(Ok(outcome)) => Asked::Answered(outcome),
            Ok(Err(_)) | Err(_) => Asked::Lost,
        }
    }

    pub fn follow(self: &Arc<Self>, request: Request, within: Duration) -> Option<Subscription> {
        let (views, newest) = watch::channel(None);
        let id = self.send(request, within, Waiting::Many(views))?;
        Some(Subscription { link: Arc::clone(self), id, newest })
    }

    /// `None`: it is not on its way and never was.
    fn send(&self, request: Request, within: Duration, waiting: Waiting) -> Option<u64> {
        let count = request.encoded_len();
        if !self.is_open() || count > self.payload_max {
            return None;
        }
        let gate = match waiting {
            Waiting::Once(_) => &self.gate,
            Waiting::Many(_) => &self.follows,
        };
        let permit = gate.enter()?;
        let before = self.bytes.fetch_add(count, Ordering::AcqRel);
        let bytes = InFlight { count, all: Arc::clone(&self.bytes) };
        if before + count > IN_FLIGHT_BYTES {
            return None;
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let until = Instant::now() + within + self.stall;
        lock(&self.pending).insert(id, Pending { waiting, until, _permit: permit, _bytes: bytes });
        self.put(Outgoing::Request(Request { id, ..request }));
        // Ended meanwhile: whoever clears what is pending may have passed already.
        if !self.is_open() {
            lock(&self.pending).remove(&id);
        }
        Some(id)
    }

    /// The other side has answered.
    pub fn answered(&self, Response { request, outcome }: Response) {
        let Some(outcome) = outcome else { return };
        let mut pending = lock(&self.pending);
        let is_over = match (pending.get(&request).map(|pending| &pending.waiting), &outcome) {
            (Some(Waiting::Many(views)), Outcome::Standing(standing)) => {
                let newest = standing.clone();
                views.send_if_modified(|known| {
                    let is_newer = known.as_ref().is_none_or(|known| known.version < newest.version);
                    if is_newer {
                        *known = Some(newest);
                    }
                    is_newer
                });
                false
            }
            (Some(_), _) => true,
            (None, _) => false,
        };
        let ended = if is_over { pending.remove(&request) } else { None };
        drop(pending);
        if let Some(Pending { waiting: Waiting::Once(answer), .. }) = ended {
            // Whoever has given up asks again.
            let _ = answer.send(outcome);
        }
    }

    /// The other side wants no more of it.
    pub fn cancelled(&self, request: u64) {
        lock(&self.followed).remove(&request);
    }

    /// How the other side's request is answered.
    pub fn responder(self: &Arc<Self>, request: u64, is_follow: bool) -> Responder {
        let cancelled = is_follow.then(|| {
            let (cancel, cancelled) = oneshot::channel();
            lock(&self.followed).insert(request, cancel);
            cancelled
        });
        Responder { link: Arc::clone(self), request, cancelled, is_answered: false }
    }

    fn respond(&self, request: u64, outcome: Outcome) {
        let mut response = Response { request, outcome: Some(outcome) };
        if response.encoded_len() > self.payload_max {
            tracing::warn!(bytes = response.encoded_len(), "an answer is too large for another node");
            response.outcome = Some(Outcome::Unknown(Unknown {}));
        }
        self.put(Outgoing::Response(response));
    }

    fn put(&self, outgoing: Outgoing) {
        // A sender that has ended has lost its session; whoever waits is told by whoever ends the link.
        self.waiting.fetch_add(1, Ordering::AcqRel);
        if self.outgoing.try_send(outgoing).is_err() {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn tidy(&self) {
        let now = Instant::now();
        lock(&self.pending).retain(|_, pending| pending.until > now);
    }
}

/// Collects whatever waits, and sends it as one frame after the other, until nobody has the link any more.
async fn send(
    link: std::sync::Weak<Link>,
    me: Uuid,
    host: ActorRef<FrameBytes>,
    hello: Hello,
    mut waiting: mpsc::Receiver<Outgoing>,
) {
    let from = Bytes::copy_from_slice(me.as_bytes());
    let mut frame = Frame { from: from.clone(), hello: Some(hello), ..Frame::default() };
    let mut taken = Vec::new();
    let mut tidied = Instant::now();
    loop {
        let messages = frame.requests.len() + frame.responses.len();
        if messages > 0 || frame.hello.is_some() || !frame.cancelled.is_empty() {
            metrics::counter!("souk_cluster_frames_total").increment(1);
            metrics::counter!("souk_cluster_messages_total").increment(messages as u64);
            if host.cast(FrameBytes(frame.encode_to_vec())).is_err() {
                // Its session has ended, which others are told.
                return;
            }
        }
        frame = Frame { from: from.clone(), ..Frame::default() };
        if taken.is_empty() {
            // Whoever is about to ask or to answer does so meanwhile: twice as many messages travel together.
            tokio::task::yield_now().await;
            let received = waiting.recv_many(&mut taken, FRAME_MESSAGES);
            if let Ok(0) = tokio::time::timeout(TIDY_EVERY, received).await {
                return;
            }
            let Some(link) = link.upgrade() else { return };
            link.waiting.fetch_sub(taken.len(), Ordering::AcqRel);
            if tidied.elapsed() >= TIDY_EVERY {
                link.tidy();
                tidied = Instant::now();
            }
        }
        fill(&mut frame, &mut taken);
    }
}

/// Moves what was taken into the frame until that is full.
fn fill(frame: &mut Frame, taken: &mut Vec<Outgoing>) {
    let mut bytes = 0;
    let mut moved = 0;
    for outgoing in taken.iter() {
        if bytes >= FRAME_BYTES {
            break;
        }
        bytes += match outgoing {
            Outgoing::Request(request) => request.encoded_len(),
            Outgoing::Response(response) => response.encoded_len(),
            Outgoing::Cancelled(_) => 8,
        };
        moved += 1;
    }
    for outgoing in taken.drain(..moved) {
        match outgoing {
            Outgoing::Request(request) => frame.requests.push(request),
            Outgoing::Response(response) => frame.responses.push(response),
            Outgoing::Cancelled(request) => frame.cancelled.push(request),
        }
    }
}

/// Answers a request of another node. Dropped unanswered it says that nobody knows.
pub struct Responder {
    link: Arc<Link>,
    request: u64,
    cancelled: Option<oneshot::Receiver<()>>,
    is_answered: bool,
}

impl Responder {
    /// The answer.
    pub fn answer(mut self, outcome: Outcome) {
        self.is_answered = true;
        self.link.respond(self.request, outcome);
    }

    /// One of many answers. `false`: too much waits for the other side, and it was not told; whoever follows is to
    /// begin again.
    pub fn push(&self, outcome: Outcome) -> bool {
        let has_room = self.link.waiting.load(Ordering::Acquire) < self.link.waiting_max;
        if has_room {
            self.link.respond(self.request, outcome);
        }
        has_room
    }

    /// Resolves when whoever follows wants no more, or is gone; never for who asked once.
    pub async fn closed(&mut self) {
        match &mut self.cancelled {
            // Dropped by whoever cancels, or ends the link.
            Some(cancelled) => drop(cancelled.await),
            None => std::future::pending().await,
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.cancelled.is_some() {
            lock(&self.link.followed).remove(&self.request);
        }
        if !self.is_answered {
            self.link.respond(self.request, Outcome::Unknown(Unknown {}));
        }
    }
}

/// An entity of another node that is followed. Dropping it ends that.
pub struct Subscription {
    link: Arc<Link>,
    id: u64,
    newest: watch::Receiver<Option<Standing>>,
}

impl Subscription {
    /// The newest view that has come since the last call. `None`: no more will come.
    pub async fn next(&mut self) -> Option<Standing> {
        self.newest.changed().await.ok()?;
        self.newest.borrow_and_update().clone()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if lock(&self.link.pending).remove(&self.id).is_some() {
            self.link.put(Outgoing::Cancelled(self.id));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(bytes: usize) -> Outgoing {
        Outgoing::Request(Request { traceparent: "x".repeat(bytes), ..Request::default() })
    }

    #[test]
    fn what_waits_travels_together_until_the_frame_is_full() {
        let mut taken: Vec<_> = (0..9).map(|_| request(30_000)).collect();
        taken.push(Outgoing::Cancelled(7));
        let mut frame = Frame::default();
        fill(&mut frame, &mut taken);
        assert_eq!((frame.requests.len(), taken.len()), (5, 5));
        let mut frame = Frame::default();
        fill(&mut frame, &mut taken);
        assert_eq!((frame.requests.len(), frame.cancelled, taken.len()), (4, vec![7], 0));
    }
}
