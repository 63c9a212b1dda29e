//! Metrics, under kube-proxy's names where it has one for the same thing, and ours beside them.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, SystemTime};

use bowline_abi::{COUNTER_NAMES, Counter as Packets};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::maps::Usage;
use crate::reconciler::Round;
use crate::writer::Update;

type Labels = Vec<(&'static str, String)>;
type Seconds = Gauge<f64, AtomicU64>;

/// All metrics of the agent; written by its parts, read by a scrape.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    sync_duration: Histogram,
    programming_duration: Histogram,
    last_sync: Seconds,
    last_queued: Seconds,
    endpoint_changes: Counter,
    service_changes: Counter,
    endpoint_pending: Gauge<i64, AtomicI64>,
    service_pending: Gauge<i64, AtomicI64>,
    no_local: Family<Labels, Gauge>,
    healthz: Family<Labels, Counter>,
    livez: Family<Labels, Counter>,
    failing: Gauge,
    map_entries: Family<Labels, Gauge>,
    map_capacity: Family<Labels, Gauge>,
    map_bytes: Family<Labels, Gauge>,
    packets: Family<Labels, Gauge>,
    bytes: Family<Labels, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut new = Self {
            registry: Registry::default(),
            sync_duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            programming_duration: Histogram::new(exponential_buckets(0.005, 2.0, 16)),
            last_sync: Seconds::default(),
            last_queued: Seconds::default(),
            endpoint_changes: Counter::default(),
            service_changes: Counter::default(),
            endpoint_pending: Gauge::default(),
            service_pending: Gauge::default(),
            no_local: Family::default(),
            healthz: Family::default(),
            livez: Family::default(),
            failing: Gauge::default(),
            map_entries: Family::default(),
            map_capacity: Family::default(),
            map_bytes: Family::default(),
            packets: Family::default(),
            bytes: Family::default(),
        };
        new.register_kubeproxy();
        new.register_own();
        new
    }
}

impl Metrics {
    /// A transaction was taken.
    pub fn queued(&self, updates: &[Update]) {
        self.last_queued.set(now());
        for update in updates {
            match update {
                Update::Service(..) | Update::ServiceGone(_) => {
                    self.service_changes.inc();
                    self.service_pending.inc();
                }
                Update::Slice(..) | Update::SliceGone(_) => {
                    self.endpoint_changes.inc();
                    self.endpoint_pending.inc();
                }
                Update::Node(_) | Update::Synced(_) | Update::Triggered(_) => {}
            }
        }
    }

    /// A round ended.
    pub fn round(&self, _round: Round, duration: Duration, failing: usize) {
        self.sync_duration.observe(duration.as_secs_f64());
        self.last_sync.set(now());
        self.service_pending.set(0);
        self.endpoint_pending.set(0);
        self.failing.set(failing as i64);
    }

    /// The time from an endpoint's change to its being in the maps.
    pub fn programmed(&self, duration: Duration) {
        self.programming_duration.observe(duration.as_secs_f64());
    }

    /// Service ports under policy Local without endpoints here: internal, external.
    pub fn no_local_endpoints(&self, counts: [usize; 2]) {
        for (policy, count) in ["internal", "external"].into_iter().zip(counts) {
            let labels = vec![("traffic_policy", policy.to_owned())];
            self.no_local.get_or_create(&labels).set(count as i64);
        }
    }

    pub fn healthz_answered(&self, code: u16) {
        self.healthz.get_or_create(&vec![("code", code.to_string())]).inc();
    }

    pub fn livez_answered(&self, code: u16) {
        self.livez.get_or_create(&vec![("code", code.to_string())]).inc();
    }

    /// The maps' sizes and the programs' counters were read.
    pub fn measured(&self, usage: &[Usage], counters: &[Packets]) {
        for map in usage {
            let labels = vec![("map", map.name.to_owned())];
            self.map_entries.get_or_create(&labels).set(map.entries.unwrap_or(0) as i64);
            self.map_capacity.get_or_create(&labels).set(map.capacity.into());
            self.map_bytes.get_or_create(&labels).set(map.bytes as i64);
        }
        for (name, counter) in COUNTER_NAMES.iter().zip(counters) {
            let labels = vec![("reason", (*name).to_owned())];
            self.packets.get_or_create(&labels).set(counter.packets as i64);
            self.bytes.get_or_create(&labels).set(counter.bytes as i64);
        }
    }

    /// All of it in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// A counter's name gets `_total` appended when it is encoded; a gauge's does not.
    fn register_kubeproxy(&mut self) {
        let kubeproxy = self.registry.sub_registry_with_prefix("kubeproxy");
        kubeproxy.register("proxy_healthz", "Health answers by code", self.healthz.clone());
        kubeproxy.register("proxy_livez", "Liveness answers by code", self.livez.clone());
        kubeproxy.register(
            "network_programming_duration_seconds",
            "Time from an endpoint's change to its being in the maps",
            self.programming_duration.clone(),
        );
        let sync = kubeproxy.sub_registry_with_prefix("sync_proxy_rules");
        sync.register(
            "duration_seconds",
            "Time that a round of the reconciler took",
            self.sync_duration.clone(),
        );
        sync.register(
            "last_timestamp_seconds",
            "When the last round ended, in seconds since 1970",
            self.last_sync.clone(),
        );
        sync.register(
            "last_queued_timestamp_seconds",
            "When the last change was taken, in seconds since 1970",
            self.last_queued.clone(),
        );
        sync.register("endpoint_changes", "EndpointSlice changes", self.endpoint_changes.clone());
        sync.register(
            "endpoint_changes_pending",
            "EndpointSlice changes that no round has taken yet",
            self.endpoint_pending.clone(),
        );
        sync.register("service_changes", "Service changes", self.service_changes.clone());
        sync.register(
            "service_changes_pending",
            "Service changes that no round has taken yet",
            self.service_pending.clone(),
        );
        sync.register(
            "no_local_endpoints_total",
            "Service ports under policy Local without endpoints on this node",
            self.no_local.clone(),
        );
    }

    fn register_own(&mut self) {
        let own = self.registry.sub_registry_with_prefix("bowline_proxy");
        own.register("rows_failing", "Rows that wait for a retry", self.failing.clone());
        own.register("map_entries", "Entries of each map", self.map_entries.clone());
        own.register("map_capacity", "Capacity of each map", self.map_capacity.clone());
        own.register("map_bytes", "Memory of each map", self.map_bytes.clone());
        own.register("packets", "Packets that the programs counted", self.packets.clone());
        own.register("bytes", "Bytes that the programs counted", self.bytes.clone());
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0.0, |duration| duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    #[test]
    fn the_names_are_those_that_kube_proxy_has() {
        let metrics = Metrics::default();
        metrics.queued(&[Update::ServiceGone(ObjectName::new("a", "b"))]);
        metrics.round(Round::default(), Duration::from_millis(1), 0);
        metrics.programmed(Duration::from_millis(1));
        metrics.no_local_endpoints([1, 0]);
        metrics.healthz_answered(200);
        metrics.livez_answered(503);
        let text = metrics.encode().expect("metrics can be encoded");
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_count 1",
            "kubeproxy_network_programming_duration_seconds_count 1",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds ",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds ",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 0",
            "kubeproxy_sync_proxy_rules_service_changes_pending 0",
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"internal\"} 1",
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
            "kubeproxy_proxy_livez_total{code=\"503\"} 1",
        ] {
            assert!(text.contains(&format!("\n{line}")), "{line} is missing in\n{text}");
        }
    }
}
