//! Connections that stay: a line there and back again and again, until one breaks.

use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::report::Report;

/// A line that takes longer than this to come back breaks the connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens `count` connections to `target` and uses each every `pause` for `seconds`, or until
/// SIGTERM. A broken connection is counted and not opened again.
pub async fn run(
    target: &str,
    count: usize,
    seconds: f64,
    pause: Duration,
) -> anyhow::Result<Report> {
    let start = Instant::now();
    let mut connections = JoinSet::new();
    let (results, inbox) = tokio::sync::mpsc::channel(super::INBOX);
    for _ in 0..count {
        let (target, results) = (target.to_owned(), results.clone());
        connections.spawn(async move {
            let mut stream = match TcpStream::connect(&target).await {
                Ok(stream) => BufReader::new(stream),
                Err(error) => {
                    let now = start.elapsed();
                    let _ended = results.send((now, now, Err(format!("connect: {error}")))).await;
                    return;
                }
            };
            while start.elapsed().as_secs_f64() < seconds {
                let began = start.elapsed();
                let outcome = tokio::time::timeout(PATIENCE, exchange(&mut stream))
                    .await
                    .unwrap_or_else(|_| Err("timeout".to_owned()));
                let broken = outcome.is_err();
                if results.send((began, start.elapsed(), outcome)).await.is_err() || broken {
                    return;
                }
                tokio::time::sleep(pause).await;
            }
        });
    }
    drop(results);
    Ok(super::collect(inbox).await?)
}

async fn exchange(stream: &mut BufReader<TcpStream>) -> Result<String, String> {
    stream
        .write_all(b"still there?\n")
        .await
        .map_err(|error| format!("write: {}", error.kind()))?;
    let mut line = String::new();
    match stream.read_line(&mut line).await {
        Ok(0) => Err("read: the connection ended".to_owned()),
        Ok(_) => Ok(line.split(' ').next().unwrap_or_default().to_owned()),
        Err(error) => Err(format!("read: {}", error.kind())),
    }
}
