//! The test server: on one port TCP (HTTP and a line echo) and UDP.
//!
//! - `GET ...` is answered with this host's name, and the connection is closed;
//! - any other first line makes an echo of lines, each prefixed by the host's name, for as long as
//!   the client likes;
//! - a datagram is answered with the host's name.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

/// Connections served at once; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 4096;
/// How long a drain waits for the open connections.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until SIGTERM. With `drain` it then takes no more connections and lets the open ones end;
/// without, it leaves at once, as many programs do.
pub async fn run(port: u16, drain: bool) -> anyhow::Result<()> {
    let name: Arc<str> = nix::unistd::gethostname()?.to_string_lossy().into();
    let listener = TcpListener::bind(("::", port)).await?;
    let udp = UdpSocket::bind(("::", port)).await?;
    tokio::spawn(answer_datagrams(udp, name.clone()));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let place = places.clone().acquire_owned().await?;
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = terminate.recv() => break,
        };
        let name = name.clone();
        tokio::spawn(async move {
            // A client that goes away in the middle is its own affair.
            let _gone = serve(stream, &name).await;
            drop(place);
        });
    }
    if drain {
        // What the kernel has accepted for us already is served, too.
        while let Ok(Ok((stream, _))) =
            tokio::time::timeout(Duration::from_millis(50), listener.accept()).await
        {
            let (name, place) = (name.clone(), places.clone().acquire_owned().await?);
            tokio::spawn(async move {
                let _gone = serve(stream, &name).await;
                drop(place);
            });
        }
        drop(listener);
        let everyone = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
        let _late = tokio::time::timeout(DRAIN, places.acquire_many(everyone)).await;
    }
    Ok(())
}

async fn answer_datagrams(socket: UdpSocket, name: Arc<str>) {
    let mut buffer = [0; 2048];
    loop {
        if let Ok((_, peer)) = socket.recv_from(&mut buffer).await {
            let _gone = socket.send_to(name.as_bytes(), peer).await;
        }
    }
}

async fn serve(stream: TcpStream, name: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(u64::MAX));
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    if line.starts_with("GET ") {
        while line.trim_end() != "" {
            line.clear();
            if reader.read_line(&mut line).await? == 0 {
                break;
            }
        }
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}\n",
            name.len() + 1
        );
        writer.write_all(answer.as_bytes()).await?;
        return writer.shutdown().await;
    }
    while !line.is_empty() {
        writer.write_all(format!("{name} {line}").as_bytes()).await?;
        line.clear();
        reader.read_line(&mut line).await?;
    }
    Ok(())
}
