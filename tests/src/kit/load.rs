//! HTTP requests, each on a new connection, never retried.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::dns;
use super::report::Report;

/// What to ask, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub struct LoadArgs {
    /// NAME:PORT or ADDRESS:PORT; a name is looked up anew for each request
    pub target: String,
    /// Stop after so many requests
    #[arg(long, default_value_t = u64::MAX)]
    pub requests: u64,
    /// Stop after so many seconds
    #[arg(long, default_value_t = 60.0)]
    pub seconds: f64,
    /// Clients at once
    #[arg(long, default_value_t = 1)]
    pub workers: u64,
    /// Pause of each client between two requests
    #[arg(long, default_value_t = 0)]
    pub pause_ms: u64,
    /// A request that takes longer has failed
    #[arg(long, default_value_t = 2000)]
    pub timeout_ms: u64,
}

/// Runs the load until its end, or SIGTERM or SIGINT.
pub async fn run(args: LoadArgs) -> anyhow::Result<Report> {
    let (host, port) = args.target.rsplit_once(':').context("a target is NAME:PORT")?;
    let (host, port) = (host.trim_matches(['[', ']']).to_owned(), port.parse::<u16>()?);
    let (start, clock) = (Instant::now(), super::unix_seconds());
    let mut workers = JoinSet::new();
    let (results, inbox) = tokio::sync::mpsc::channel(super::INBOX);
    for number in 0..args.workers {
        let share = args.requests / args.workers + u64::from(number < args.requests % args.workers);
        let (args, host, results) = (args.clone(), host.clone(), results.clone());
        workers.spawn(async move {
            for _ in 0..share {
                if start.elapsed().as_secs_f64() >= args.seconds {
                    break;
                }
                let began = start.elapsed();
                let limit = Duration::from_millis(args.timeout_ms);
                let outcome = tokio::time::timeout(limit, request(&host, port))
                    .await
                    .unwrap_or_else(|_| Err("timeout".to_owned()));
                if results.send((began, start.elapsed(), outcome)).await.is_err() {
                    break;
                }
                if args.pause_ms > 0 {
                    tokio::time::sleep(Duration::from_millis(args.pause_ms)).await;
                }
            }
        });
    }
    drop(results);
    let mut report = super::collect(inbox).await?;
    report.seconds = start.elapsed().as_secs_f64();
    report.last_ok_began += clock;
    Ok(report)
}

/// One request; the name that the backend gave of itself, or what went wrong, with its phase.
pub async fn request(host: &str, port: u16) -> Result<String, String> {
    let address: IpAddr = match host.parse() {
        Ok(address) => address,
        Err(_) => dns::lookup(host).await.map_err(|error| format!("lookup: {error}"))?,
    };
    let failed =
        |phase: &'static str| move |error: std::io::Error| format!("{phase}: {}", error.kind());
    let mut stream =
        TcpStream::connect(SocketAddr::new(address, port)).await.map_err(failed("connect"))?;
    let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.map_err(failed("write"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map_err(failed("read"))?;
    let text = String::from_utf8_lossy(&answer);
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.trim().to_owned()),
        Some((head, _)) => Err(format!("answer: {}", head.lines().next().unwrap_or_default())),
        None => Err("read: the connection ended early".to_owned()),
    }
}
