//! Requests on a connection each, straight to a pod and through services.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::cluster::{BenchCluster, CLIENT, SECOND_PORT, SERVER_PORT};
use super::iptables;
use super::table::Spread;
use crate::kit::report::Report;

/// Clients at once: enough that the client's core is always busy, so that each cost shows.
const WORKERS: u32 = 4;
/// Closed connections are remembered for so long in the node of the bench, and no measurement
/// begins before: none meets the traces of the one before.
const CONNTRACK_MEMORY: Duration = Duration::from_secs(1);
const REST: Duration = Duration::from_millis(1300);

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    pub rounds: usize,
    /// Of one measurement.
    pub seconds: f64,
}

/// Requests a second on the three ways, one after the other in one round.
#[derive(Debug, Clone, Copy, Default)]
pub struct Round {
    pub direct: f64,
    pub cluster_ip: f64,
    pub iptables: f64,
}

/// All rounds with one number of services.
#[derive(Debug, Default)]
pub struct Rounds {
    pub rounds: Vec<Round>,
    /// Requests that failed, on any way.
    pub failed: u64,
}

impl Rounds {
    /// Rates, or ratios, of all rounds.
    pub fn spread(&self, figure: impl Fn(&Round) -> f64) -> Option<Spread> {
        Spread::of(&self.rounds.iter().map(figure).collect::<Vec<_>>())
    }
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Direct,
    ClusterIp,
    Iptables,
}

/// Where the ways lead: all end in the same pod.
#[derive(Debug, Clone, Copy)]
pub struct Targets {
    pub server: Ipv4Addr,
    pub cluster_ip: Ipv4Addr,
    /// Services with iptables rules.
    pub services: u32,
}

/// Makes the node forget closed connections soon, and sees that it can take rules; once before the
/// first measurement.
pub fn prepare(cluster: &BenchCluster) -> anyhow::Result<()> {
    restore(cluster, iptables::EMPTY).context("the package iptables is needed to compare with")?;
    let seconds = CONNTRACK_MEMORY.as_secs();
    let file = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait";
    cluster.in_node(&["tee", file], &seconds.to_string()).map(drop)
}

/// Measures the three ways in turns, every other round in the reverse order.
pub fn measure(
    cluster: &BenchCluster,
    targets: &Targets,
    extent: Extent,
) -> anyhow::Result<Rounds> {
    let mut order = [Way::Direct, Way::ClusterIp, Way::Iptables];
    let mut all = Rounds::default();
    // The first requests of all pay for cold caches.
    for way in [Way::Direct, Way::ClusterIp] {
        load(cluster, way, targets, extent.seconds.min(0.5))?;
    }
    for number in 1..=extent.rounds {
        let mut round = Round::default();
        for way in order {
            let report = load(cluster, way, targets, extent.seconds)?;
            all.failed += report.failed;
            let rate = report.ok as f64 / report.seconds;
            match way {
                Way::Direct => round.direct = rate,
                Way::ClusterIp => round.cluster_ip = rate,
                Way::Iptables => round.iptables = rate,
            }
        }
        eprintln!(
            "  round {number}/{}: direct {:.0}/s, ClusterIP {:.0}/s, iptables {:.0}/s",
            extent.rounds, round.direct, round.cluster_ip, round.iptables
        );
        all.rounds.push(round);
        order.reverse();
    }
    Ok(all)
}

/// One measurement. Rules are there only while they are measured: as kube-proxy's list is walked
/// for each new connection, they would slow down the other ways, too.
fn load(
    cluster: &BenchCluster,
    way: Way,
    targets: &Targets,
    seconds: f64,
) -> anyhow::Result<Report> {
    let target = match way {
        Way::Direct => SocketAddrV4::new(targets.server, SERVER_PORT),
        Way::ClusterIp => SocketAddrV4::new(targets.cluster_ip, 80),
        Way::Iptables => SocketAddrV4::new(iptables::TARGET, iptables::PORT),
    };
    if matches!(way, Way::Iptables) {
        let backend = SocketAddrV4::new(targets.server, SECOND_PORT);
        restore(cluster, &iptables::rules(targets.services, backend))?;
    }
    std::thread::sleep(REST);
    let report = requests(cluster, target, seconds);
    if matches!(way, Way::Iptables) {
        restore(cluster, iptables::EMPTY)?;
    }
    let report = report?;
    ensure!(report.ok > 0, "no request to {target} was answered: {:?}", report.errors);
    Ok(report)
}

fn restore(cluster: &BenchCluster, rules: &str) -> anyhow::Result<()> {
    cluster.in_node(&["iptables-legacy-restore"], rules).map(drop)
}

fn requests(cluster: &BenchCluster, target: SocketAddrV4, seconds: f64) -> anyhow::Result<Report> {
    let (target, workers) = (target.to_string(), format!("--workers={WORKERS}"));
    let seconds = format!("--seconds={seconds}");
    let text =
        cluster.kubectl(&["exec", CLIENT, "--", "testkit", "load", &target, &workers, &seconds])?;
    serde_json::from_str(text.trim()).with_context(|| format!("the client's report {text:?}"))
}
