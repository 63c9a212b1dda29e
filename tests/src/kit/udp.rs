//! Datagrams from one socket.

use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use super::report::Report;

const PATIENCE: Duration = Duration::from_secs(2);

/// Sends `count` datagrams from one unconnected socket (or a connected one) to `target` and counts
/// who answers.
pub async fn run(
    target: &str,
    count: u64,
    pause: Duration,
    connected: bool,
) -> anyhow::Result<Report> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    if connected {
        socket.connect(target).await?;
    }
    let start = Instant::now();
    let mut report = Report::default();
    let expected = tokio::net::lookup_host(target).await?.next();
    for _ in 0..count {
        let began = start.elapsed();
        let mut answer = [0; 512];
        let exchange = async {
            if connected {
                socket.send(b"who?").await?;
            } else {
                socket.send_to(b"who?", target).await?;
            }
            socket.recv_from(&mut answer).await
        };
        let outcome = match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok((_, from))) if Some(from) != expected => {
                Err(format!("the answer came from {from}"))
            }
            Ok(Ok((length, _))) => Ok(String::from_utf8_lossy(&answer[..length]).into_owned()),
            Ok(Err(error)) => Err(error.kind().to_string()),
            Err(_) => Err("timeout".to_owned()),
        };
        report.count(began, start.elapsed(), outcome);
        tokio::time::sleep(pause).await;
    }
    Ok(report)
}
