//! DNS over TCP (RFC 7766): messages with their length before them, any number in a connection.
//!
//! hickory-server's streams, requests and responses. Connections are accepted here, because its own
//! loop takes any number of them and spins when no descriptor is left.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::StreamExt;
use hickory_proto::op::SerialMessage;
use hickory_server::{
    net::{
        DnsStreamHandle,
        runtime::{TokioTime, iocompat::AsyncIoTokioAsStd},
        tcp::TcpStream as DnsTcpStream,
        xfer::Protocol,
    },
    server::{Request, RequestHandler, ResponseHandle, TimeoutStream},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::spawn_local,
};
use tracing::debug;

use super::handler::Handler;

/// Connections at one time; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 512;
/// A connection that neither sends a query nor takes its answer for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// Answers that wait to be sent; the next query is read after them.
const ANSWERS_MAX: usize = 2;
/// After an error of accepting (no descriptor is left, say), so long until the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Accepts and serves connections until `stop` says true; they themselves go on until idle.
pub async fn serve(listener: TcpListener, handler: Handler, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let handler = handler.clone();
                let stop = stop.clone();
                spawn_local(async move {
                    if let Err(error) = connection(stream, peer, &handler, stop).await {
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
    peer: SocketAddr,
    handler: &Handler,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (messages, mut answers) =
        DnsTcpStream::from_stream_with_buffer_size(AsyncIoTokioAsStd(stream), peer, ANSWERS_MAX);
    let mut messages = TimeoutStream::new(messages, IDLE);
    loop {
        let query = tokio::select! {
            // First of all, for this is what sends the answer before.
            biased;
            query = messages.next() => query,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        let Some(query) = query.transpose()? else { return Ok(()) };
        let (query, _peer) = query.into_parts();
        match Request::from_bytes(query.clone(), peer, Protocol::Tcp) {
            Ok(request) => {
                let response = ResponseHandle::new(peer, answers.clone(), Protocol::Tcp);
                handler.handle_request::<_, TokioTime>(&request, response).await;
            }
            // The resolver knows what to say to bytes that are no request.
            Err(_) => {
                let Some(error) = handler.answer(&query).await else { return Ok(()) };
                answers.send(SerialMessage::new(error, peer)).map_err(io::Error::other)?;
            }
        }
    }
}
