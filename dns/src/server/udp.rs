//! DNS over UDP: look at a query, answer it, and only then take it out of the socket.
//!
//! A worker that is killed between the two leaves the query to the next one, which answers it
//! (again, at worst). One worker reads at a time: see [`crate::worker`].

use std::{
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use tokio::{net::UdpSocket, sync::watch, task::spawn_local};
use tracing::debug;

use crate::{
    journal::{Journal, Left, Note, Unanswered},
    resolver::{Pending, Resolver, Step},
    wire::Transport,
};

/// Queries answered before other tasks get their turn.
const BATCH: usize = 64;
/// A query over UDP that is longer is cut, and does not decode.
const QUERY_MAX: usize = 4096;

pub struct UdpServer {
    socket: Rc<UdpSocket>,
    resolver: Rc<Resolver>,
    journal: Option<Rc<Journal>>,
}

impl UdpServer {
    pub fn new(socket: UdpSocket, resolver: Rc<Resolver>, journal: Option<Rc<Journal>>) -> Self {
        UdpServer { socket: Rc::new(socket), resolver, journal }
    }

    /// Takes up what a former worker left unanswered.
    pub async fn take_up(&self, left: Left) {
        for (Unanswered { client, query }, note) in left {
            let client = self.reachable(client);
            match self.resolver.start(&query, Transport::Udp) {
                Step::Done(answer) => send(&self.socket, &answer, client).await,
                Step::Ignore => {}
                Step::Upstream(pending) => self.go_upstream(client, pending, Some(note)),
            }
        }
    }

    /// Serves until `stop` says true. Queries that are upstream by then go on.
    pub async fn serve(&self, mut stop: watch::Receiver<bool>) -> io::Result<()> {
        let mut buffer = vec![0; QUERY_MAX];
        loop {
            tokio::select! {
                // The sender lives as long as the worker.
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                ready = self.socket.readable() => ready?,
            }
            for _ in 0..BATCH {
                match self.socket.try_peek_from(&mut buffer) {
                    Ok((length, client)) => self.answer(&buffer[..length], client).await,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An error of the network, told about an answer sent earlier; it is gone now.
                    Err(error) => debug!(%error, "receiving over UDP"),
                }
            }
            tokio::task::yield_now().await;
        }
    }

    async fn answer(&self, query: &[u8], client: SocketAddr) {
        match self.resolver.start(query, Transport::Udp) {
            Step::Done(answer) => send(&self.socket, &answer, client).await,
            Step::Ignore => {}
            Step::Upstream(pending) => {
                let note = self.journal.as_ref().and_then(|journal| journal.note(client, query));
                self.go_upstream(client, pending, note);
            }
        }
        // The rest of the datagram goes with it.
        if let Err(error) = self.socket.try_recv(&mut []) {
            debug!(%error, "taking an answered query out of the socket");
        }
    }

    fn go_upstream(&self, client: SocketAddr, pending: Pending, note: Option<Note>) {
        let socket = Rc::clone(&self.socket);
        let resolver = Rc::clone(&self.resolver);
        spawn_local(async move {
            let answer = resolver.finish(pending).await;
            send(&socket, &answer, client).await;
            drop(note);
        });
    }

    /// The client's address as this socket's family has it.
    fn reachable(&self, client: SocketAddr) -> SocketAddr {
        let v6_socket = self.socket.local_addr().is_ok_and(|own| own.is_ipv6());
        match client.ip() {
            IpAddr::V4(v4) if v6_socket => {
                SocketAddr::new(v4.to_ipv6_mapped().into(), client.port())
            }
            _ => client,
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    let sent = match socket.try_send_to(answer, client) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            socket.send_to(answer, client).await
        }
        sent => sent,
    };
    if let Err(error) = sent {
        debug!(%client, %error, "sending over UDP");
    }
}
