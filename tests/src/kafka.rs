//! A real Kafka of a test's own, without containers: `tests/services/kafka.sh` starts and stops it. And a reader, that
//! reads topics from their beginning to their end.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::OnceCell;

use crate::process::Data;

/// What the script ends with where there can be no Kafka.
const CANNOT_BE_HAD: i32 = 3;
/// A broker answers a question within this.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Nothing comes for so long: what is missing does not come any more.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Sees that its input is closed, however the test's process has ended; so in any case its brokers end, by their ids.
const WARDEN: &str = r#"cat; for number in 1 2 3; do "$0" "$1" kill-broker "$number"; done; rm -rf "$1""#;

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("services/kafka.sh")
}

/// Brokers, until they are dropped.
#[derive(Debug)]
pub struct Kafka {
    /// Where clients connect, `host:port,host:port`.
    pub addresses: String,
    count: usize,
    warden: Child,
    folder: Arc<Data>,
}

/// Where clients that show who they are connect, over TLS.
#[derive(Debug)]
pub struct Secure {
    /// `host:port`.
    pub addresses: String,
    /// Of the user `souk`.
    pub password: String,
    /// Who has signed the brokers' certificates: a PEM file.
    pub authority: PathBuf,
}

/// Why there is no Kafka.
enum Missing {
    /// This machine cannot have one.
    CannotBeHad(String),
    Failed(anyhow::Error),
}

impl Kafka {
    /// Starts so many brokers, one or three, and waits until they are ready. `None`: there can be none here, and it is said
    /// that the test is skipped.
    pub async fn start(test: &str, count: usize) -> Result<Option<Self>> {
        match Self::started(count, &[]).await {
            Ok(kafka) => Ok(Some(kafka)),
            Err(Missing::CannotBeHad(why)) => skip(test, &why),
            Err(Missing::Failed(error)) => Err(error),
        }
    }

    /// One broker for every test of this process that does it no harm, each with topics of its own; it may also be spoken
    /// with over TLS. `None`: as in [`Self::start`].
    pub async fn shared(test: &str) -> Result<Option<&'static Self>> {
        static SHARED: OnceCell<Result<Kafka, String>> = OnceCell::const_new();
        let shared = SHARED.get_or_try_init(|| async {
            match Self::started(1, &["--secure"]).await {
                Ok(kafka) => Ok(Ok(kafka)),
                Err(Missing::CannotBeHad(why)) => Ok(Err(why)),
                Err(Missing::Failed(error)) => Err(error),
            }
        });
        match shared.await? {
            Ok(kafka) => Ok(Some(kafka)),
            Err(why) => skip(test, why),
        }
    }

    async fn started(count: usize, options: &[&str]) -> Result<Self, Missing> {
        let begun = async {
            let folder = Data::new("kafka")?;
            let warden = Command::new("bash")
                .args(["-c", WARDEN])
                .arg(script())
                .arg(folder.path())
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // Ctrl-C, and whatever else ends all of the test at once, is not meant for it.
                .process_group(0)
                .spawn()
                .context("start who stops Kafka")?;
            let kafka = Self { addresses: String::new(), count, warden, folder };
            let number = count.to_string();
            let output = kafka.output("start", &[&[number.as_str()], options].concat()).await?;
            anyhow::Ok((kafka, output))
        };
        let (mut kafka, output) = begun.await.map_err(Missing::Failed)?;
        if output.status.code() == Some(CANNOT_BE_HAD) {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Missing::CannotBeHad(said));
        }
        kafka.addresses = said(&output).map_err(Missing::Failed)?;
        Ok(kafka)
    }

    /// `kill -9` for a broker; they are numbered from 1.
    pub async fn kill_broker(&self, number: usize) -> Result<()> {
        said(&self.output("kill-broker", &[&number.to_string()]).await?).map(drop)
    }

    /// Starts a broker again, and waits until it is ready.
    pub async fn start_broker(&self, number: usize) -> Result<()> {
        said(&self.output("start-broker", &[&number.to_string(), "--wait"]).await?).map(drop)
    }

    /// `kill -9` for all of them.
    pub async fn kill_all(&self) -> Result<()> {
        for number in 1..=self.count {
            self.kill_broker(number).await?;
        }
        Ok(())
    }

    /// Starts all of them again, and waits until they are ready.
    pub async fn start_all(&self) -> Result<()> {
        said(&self.output("start", &[]).await?).map(drop)
    }

    /// Where it is spoken with over TLS, if it was started so.
    pub fn secure(&self) -> Result<Secure> {
        let folder = self.folder.path().join("secure");
        let read = |name| std::fs::read_to_string(folder.join(name)).map(|text| text.trim().to_owned());
        let (addresses, password) = (read("address")?, read("password")?);
        Ok(Secure { addresses, password, authority: folder.join("ca.pem") })
    }

    /// Everything that is on these topics now: topic by topic as they are given, in order within each partition.
    pub async fn read(&self, topics: Vec<String>) -> Result<Vec<Record>> {
        let addresses = self.addresses.clone();
        tokio::task::spawn_blocking(move || read(&addresses, &topics)).await?
    }

    async fn output(&self, command: &str, arguments: &[&str]) -> Result<std::process::Output> {
        let mut script = tokio::process::Command::new(script());
        script.arg(self.folder.path()).arg(command).args(arguments).stdin(Stdio::null());
        script.output().await.with_context(|| format!("kafka.sh {command}"))
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        drop(self.warden.stdin.take());
        let _ = self.warden.wait();
    }
}

/// What the script has printed, if all went well.
fn said(output: &std::process::Output) -> Result<String> {
    ensure!(output.status.success(), "kafka.sh: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn skip<T>(test: &str, why: &str) -> Result<Option<T>> {
    // Past the capture of the test's output: the summary counts it.
    writeln!(std::io::stderr(), "skipped: {test}: {why}")?;
    Ok(None)
}

/// A record, as it is on its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// With the prefix.
    pub topic: String,
    /// Within the topic.
    pub partition: i32,
    /// Within the partition.
    pub offset: i64,
    /// Empty: none.
    pub key: String,
    /// Names and values, in order.
    pub headers: Vec<(String, String)>,
    /// What it says.
    pub body: String,
}

impl Record {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Result<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).with_context(|| format!("no {name}: {self:?}"))
    }
}

/// librdkafka's calls wait: not for a thread where anybody else waits.
fn read(addresses: &str, topics: &[String]) -> Result<Vec<Record>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", addresses)
        // None is joined, but there is no consumer without.
        .set("group.id", "a test that only reads")
        .set("enable.auto.commit", "false")
        .set("log.connection.close", "false")
        .create()?;
    let mut assigned = TopicPartitionList::new();
    let (mut ends, mut count) = (HashMap::new(), 0);
    for topic in topics {
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER_MAX)?;
        let described = metadata.topics().first().context("a topic that is asked for is told of")?;
        ensure!(described.error().is_none(), "{topic}: {:?}", described.error());
        for partition in described.partitions() {
            // No transactions and no compaction: every offset between the two is a record.
            let (low, high) = consumer.fetch_watermarks(topic, partition.id(), ANSWER_MAX)?;
            if high > low {
                assigned.add_partition_offset(topic, partition.id(), Offset::Offset(low))?;
                ends.insert((topic.as_str(), partition.id()), high);
                count += usize::try_from(high - low)?;
            }
        }
    }
    consumer.assign(&assigned)?;
    let mut records: Vec<Record> = Vec::with_capacity(count);
    let mut heard = Instant::now();
    while records.len() < count {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                // What has come meanwhile is left out.
                if ends
                    .get(&(message.topic(), message.partition()))
                    .is_some_and(|end| message.offset() < *end)
                {
                    records.push(record(&message)?);
                    heard = Instant::now();
                }
            }
            // A broker that is away comes back, or this ends by the silence.
            Some(Err(error)) if heard.elapsed() >= SILENCE_MAX => return Err(error.into()),
            None if heard.elapsed() >= SILENCE_MAX => bail!("{} of {count} records came", records.len()),
            Some(Err(_)) | None => {}
        }
    }
    let place = |record: &Record| topics.iter().position(|topic| *topic == record.topic);
    records.sort_by_key(|record| (place(record), record.partition, record.offset));
    Ok(records)
}

fn record(message: &BorrowedMessage<'_>) -> Result<Record> {
    let text =
        |bytes: Option<&[u8]>| Ok::<_, anyhow::Error>(str::from_utf8(bytes.unwrap_or_default())?.to_owned());
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    let headers = headers.map(|header| Ok((header.key.to_owned(), text(header.value)?)));
    Ok(Record {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        key: text(message.key())?,
        headers: headers.collect::<Result<_>>()?,
        body: text(message.payload())?,
    })
}
