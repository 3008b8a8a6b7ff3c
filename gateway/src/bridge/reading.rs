//! What Souk is told is read, topic by topic, for as long as the node has a part in its cluster.

use std::sync::Arc;
use std::time::Duration;

use souk_cluster::Cluster;
use souk_cluster::keeper::Membership;
use souk_config::{Kafka, millis};
use souk_persistence::kafka::{Brokers, ConsumerSettings, Handler, KafkaConsumer, KafkaPublisher};
use souk_persistence::relay::Publisher;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::inbox;
use super::trust::Trust;
use crate::app::App;

/// Consumer groups are named by it and their topic, behind the prefix of the configuration.
const GROUP: &str = "souk";
/// Records under way get so long to have their effect when the node ends.
const READING_MAX: Duration = Duration::from_secs(6);
/// A node that has had no part in its cluster for so long leaves records to others: longer than a lease that is merely late.
const PARTED_FOR: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What Souk is told is read until this is stopped.
pub struct Reading {
    stop: watch::Sender<bool>,
    task: JoinSet<()>,
}

impl Reading {
    /// Starts when topics are made.
    pub fn start(settings: &Kafka, brokers: Brokers, app: &App, are_made: watch::Receiver<bool>) -> Self {
        let prefix = settings.prefix.clone();
        // One of its own: a letter that is not delivered must not take pages of the relays with it.
        let letters: Arc<dyn Publisher> = Arc::new(KafkaPublisher::new(brokers.clone()));
        let handler = inbox::handler(app.clone(), prefix.clone(), Trust::new(settings), letters);
        let (stop, stopped) = watch::channel(false);
        let mut task = JoinSet::new();
        for topic in inbox::topics() {
            let wanted = ConsumerSettings {
                brokers: brokers.clone(),
                group: format!("{prefix}{GROUP}-{}", topic.name()),
                topic: format!("{prefix}{}", topic.name()),
                in_flight_max: settings.consumer_in_flight,
                silence: millis(settings.consumer_silence_ms),
            };
            let membership = app.cluster().map(Cluster::membership);
            let (handler, mut stopped, mut are_made) =
                (Arc::clone(&handler), stopped.clone(), are_made.clone());
            task.spawn(async move {
                let can_begin = tokio::select! {
                    made = are_made.wait_for(|made| *made) => made.is_ok(),
                    _ = stopped.wait_for(|stopped| *stopped) => false,
                };
                if can_begin {
                    read(wanted, handler, membership, stopped).await;
                }
            });
        }
        Self { stop, task }
    }

    /// Takes no more: what is under way has its effect, or is read by another node.
    pub async fn stop(&mut self) {
        self.stop.send_replace(true);
        let ended = async { while self.task.join_next().await.is_some() {} };
        if timeout(READING_MAX, ended).await.is_err() {
            tracing::warn!("records are still under way: another node reads them again");
            self.task.abort_all();
        }
    }
}

/// Reads a topic until it is stopped, whenever the node has a part in its cluster: without one, what it took it could not
/// work upon, and others would wait for it.
async fn read(
    wanted: ConsumerSettings,
    handler: Handler,
    membership: Option<watch::Receiver<Membership>>,
    mut stopped: watch::Receiver<bool>,
) {
    let has_part = || membership.as_ref().is_none_or(|membership| membership.borrow().is_member());
    loop {
        let consumer = KafkaConsumer::start(wanted.clone(), Arc::clone(&handler));
        let is_stopped = tokio::select! {
            // An error: the bridge is gone.
            _ = stopped.wait_for(|stopped| *stopped) => true,
            () = remains(&has_part, false, PARTED_FOR) => false,
        };
        if !is_stopped {
            tracing::warn!(topic = wanted.topic, "no part in the cluster: records are left to other nodes");
        }
        if !consumer.stop(READING_MAX).await {
            tracing::warn!(topic = wanted.topic, "the Kafka consumer does not end");
        }
        let is_stopped = is_stopped
            || tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => true,
                () = remains(&has_part, true, Duration::ZERO) => false,
            };
        if is_stopped {
            return;
        }
    }
}

/// Waits until it has been so for some time, as far as looking now and then can tell.
async fn remains(is_so: &impl Fn() -> bool, wanted: bool, how_long: Duration) {
    let mut since = Instant::now();
    loop {
        match is_so() == wanted {
            true if since.elapsed() >= how_long => return,
            true => {}
            false => since = Instant::now(),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_so_for_a_moment_does_not_remain() {
        let begun = Instant::now();
        let seconds = || begun.elapsed().as_secs();
        // Apart for two seconds, and then from the sixth on.
        let has_part = || !matches!(seconds(), 1..3 | 6..);
        remains(&has_part, false, PARTED_FOR).await;
        assert!((10..=11).contains(&seconds()), "{}", seconds());
        remains(&|| seconds() >= 15, true, Duration::ZERO).await;
        assert_eq!(seconds(), 15);
    }
}
