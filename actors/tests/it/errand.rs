//! An aggregate that owes the world one errand, whose answer takes its time.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use souk_actors::aggregate::{Aggregate, Decision, Kind, Residence};
use souk_actors::host::{AnyHost, Host};
use souk_actors::retry::Backoff;
use souk_actors::settling::Collector;
use souk_actors::world::{Performer, Time, World};
use souk_actors::{Clock, Id, Slot, Timestamp};
use souk_persistence::memory::MemoryJournal;
use uuid::Uuid;

use crate::stage::Stage;
use crate::tally::{LIMITS, supervise};

const ERRAND: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Errand {
    since: Option<Timestamp>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Command {
    Begin,
    /// Nobody wants it any more.
    Forget,
    /// The world has answered.
    Answered,
    /// Nobody knows.
    Unknown,
}

#[derive(Debug, Serialize, Deserialize)]
enum Event {
    Begun,
    Over,
}

#[derive(Debug)]
struct Run;

impl Aggregate for Errand {
    const KIND: Kind = Kind::Category;
    const SNAPSHOT_EVERY: u32 = 0;
    const RESIDENCE: Residence = Residence::WhileBusy;

    type Command = Command;
    type Answer = ();
    type Rejection = ();
    type Event = Event;
    type Effect = Run;
    type View = ();

    fn decide(&self, _at: Timestamp, command: &Command) -> Decision<Self> {
        match (command, self.since) {
            (Command::Begin, None) => Decision::event(Event::Begun, ()),
            (Command::Forget | Command::Answered, Some(_)) => Decision::event(Event::Over, ()),
            (Command::Begin, Some(_))
            | (Command::Forget | Command::Answered, None)
            | (Command::Unknown, _) => Decision::answer(()),
        }
    }

    fn apply(&mut self, at: Timestamp, event: &Event) {
        self.since = match event {
            Event::Begun => Some(at),
            Event::Over => None,
        };
    }

    fn effects(&self) -> Vec<(Timestamp, Run)> {
        self.since.map(|since| (since, Run)).into_iter().collect()
    }

    fn effect_name(_effect: &Run) -> &'static str {
        "run"
    }

    fn view(&self) {}

    fn owner(&self) -> Option<Uuid> {
        None
    }
}

type Perform = fn(&World, Id<Errand>, Run, Time) -> BoxFuture<'static, Command>;

/// Opens a host whose errands are run like this.
async fn open(perform: Perform) -> Arc<Host<Errand>> {
    let elsewhere = Stage::set();
    let node = elsewhere.open().await;
    let world = World {
        directory: node.shop.directory().clone(),
        provider: elsewhere.bank.clone(),
        collector: Arc::new(Collector::new(1)),
        clock: Clock::System,
        ask: ERRAND,
        provider_call: ERRAND,
    };
    let performer = Performer { perform, hand_over: |_, _, _, _| false, backoff: |_| Backoff::FOR_EVER };
    let here = Arc::new(souk_actors::territory::Territory::everything());
    let host = Host::<Errand>::new(MemoryJournal::open("errands"), Clock::System, LIMITS, here, performer);
    host.connect(world);
    supervise(&host).await;
    host
}

#[tokio::test(start_paused = true)]
async fn nobody_stays_for_an_answer_that_is_not_needed_any_more() {
    let host = open(|_, _, Run, _| tokio::time::sleep(ERRAND).map(|()| Command::Answered).boxed()).await;
    let id = Id::fresh(Clock::System.now(), Slot::random());
    assert_eq!(host.ask(id, Command::Begin, false).await, Ok(Ok(())));
    assert_eq!(host.residents(), 1, "it waits for the world");
    assert_eq!(host.ask(id, Command::Forget, false).await, Ok(Ok(())));
    // Whether or not the answer has come by then.
    for _ in 0..2 {
        tokio::time::sleep(ERRAND).await;
        assert_eq!(host.residents(), 0, "it stays for nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_stuck_is_in_memory_but_takes_nobodys_turn() {
    let host = open(|_, _, Run, _| tokio::time::sleep(ERRAND).map(|()| Command::Unknown).boxed()).await;
    let id = Id::fresh(Clock::System.now(), Slot::random());
    assert_eq!(host.ask(id, Command::Begin, false).await, Ok(Ok(())));
    assert_eq!((host.residents(), host.moving(), host.done()), (1, 1, 0));
    tokio::time::sleep(Duration::from_secs(180)).await;
    assert_eq!((host.residents(), host.moving(), host.done()), (1, 0, 0), "unknown for minutes");
    assert_eq!(host.ask(id, Command::Forget, false).await, Ok(Ok(())));
    tokio::time::sleep(ERRAND).await;
    assert_eq!((host.residents(), host.moving(), host.done()), (0, 0, 1), "it is over");
}
