//! DNS over TCP (RFC 7766): messages with their length before them, any number in a connection.

use std::{io, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::spawn_local,
    time::timeout,
};
use tracing::debug;

use crate::{
    resolver::{Resolver, Step},
    wire::Transport,
};

/// Connections at one time; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 512;
/// A connection that sends no query for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// A client that takes no answer for so long is given up.
const WRITE: Duration = Duration::from_secs(5);
/// After an error of accepting (no descriptor is left, say), so long until the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Accepts and serves connections until `stop` says true; they themselves go on until idle.
pub async fn serve(listener: TcpListener, resolver: Rc<Resolver>, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let resolver = Rc::clone(&resolver);
                let stop = stop.clone();
                spawn_local(async move {
                    if let Err(error) = connection(stream, &resolver, stop).await {
                        debug!(%peer, %error, "a TCP connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                debug!(%error, "accepting a TCP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    resolver: &Resolver,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let length = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            length = timeout(IDLE, stream.read_u16()) => match length {
                Err(_idle) => return Ok(()),
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(length) => length?,
            },
        };
        let mut query = vec![0; length.into()];
        timeout(IDLE, stream.read_exact(&mut query)).await??;
        let answer = match resolver.start(&query, Transport::Tcp) {
            Step::Done(answer) => answer,
            Step::Ignore => return Ok(()),
            Step::Upstream(pending) => resolver.finish(pending).await,
        };
        let length = u16::try_from(answer.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"))?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        timeout(WRITE, stream.get_mut().write_all(&framed)).await??;
    }
}
