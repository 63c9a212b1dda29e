//! A DNS client without a cache and without retries.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use super::report::Report;

/// Names are tried with these search domains, as resolv.conf says.
#[derive(Debug)]
struct Resolver {
    server: SocketAddr,
    search: Vec<String>,
}

fn resolver() -> &'static Resolver {
    static RESOLVER: OnceLock<Resolver> = OnceLock::new();
    RESOLVER.get_or_init(|| parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()))
}

fn parse(text: &str) -> Resolver {
    let words = |key: &'static str| {
        text.lines().filter_map(move |line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(key)).then(|| words.map(str::to_owned).collect::<Vec<_>>())
        })
    };
    let server = words("nameserver")
        .flatten()
        .find_map(|word| word.parse::<IpAddr>().ok())
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    Resolver {
        server: SocketAddr::new(server, 53),
        search: words("search").next_back().unwrap_or_default(),
    }
}

/// The first IPv4 address of a name. A name with fewer than five dots and no final one is tried with
/// each search domain first (`ndots:5`, as in every pod).
pub async fn lookup(name: &str) -> Result<IpAddr, String> {
    let resolver = resolver();
    let mut candidates: Vec<String> = Vec::new();
    if !name.ends_with('.') && name.matches('.').count() < 5 {
        candidates.extend(resolver.search.iter().map(|domain| format!("{name}.{domain}")));
    }
    candidates.push(name.trim_end_matches('.').to_owned());
    let mut last = Err("no candidate".to_owned());
    for candidate in candidates {
        last = ask(resolver.server, &candidate, Duration::from_secs(5)).await;
        match &last {
            Err(error) if error.starts_with("rcode 3") || error == "no address" => {}
            _ => return last,
        }
    }
    last
}

/// Asks for `name` every `pause` for `seconds`, each query from a socket of its own and given up
/// after `timeout`.
pub async fn load(
    name: &str,
    seconds: f64,
    pause: Duration,
    timeout: Duration,
) -> anyhow::Result<Report> {
    let start = Instant::now();
    let (results, inbox) = tokio::sync::mpsc::channel(super::INBOX);
    let name = name.to_owned();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(pause);
        while start.elapsed().as_secs_f64() < seconds {
            tick.tick().await;
            let (name, results) = (name.clone(), results.clone());
            tokio::spawn(async move {
                let began = start.elapsed();
                let outcome = ask(resolver().server, &name, timeout).await;
                let named = outcome.map(|address| address.to_string());
                let _ended = results.send((began, start.elapsed(), named)).await;
            });
        }
    });
    Ok(super::collect(inbox).await?)
}

async fn ask(server: SocketAddr, name: &str, timeout: Duration) -> Result<IpAddr, String> {
    let io = |error: std::io::Error| format!("{}", error.kind());
    let socket = UdpSocket::bind("0.0.0.0:0").await.map_err(io)?;
    socket.connect(server).await.map_err(io)?;
    let port = socket.local_addr().map_err(io)?.port();
    socket.send(&query(port, name)).await.map_err(io)?;
    let mut answer = [0; 1500];
    let length = tokio::time::timeout(timeout, socket.recv(&mut answer))
        .await
        .map_err(|_| "timeout".to_owned())?
        .map_err(io)?;
    read_answer(port, &answer[..length])
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).unwrap_or(0));
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

fn read_answer(id: u16, message: &[u8]) -> Result<IpAddr, String> {
    let short = || "short answer".to_owned();
    let word = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    if word(0) != Some(id) {
        return Err("answer to another question".to_owned());
    }
    let rcode = message.get(3).ok_or_else(short)? & 15;
    if rcode != 0 {
        return Err(format!("rcode {rcode}"));
    }
    let mut at = skip_name(message, 12).ok_or_else(short)? + 4;
    for _ in 0..word(6).ok_or_else(short)? {
        at = skip_name(message, at).ok_or_else(short)?;
        let (kind, length) = (word(at), word(at + 8).ok_or_else(short)?);
        if kind == Some(1) {
            let bytes = message.get(at + 10..at + 14).ok_or_else(short)?;
            return Ok(IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])));
        }
        at += 10 + usize::from(length);
    }
    Err("no address".to_owned())
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *message.get(at)?;
        if length & 0xc0 == 0xc0 {
            return Some(at + 2);
        }
        at += 1 + usize::from(length);
        if length == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_gives_the_server_and_the_last_search_line() {
        let resolver = parse(
            "search a\nnameserver 10.96.0.10\nsearch x.svc.cluster.local svc\noptions ndots:5\n",
        );
        assert_eq!(resolver.server.to_string(), "10.96.0.10:53");
        assert_eq!(resolver.search, ["x.svc.cluster.local", "svc"]);
    }

    #[test]
    fn an_answer_is_read_past_an_alias() {
        let mut message = query(7, "a.b");
        message[2] = 0x81;
        message[7] = 2;
        message.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 5, 0, 2, 0xc0, 14]);
        message.extend([0xc0, 14, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 1, 2, 3]);
        assert_eq!(read_answer(7, &message).unwrap().to_string(), "10.1.2.3");
        assert!(read_answer(8, &message).is_err());
        for cut in 0..message.len() {
            assert!(read_answer(7, &message[..cut]).is_err(), "cut at {cut}");
        }
    }
}
