//! `bowline-dns query`: asks a server one question, for people at a shell without `dig`.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{Name, Record, RecordType},
};

use crate::wire::UDP_MAX;

const ANSWER: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, clap::Args)]
pub struct QueryOptions {
    /// The name to ask for, whole (no search list is gone through)
    #[arg(value_parser = |text: &str| Name::from_ascii(text).map_err(|error| error.to_string()))]
    pub name: Name,
    /// A, AAAA, SRV, PTR, TXT, CNAME, ...
    #[arg(default_value = "A", value_parser = record_type)]
    pub record_type: RecordType,
    /// The server to ask
    #[arg(long, default_value = "127.0.0.1:53")]
    pub server: SocketAddr,
    /// Ask over TCP (done anyway when an answer does not fit UDP)
    #[arg(long)]
    pub tcp: bool,
}

fn record_type(text: &str) -> Result<RecordType, String> {
    text.to_ascii_uppercase().parse().map_err(|_| "it is no type of record that is known".into())
}

#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("{server} does not answer; is it the server's address?")]
    Ask { server: SocketAddr, source: io::Error },
    #[error("what {server} answers is no DNS message")]
    Decode { server: SocketAddr },
}

/// Asks, and returns the answer.
pub fn ask(options: &QueryOptions) -> Result<Message, QueryError> {
    let server = options.server;
    let mut query = Message::query();
    query.metadata.id = u16::try_from(std::process::id() & 0xffff).unwrap_or(1);
    query.metadata.recursion_desired = true;
    let mut name = options.name.clone();
    name.set_fqdn(true);
    query.add_query(Query::query(name, options.record_type));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_MAX);
    query.set_edns(edns);
    let bytes = query.to_vec().map_err(|_| QueryError::Decode { server })?;
    let failed = |source| QueryError::Ask { server, source };
    let decode = |bytes: &[u8]| Message::from_vec(bytes).map_err(|_| QueryError::Decode { server });
    if !options.tcp {
        let answer = decode(&over_udp(server, &bytes).map_err(failed)?)?;
        if !answer.truncation {
            return Ok(answer);
        }
    }
    decode(&over_tcp(server, &bytes).map_err(failed)?)
}

/// The answer as `dig +short` would not shorten it: its code, and its records by section.
pub fn render(answer: &Message) -> String {
    let mut text = format!("{}\n", answer.response_code);
    let sections: [(&str, &[Record]); 3] =
        [("", &answer.answers), ("; ", &answer.authorities), ("+ ", &answer.additionals)];
    for (mark, records) in sections {
        for record in records {
            let (name, ttl, data) = (&record.name, record.ttl, &record.data);
            text += &format!("{mark}{name} {ttl} {} {data}\n", record.record_type());
        }
    }
    text
}

fn over_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr =
        if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(ANSWER))?;
    socket.send(query)?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(query)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
