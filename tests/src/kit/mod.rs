//! Servers and load generators. Each prints one JSON object when it ends, and clients never retry:
//! a failure that a retry would hide is what the tests look for.

pub mod dns;
pub mod hold;
pub mod load;
pub mod report;
pub mod serve;
pub mod udp;

use std::time::Duration;

use tokio::sync::mpsc;

use report::Report;

/// When a request began and ended, since the run's start, and who answered or what went wrong.
type Outcome = (Duration, Duration, Result<String, String>);

/// Results on the way to the report; more make the clients wait.
const INBOX: usize = 1024;

/// The time by the machine's clock, which pods and the host share.
pub fn unix_seconds() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// Counts outcomes until all senders are gone, or SIGTERM or SIGINT cuts the run short.
async fn collect(mut inbox: mpsc::Receiver<Outcome>) -> std::io::Result<Report> {
    let mut report = Report::default();
    let mut stop = stopped()?;
    loop {
        tokio::select! {
            result = inbox.recv() => match result {
                Some((began, now, outcome)) => report.count(began, now, outcome),
                None => return Ok(report),
            },
            _ = stop.recv() => return Ok(report),
        }
    }
}

/// Hears of SIGTERM and SIGINT, so that a load that is cut short still reports.
fn stopped() -> std::io::Result<mpsc::Receiver<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (told, hears) = mpsc::channel(1);
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let (mut signals, told) = (signal(kind)?, told.clone());
        tokio::spawn(async move {
            if signals.recv().await.is_some() {
                let _ended = told.send(()).await;
            }
        });
    }
    // The watching tasks keep their senders: the receiver never sees the channel close.
    Ok(hears)
}
