//! The thread that owns the table, the reconciler and the maps: it turns each transaction into a
//! round at once, and waits for grace periods when nothing else is to do.
//!
//! One thread, no lock: transactions come in by a bounded channel, and what others may know goes out
//! as [`Report`]s.

use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use bowline_abi::{
    Address, NODE_ADDRESS_LOOPBACK, NODE_ADDRESS_NODE_PORTS, SNAT_FIRST_PORT, SNAT_LAST_PORT,
    Settings,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::maps::{Maps, Usage};
use crate::metrics::Metrics;
use crate::model::{Family, NodeView, TrafficPolicy};
use crate::reconciler::{NodeRows, Reconciler};
use crate::writer::{HealthCheck, Update, Writer};

/// Transactions that may wait for the thread; more than that slow the sources down.
pub const QUEUE: usize = 256;
/// Transactions that one round takes together.
const ROUND: usize = 64;
/// After a round, this long without news before the thread goes to wait for a grace period.
const SETTLE_AFTER: Duration = Duration::from_millis(20);
/// But with this many things waiting for one, at once: the maps' spare room is finite.
const SETTLE_AT: usize = 16_384;
/// How often idle flows are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// How often the maps' sizes are read, for metrics.
const MEASURE: Duration = Duration::from_secs(15);

/// A transaction and when it arrived.
pub type Transaction = Vec<Update>;

/// What the dataplane lets others know.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Every source has synced and all of it has been tried at least once.
    pub synced: bool,
    /// When the last transaction was taken that is not yet wholly in the maps.
    pub pending_since: Option<Instant>,
    /// When the maps last were what the table says.
    pub updated: Option<SystemTime>,
    pub failing: usize,
    pub health_checks: Vec<HealthCheck>,
}

/// A running dataplane thread.
pub struct Dataplane {
    pub updates: mpsc::Sender<Transaction>,
    pub report: watch::Receiver<Report>,
    pub thread: JoinHandle<()>,
}

/// Starts the thread; it ends when `stop` is cancelled, leaving the maps as they are. `maps` are
/// taken over as they are: nothing in them is touched before the sources have synced.
pub fn start(
    maps: Box<dyn Maps>,
    reconciler: Reconciler,
    netns_cookie: u64,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> std::io::Result<Dataplane> {
    let (updates, receiver) = mpsc::channel(QUEUE);
    let (report, reports) = watch::channel(Report::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let worker = Worker {
        maps,
        reconciler,
        netns_cookie,
        metrics,
        report,
        writer: Writer::default(),
        pruned: false,
        settle_at: None,
        node: None,
    };
    let body = move || runtime.block_on(worker.run(receiver, stop));
    let thread = std::thread::Builder::new().name("dataplane".into()).spawn(body)?;
    Ok(Dataplane { updates, report: reports, thread })
}

struct Worker {
    maps: Box<dyn Maps>,
    reconciler: Reconciler,
    /// Of the node's own network namespace.
    netns_cookie: u64,
    metrics: Arc<Metrics>,
    report: watch::Sender<Report>,
    writer: Writer,
    pruned: bool,
    settle_at: Option<Instant>,
    /// What the node's rows were last made from.
    node: Option<NodeView>,
}

impl Worker {
    async fn run(mut self, mut updates: mpsc::Receiver<Transaction>, stop: CancellationToken) {
        let mut sweep = tokio::time::interval(SWEEP);
        let mut measure = tokio::time::interval(MEASURE);
        loop {
            let wake = self.next_wake();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                first = updates.recv() => {
                    let Some(first) = first else { break };
                    let mut all = first;
                    for _ in 1..ROUND {
                        let Ok(next) = updates.try_recv() else { break };
                        all.extend(next);
                    }
                    self.transact(all);
                }
                () = sleep_until(wake) => self.woken(),
                _ = sweep.tick() => self.sweep(),
                _ = measure.tick() => self.measure(),
            }
        }
        tracing::info!("the dataplane stays as it is");
    }

    fn next_wake(&self) -> Option<Instant> {
        self.settle_at.into_iter().chain(self.reconciler.next_retry()).min()
    }

    fn transact(&mut self, updates: Transaction) {
        let arrived = Instant::now();
        self.metrics.queued(&updates);
        self.report.send_modify(|report| {
            report.pending_since.get_or_insert(arrived);
        });
        let happened: Vec<SystemTime> = updates.iter().filter_map(triggered).collect();
        self.writer.apply(updates);
        let node = self.writer.node();
        if self.writer.is_synced() && self.node.as_ref() != Some(node) {
            self.reconciler.set_node(node_rows(node, self.netns_cookie));
            self.node = Some(node.clone());
        }
        self.round();
        // Clocks of different machines may disagree: a change from the future took no time.
        let took = |at: SystemTime| at.elapsed().unwrap_or_default();
        happened.into_iter().for_each(|at| self.metrics.programmed(took(at)));
    }

    fn round(&mut self) {
        if !self.writer.is_synced() {
            return;
        }
        let begin = Instant::now();
        let maps = self.maps.as_mut();
        let round = self.reconciler.reconcile(self.writer.table_mut(), maps, begin);
        if !self.pruned {
            self.prune();
        }
        self.metrics.round(round, begin.elapsed(), self.reconciler.failing());
        if self.reconciler.quarantined() >= SETTLE_AT {
            self.settle();
        } else if self.reconciler.quarantined() > 0 {
            self.settle_at = Some(Instant::now() + SETTLE_AFTER);
        }
        self.tell();
    }

    /// Once, after the first round: what an earlier agent left and nobody claimed goes.
    fn prune(&mut self) {
        self.pruned = true;
        let pruned = self.reconciler.prune();
        let table = self.writer.table_mut();
        self.reconciler.reconcile(table, self.maps.as_mut(), Instant::now());
        tracing::info!(
            services = table.len(),
            pruned,
            "every source has synced; rules are in place"
        );
    }

    fn woken(&mut self) {
        let now = Instant::now();
        if self.settle_at.is_some_and(|at| at <= now) {
            self.settle();
        }
        if self.reconciler.next_retry().is_some_and(|at| at <= now) {
            self.round();
        }
    }

    fn settle(&mut self) {
        self.settle_at = None;
        if let Err(error) = self.reconciler.settle(self.maps.as_mut()) {
            tracing::warn!(%error, "could not free what is no longer used; will retry");
            self.settle_at = Some(Instant::now() + SWEEP);
        }
    }

    fn sweep(&mut self) {
        match self.maps.sweep_flows() {
            Ok(0) => {}
            Ok(flows) => tracing::debug!(flows, "idle flows swept"),
            Err(error) => tracing::warn!(%error, "could not sweep idle flows"),
        }
    }

    fn measure(&mut self) {
        let usage: Vec<Usage> = self.maps.usage().unwrap_or_default();
        let counters = self.maps.counters().unwrap_or_default();
        self.metrics.measured(&usage, &counters);
        self.metrics.no_local_endpoints(self.no_local_endpoints());
    }

    fn tell(&mut self) {
        let failing = self.reconciler.failing();
        let health_checks = self.writer.changed_health_checks();
        self.report.send_modify(|report| {
            report.synced = self.pruned;
            report.failing = failing;
            if let Some(checks) = health_checks {
                report.health_checks = checks;
            }
            if failing == 0 {
                report.pending_since = None;
                report.updated = Some(SystemTime::now());
            }
        });
    }

    /// Service ports whose internal, external policy is Local and that have no endpoint here.
    fn no_local_endpoints(&self) -> [usize; 2] {
        let mut counts = [0; 2];
        for (_, row) in self.writer.table().iter() {
            let none = row.value.local.is_empty() && !row.value.cluster.is_empty();
            let policies = [row.value.policies.internal, row.value.policies.external];
            for (count, policy) in counts.iter_mut().zip(policies) {
                *count += usize::from(none && policy == TrafficPolicy::Local);
            }
        }
        counts
    }
}

/// What the maps shall say of this node.
fn node_rows(node: &NodeView, netns_cookie: u64) -> NodeRows {
    let first = |family| {
        let of = node.addresses.iter().find(|ip| Family::of(**ip) == family);
        of.map_or_else(Address::default, |ip| Address::from(*ip))
    };
    let own = node.addresses.iter().map(|ip| (Address::from(*ip), NODE_ADDRESS_NODE_PORTS));
    let loopback: [IpAddr; 2] =
        [std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
    let loopback =
        loopback.map(|ip| (Address::from(ip), NODE_ADDRESS_NODE_PORTS | NODE_ADDRESS_LOOPBACK));
    NodeRows {
        addresses: own.chain(loopback).collect(),
        settings: Settings {
            node_v4: first(Family::V4),
            node_v6: first(Family::V6),
            snat_first: SNAT_FIRST_PORT,
            snat_last: SNAT_LAST_PORT,
            netns_cookie,
            ..Settings::default()
        },
    }
}

fn triggered(update: &Update) -> Option<SystemTime> {
    match update {
        Update::Triggered(at) => Some(*at),
        _ => None,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
