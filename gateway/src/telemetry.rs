//! Logs and metrics.

use std::io::IsTerminal;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use souk_config::LogFormat;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::UtcTime;

/// Seconds: from a cached read to the longest wait for a purchase.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// So often what was measured is put into the buckets: until then each measurement is kept by itself.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Why nothing can be seen.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("log.filter is not understood")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody else logs already.
    #[error("logging is set up twice")]
    Twice,
    /// The system gives no thread.
    #[error("metrics cannot be kept")]
    Thread(#[from] std::io::Error),
    /// The recorder cannot be made.
    #[error("metrics cannot be recorded")]
    Recorder(#[from] metrics_exporter_prometheus::BuildError),
}

/// Logs to standard error: text on a terminal, JSON otherwise, unless `format` says so.
pub fn log(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let is_terminal = std::io::stderr().is_terminal();
    let is_json = match format {
        LogFormat::Auto => !is_terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(discreet(filter)?)
        .with_timer(UtcTime::rfc_3339())
        .with_ansi(is_terminal && std::env::var_os("NO_COLOR").is_none());
    let set = if is_json { builder.json().try_init() } else { builder.compact().try_init() };
    set.map_err(|_| TelemetryError::Twice)
}

/// What is logged, but for the payloads of links: at debug `ractor_cluster` shows every frame, and with it password
/// hashes and payment tokens. Whoever asks for all of it does not mean that.
fn discreet(filter: &str) -> Result<EnvFilter, TelemetryError> {
    const NEVER: &str = "ractor_cluster";
    let asked = filter.split(',').filter(|directive| !directive.contains(NEVER));
    let warnings = format!("{NEVER}=warn");
    let all: Vec<_> = asked.chain([warnings.as_str()]).collect();
    Ok(EnvFilter::try_new(all.join(","))?)
}

/// Records metrics; the handle shows them. Needs no runtime: it begins before there is one.
pub fn record() -> Result<PrometheusHandle, TelemetryError> {
    let builder =
        PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)?;
    let handle = builder.install_recorder()?;
    let kept = handle.clone();
    // As long as the process, like the recorder.
    std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(UPKEEP_EVERY);
            kept.run_upkeep();
        }
    })?;
    Ok(handle)
}

/// What memory comes from. With the feature `count-allocations` it counts, which costs a few µs a purchase.
#[cfg(not(feature = "count-allocations"))]
pub type Allocator = mimalloc::MiMalloc;
/// What memory comes from: the system's, counted.
#[cfg(feature = "count-allocations")]
pub type Allocator = &'static stats_alloc::StatsAlloc<std::alloc::System>;

/// For the program's global allocator.
#[cfg(not(feature = "count-allocations"))]
pub const ALLOCATOR: Allocator = mimalloc::MiMalloc;
/// For the program's global allocator.
#[cfg(feature = "count-allocations")]
pub const ALLOCATOR: Allocator = &stats_alloc::INSTRUMENTED_SYSTEM;

/// Shows how often memory was asked for, where that is counted.
pub fn measure_allocations() {
    #[cfg(feature = "count-allocations")]
    {
        let stats = stats_alloc::INSTRUMENTED_SYSTEM.stats();
        let count = stats.allocations + stats.reallocations;
        metrics::counter!("souk_allocations_total").absolute(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_filter_shows_what_crosses_between_nodes() {
        for filter in [
            "debug",
            "trace,ractor_cluster=trace",
            "info,ractor_cluster::net::session=debug",
            "ractor_cluster",
        ] {
            let shown = discreet(filter).expect("a filter").to_string();
            assert!(shown.contains("ractor_cluster=warn"), "{shown}");
            assert_eq!(shown.matches("ractor_cluster").count(), 1, "{shown}");
        }
        assert!(discreet("souk=nonsense").is_err());
    }
}
