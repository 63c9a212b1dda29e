//! Which upstream servers there are, and in which order they are asked.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// As many as a resolv.conf may hold is three; a configuration may name some more.
pub const UPSTREAMS_MAX: usize = 16;

/// After so many failures in a row a server is asked last ...
const FAILURES_MAX: u32 = 2;
/// ... for so long.
const PENALTY: Duration = Duration::from_secs(10);

const DNS_PORT: u16 = 53;

struct Upstream {
    address: SocketAddr,
    failures: u32,
    failed_at: Option<Instant>,
}

/// The upstream servers with their recent past.
pub struct Upstreams {
    servers: Vec<Upstream>,
}

impl Upstreams {
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let servers = addresses.into_iter().take(UPSTREAMS_MAX).map(|address| Upstream {
            address,
            failures: 0,
            failed_at: None,
        });
        Upstreams { servers: servers.collect() }
    }

    /// All servers, those first that answered when last asked; otherwise in the order given, as
    /// in a resolv.conf.
    pub fn order(&self, now: Instant) -> Vec<SocketAddr> {
        let penalised = |server: &&Upstream| {
            server.failures >= FAILURES_MAX
                && server.failed_at.is_some_and(|at| now.duration_since(at) < PENALTY)
        };
        let first = self.servers.iter().filter(|server| !penalised(server));
        let last = self.servers.iter().filter(penalised);
        first.chain(last).map(|server| server.address).collect()
    }

    /// Takes a server out.
    pub fn remove(&mut self, address: SocketAddr) {
        self.servers.retain(|server| server.address != address);
    }

    pub fn answered(&mut self, address: SocketAddr) {
        if let Some(server) = self.find(address) {
            server.failures = 0;
        }
    }

    pub fn failed(&mut self, address: SocketAddr, now: Instant) {
        if let Some(server) = self.find(address) {
            server.failures = server.failures.saturating_add(1);
            server.failed_at = Some(now);
        }
    }

    fn find(&mut self, address: SocketAddr) -> Option<&mut Upstream> {
        self.servers.iter_mut().find(|server| server.address == address)
    }
}

/// The name servers of a resolv.conf (resolv.conf(5)). Lines that don't parse are passed over, as
/// the C library does; so is the zone of a link-local address.
pub fn nameservers(resolv_conf: &str) -> Vec<SocketAddr> {
    let mut servers = vec![];
    for line in resolv_conf.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver")
            && let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok())
        {
            servers.push(SocketAddr::new(address, DNS_PORT));
        }
    }
    servers
}

/// Takes out the upstreams that are this server itself: queries would go round for ever. Returns
/// those that stay, and those taken out.
pub fn without_loops(
    upstreams: Vec<SocketAddr>,
    listen: SocketAddr,
    own: &HashSet<IpAddr>,
) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let is_own = |upstream: &SocketAddr| {
        let here = own.contains(&upstream.ip()) || upstream.ip().is_loopback();
        upstream.port() == listen.port()
            && (upstream.ip() == listen.ip() || (listen.ip().is_unspecified() && here))
    };
    upstreams.into_iter().partition(|upstream| !is_own(upstream))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(text: &str) -> SocketAddr {
        text.parse().expect("a socket address")
    }

    #[test]
    fn a_resolv_conf_is_read_as_the_c_library_reads_it() {
        let text = "# comment\nsearch x\nnameserver 10.0.0.1\nnameserver\t2001:db8::1  \n\
                    nameserver junk\noptions ndots:5\n;nameserver 9.9.9.9\n";
        assert_eq!(nameservers(text), [socket("10.0.0.1:53"), socket("[2001:db8::1]:53")]);
    }

    #[test]
    fn an_upstream_that_is_this_server_is_taken_out() {
        let own = HashSet::from(["10.244.1.5".parse().expect("address")]);
        let all = ["127.0.0.1:53", "10.244.1.5:53", "10.244.1.5:5353", "9.9.9.9:53"].map(socket);
        let (stay, loops) = without_loops(all.to_vec(), socket("[::]:53"), &own);
        assert_eq!(stay, [all[2], all[3]]);
        assert_eq!(loops, [all[0], all[1]]);
        let (stay, _) = without_loops(all.to_vec(), socket("10.96.0.10:53"), &own);
        assert_eq!(stay.len(), 4, "this server listens on none of them");
    }

    #[test]
    fn a_server_that_fails_is_asked_last_for_a_while() {
        let (a, b) = (socket("10.0.0.1:53"), socket("10.0.0.2:53"));
        let mut upstreams = Upstreams::new([a, b]);
        let now = Instant::now();
        upstreams.failed(a, now);
        assert_eq!(upstreams.order(now), [a, b], "once is no reason");
        upstreams.failed(a, now);
        assert_eq!(upstreams.order(now), [b, a]);
        assert_eq!(upstreams.order(now + PENALTY), [a, b], "it gets another chance");
        upstreams.answered(a);
        assert_eq!(upstreams.order(now), [a, b]);
    }
}
