//! What `/metrics` tells.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Which requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: String,
    group: String,
    resource: String,
    code: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: String,
    resource: String,
}

const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 10.0];

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    long_running: Gauge<i64, AtomicI64>,
}

/// Counts a watch or stream for as long as it is held.
pub(crate) struct Open(Gauge<i64, AtomicI64>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations = Family::new_with_constructor(histogram as fn() -> Histogram);
        let long_running = Gauge::default();
        registry.register(
            "apiserver_request",
            "Requests by verb, resource and code",
            requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Time to the answer's head",
            durations.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Watches and streams open now",
            long_running.clone(),
        );
        Self { registry, requests, durations, long_running }
    }

    /// Counts a watch or stream from now on.
    pub(crate) fn open(&self) -> Open {
        self.long_running.inc();
        Open(self.long_running.clone())
    }

    /// Counts one answer. `group` and `resource` are of a kind that is served, or empty: a client
    /// can't make up new series.
    pub(crate) fn count(&self, verb: &str, group: &str, resource: &str, code: u16, took: Duration) {
        let (verb, resource) = (verb.to_owned(), resource.to_owned());
        let durations = DurationLabels { verb: verb.clone(), resource: resource.clone() };
        self.durations.get_or_create(&durations).observe(took.as_secs_f64());
        let labels = RequestLabels { verb, group: group.to_owned(), resource, code: code.into() };
        self.requests.get_or_create(&labels).inc();
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# cannot be written: {error}\n"),
        }
    }
}
