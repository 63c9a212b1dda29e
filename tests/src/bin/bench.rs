//! Measures a cluster of its own and prints tables of ratios: see `docs/bench.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use bowline_tests::bench::cluster::{self, BenchCluster};
use bowline_tests::bench::memory::{self, Resident};
use bowline_tests::bench::requests::{self, Extent, Rounds, Targets};
use bowline_tests::bench::services::{self, Made};
use bowline_tests::bench::starts::{self, Starts};
use bowline_tests::bench::table::{Table, percentile, sorted};
use clap::Parser;

/// Without load for so long, the cluster counts as idle.
const SETTLE: Duration = Duration::from_secs(10);
/// The smaller number of services.
const FEW: u32 = 10;

#[derive(Parser)]
#[command(
    about = "Measure requests through services, starts of pods, and memory, on a cluster of \
                   its own, and print the ratios"
)]
struct Cli {
    /// A short run: fewer rounds and pods, 1,000 services instead of 10,000
    #[arg(long)]
    quick: bool,
}

/// How much a run measures.
struct Scale {
    many: u32,
    pods: usize,
    extent: Extent,
}

impl Scale {
    fn of(cli: &Cli) -> Self {
        if cli.quick {
            Self { many: 1_000, pods: 5, extent: Extent { rounds: 7, seconds: 0.5 } }
        } else {
            Self { many: 10_000, pods: 20, extent: Extent { rounds: 21, seconds: 0.8 } }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let scale = Scale::of(&Cli::parse());
    cluster::remove_when_stopped()?;
    say("a cluster of one node");
    let cluster = BenchCluster::up()?;
    let client = services::client(cluster.kubeconfig()).await?;
    say("the cluster settles, then its memory is read");
    tokio::time::sleep(SETTLE).await;
    let idle = memory::read(&cluster)?;
    requests::prepare(&cluster)?;
    say(&format!("{} pods through the API and as many by the runtime alone", scale.pods));
    let starts = starts::measure(&cluster, &client, scale.pods).await?;
    let server = cluster.start_pods()?;
    let mut measured = Vec::new();
    let mut made = None;
    for (from, to) in [(0, FEW), (FEW, scale.many)] {
        say(&format!("{to} services: made through the API until the kernel's maps have them"));
        made = Some(services::make(&cluster, &client, (from, to)).await?);
        tokio::time::sleep(SETTLE).await;
        let cluster_ip = services::cluster_ip(&client, to / 2).await?;
        say(&format!("{to} services: requests"));
        let targets = Targets { server, cluster_ip, services: to };
        measured.push((to, requests::measure(&cluster, &targets, scale.extent)?));
    }
    let loaded = memory::read(&cluster)?;
    drop(cluster);
    println!("{}", machine());
    print_requests(&measured)?;
    print_services(scale.many - FEW, made);
    print_starts(&starts)?;
    print_memory(&idle, &loaded, scale.many);
    Ok(())
}

/// A line of progress.
fn say(what: &str) {
    eprintln!("bench: {what}");
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, Linux {}", kernel.trim())
}

fn print_requests(measured: &[(u32, Rounds)]) -> anyhow::Result<()> {
    println!("\nRequests on a connection each, pod to pod on one node: median (its 95 % interval)");
    let mut table = Table::new(&["", "requests/s", "of direct", "ClusterIP of iptables", "failed"]);
    for (services, all) in measured {
        let spread = |figure: fn(&requests::Round) -> f64| all.spread(figure).context("no round");
        table.row(vec![
            format!("direct to the pod, {services} services"),
            spread(|round| round.direct)?.text(0),
            "1".to_owned(),
            String::new(),
            all.failed.to_string(),
        ]);
        table.row(vec![
            format!("ClusterIP, {services} services"),
            spread(|round| round.cluster_ip)?.text(0),
            spread(|round| round.cluster_ip / round.direct)?.text(3),
            spread(|round| round.cluster_ip / round.iptables)?.text(2),
        ]);
        table.row(vec![
            format!("iptables, {services} services"),
            spread(|round| round.iptables)?.text(0),
            spread(|round| round.iptables / round.direct)?.text(3),
        ]);
    }
    print!("{table}");
    Ok(())
}

fn print_services(count: u32, made: Option<Made>) {
    if let Some(Made { in_api, in_maps }) = made {
        println!(
            "\n{count} services made: in the API after {:.1} s, all in the kernel's maps with \
             their backends after {:.1} s",
            in_api.as_secs_f64(),
            in_maps.as_secs_f64()
        );
    }
}

fn print_starts(starts: &Starts) -> anyhow::Result<()> {
    println!("\nA pod until its container runs, one at a time, {} each", starts.api.len());
    let mut table = Table::new(&["", "p50 ms", "p99 ms", "of the floor (p50)"]);
    let at = |figures: &[f64], percent| percentile(&sorted(figures), percent).context("no start");
    let floor = at(&starts.runtime, 50.0)?;
    let rows = [
        ("through the API, until a watch says Running", &starts.api),
        ("by the runtime alone (CRI): the floor", &starts.runtime),
    ];
    for (name, figures) in rows {
        let (p50, p99) = (at(figures, 50.0)?, at(figures, 99.0)?);
        let ratio = p50 / floor;
        table.row(vec![
            name.to_owned(),
            format!("{p50:.0}"),
            format!("{p99:.0}"),
            format!("{ratio:.2}"),
        ]);
    }
    print!("{table}");
    Ok(())
}

fn print_memory(
    idle: &BTreeMap<&'static str, Resident>,
    loaded: &BTreeMap<&'static str, Resident>,
    services: u32,
) {
    println!("\nResident memory in MiB: a process's own (anon), and pages of its binary (file)");
    let later = format!("anon, {services} services");
    let mut table = Table::new(&["", "processes", "idle: anon", "file", "both", &later]);
    let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
    let mut row = |name: &str, now: Resident, then: Resident| {
        table.row(vec![
            name.to_owned(),
            now.processes.to_string(),
            mib(now.anon),
            mib(now.file),
            mib(now.anon + now.file),
            mib(then.anon),
        ]);
    };
    for (&name, &now) in idle {
        row(name, now, loaded.get(name).copied().unwrap_or_default());
    }
    row("agent, proxy and DNS together", memory::of_agent(idle), memory::of_agent(loaded));
    print!("{table}");
}
