//! The server as a process on an address of its own, its clients, and an upstream server to ask.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// Port of every server: each has its own loopback address.
pub(crate) const PORT: u16 = 5300;

pub(crate) const MANIFEST: &str = r"
kind: Service
metadata: {name: kubernetes, namespace: default, uid: 5f0c}
spec: {clusterIP: 10.96.0.1}
---
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.20, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: outside, namespace: shop}
spec: {type: ExternalName, externalName: slow.example.com}
";

/// A loopback address that no other test uses.
pub(crate) fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., a, b] = std::process::id().to_be_bytes();
    IpAddr::from([127, a.max(1), b, NEXT.fetch_add(1, Ordering::Relaxed)])
}

/// Polls until `done` or the deadline.
#[track_caller]
pub(crate) fn await_that(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < until, "{what}: not within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) struct Server {
    pub(crate) child: Process,
    pub(crate) address: IpAddr,
    pub(crate) dir: tempfile::TempDir,
}

impl Server {
    /// Starts a server on the manifest and waits until it is ready.
    pub(crate) fn start(flags: &[String]) -> Self {
        let server = Self::launch(own_address(), flags);
        await_that("ready", || server.ready() == Some(200));
        server
    }

    pub(crate) fn launch(address: IpAddr, flags: &[String]) -> Self {
        let mut all = vec![format!("--listen={address}:{PORT}")];
        all.extend_from_slice(flags);
        Server { address, ..Self::launch_with(&all) }
    }

    /// Flags only, without an address of its own.
    pub(crate) fn launch_with(flags: &[String]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("zone")).expect("a directory");
        fs::write(dir.path().join("zone/zone.yaml"), MANIFEST).expect("a manifest");
        let child = Command::new(env!("CARGO_BIN_EXE_bowline-dns"))
            .arg("run")
            .args(flags)
            // Flags go before these.
            .env("BOWLINE_DNS_SOURCE", format!("file:{}/zone", dir.path().display()))
            .env("BOWLINE_DNS_LAMEDUCK", "0")
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stderr(fs::File::create(dir.path().join("log")).expect("a log"))
            .spawn()
            .expect("the server starts");
        Server { child: Process(child), address: IpAddr::from([127, 0, 0, 1]), dir }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).expect("a log")
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.dir.path().join("zone/zone.yaml")
    }

    pub(crate) fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, PORT)
    }

    /// Status of an HTTP GET, or `None` if nobody answers.
    pub(crate) fn get(&self, port: u16, path: &str) -> Option<(u16, String)> {
        self.get_from(&self.address.to_string(), port, path)
    }

    pub(crate) fn get_from(&self, host: &str, port: u16, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect((host, port)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    pub(crate) fn ready(&self) -> Option<u16> {
        self.get(8181, "/ready").map(|(status, _)| status)
    }

    /// The worker's process id.
    pub(crate) fn worker(&self) -> Option<Pid> {
        let pid = self.child.0.id();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let id = fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()?;
        Some(Pid::from_raw(id))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.0.id()).expect("a process id");
        kill(Pid::from_raw(id), signal).expect("signal");
    }

    pub(crate) fn ask(&self, name: &str, record_type: RecordType) -> Message {
        Client::new(self.socket()).ask(name, record_type).expect("an answer in time")
    }
}

/// A process that ends with the test; a server's worker dies with it.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn query(id: u16, name: &str, record_type: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), record_type));
    message
}

/// A UDP client that never sends a query twice.
pub(crate) struct Client {
    socket: UdpSocket,
    next: u16,
}

impl Client {
    pub(crate) fn new(server: SocketAddr) -> Self {
        let any = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.connect(server).expect("connect");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Client { socket, next: 1 }
    }

    /// `None`: no answer in time.
    pub(crate) fn ask(&mut self, name: &str, record_type: RecordType) -> Option<Message> {
        self.next = self.next.wrapping_add(1);
        let bytes = query(self.next, name, record_type).to_vec().expect("encodes");
        self.socket.send(&bytes).expect("send");
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).ok()?;
            let answer = Message::from_vec(&buffer[..length]).expect("decodes");
            // A query may be answered twice when a worker dies between answer and bookkeeping.
            if answer.id == self.next {
                return Some(answer);
            }
        }
    }
}

/// Addresses and names in the answer section.
pub(crate) fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// Sends queries over one TCP connection, then reads as many answers.
pub(crate) fn ask_over_tcp(server: SocketAddr, queries: &[Message]) -> Vec<Message> {
    let mut stream = TcpStream::connect(server).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    for query in queries {
        write_framed(&mut stream, &query.to_vec().expect("encodes"));
    }
    queries.iter().map(|_| read_framed(&mut stream).expect("an answer")).collect()
}

pub(crate) fn write_framed(stream: &mut TcpStream, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("short");
    stream.write_all(&length.to_be_bytes()).expect("write");
    stream.write_all(bytes).expect("write");
}

/// The next message, or `None` if the connection ends or is silent for too long.
pub(crate) fn read_framed(stream: &mut TcpStream) -> Option<Message> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes).ok()?;
    Message::from_vec(&bytes).ok()
}

/// How an upstream server behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Every name has the address 192.0.2.1; those beginning with `slow` after 30 ms, those with
    /// `big` only over TCP.
    Answers,
    /// Every name is SERVFAIL.
    Servfail,
    /// Answers with another id first, and another question, then rightly.
    Spoofed,
    Silent,
}

pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Upstream {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let udp = UdpSocket::bind((own_address(), PORT)).expect("a socket");
        let address = udp.local_addr().expect("bound");
        let tcp = TcpListener::bind(address).expect("a listener");
        udp.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let (asked, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let upstream = Upstream { address, asked: Arc::clone(&asked), stop: Arc::clone(&stop) };
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, client)) = udp.recv_from(&mut buffer) else { continue };
                let query = Message::from_vec(&buffer[..length]).expect("it is asked well");
                // The server's own question at its start is not counted.
                let check = query.queries[0].name().to_ascii().ends_with(".bowline-loop-check.");
                asked.fetch_add(usize::from(!check), Ordering::Relaxed);
                let udp = udp.try_clone().expect("duplicate");
                thread::spawn(move || {
                    for answer in answers(&query, behaviour, false) {
                        let _ = udp.send_to(&answer.to_vec().expect("encodes"), client);
                    }
                });
            }
        });
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let Ok(mut stream) = stream else { return };
                thread::spawn(move || {
                    while let Some(query) = read_framed(&mut stream) {
                        for answer in answers(&query, behaviour, true) {
                            let bytes = answer.to_vec().expect("encodes");
                            let length = u16::try_from(bytes.len()).expect("short");
                            let _ = stream.write_all(&length.to_be_bytes());
                            let _ = stream.write_all(&bytes);
                        }
                    }
                });
            }
        });
        upstream
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Passes every query on to another server, and its answers back.
    pub(crate) fn relay(to: SocketAddr) -> Self {
        let udp = UdpSocket::bind((own_address(), PORT)).expect("a socket");
        let address = udp.local_addr().expect("bound");
        udp.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let (asked, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let upstream = Upstream { address, asked: Arc::clone(&asked), stop: Arc::clone(&stop) };
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, client)) = udp.recv_from(&mut buffer) else { continue };
                asked.fetch_add(1, Ordering::Relaxed);
                let query = buffer[..length].to_vec();
                let udp = udp.try_clone().expect("duplicate");
                thread::spawn(move || {
                    let onward = UdpSocket::bind("127.0.0.1:0").expect("a socket");
                    onward.set_read_timeout(Some(DEADLINE)).expect("a timeout");
                    onward.send_to(&query, to).expect("send");
                    let mut buffer = [0; 4096];
                    if let Ok(length) = onward.recv(&mut buffer) {
                        let _ = udp.send_to(&buffer[..length], client);
                    }
                });
            }
        });
        upstream
    }

    pub(crate) fn flag(&self) -> String {
        format!("--upstream={}", self.address)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn answers(query: &Message, behaviour: Behaviour, tcp: bool) -> Vec<Message> {
    let mut answer = Message::new(query.id, MessageType::Response, query.op_code);
    answer.queries.clone_from(&query.queries);
    let name = query.queries[0].name();
    let first = name.iter().next().map(|label| String::from_utf8_lossy(label).into_owned());
    let first = first.unwrap_or_default();
    let record = Record::from_rdata(name.clone(), 60, RData::A(A([192, 0, 2, 1].into())));
    match behaviour {
        Behaviour::Silent => return vec![],
        Behaviour::Servfail => answer.metadata.response_code = ResponseCode::ServFail,
        Behaviour::Answers | Behaviour::Spoofed => {
            if first.starts_with("slow") {
                // The server's own slowness, not a wait for something.
                thread::sleep(Duration::from_millis(30));
            }
            if first.starts_with("big") && !tcp {
                answer.metadata.truncation = true;
            } else {
                answer.add_answer(record);
            }
        }
    }
    if behaviour != Behaviour::Spoofed {
        return vec![answer];
    }
    let poison = |mut message: Message| {
        message.answers[0].data = RData::A(A([6, 6, 6, 6].into()));
        message
    };
    let mut other_id = poison(answer.clone());
    other_id.metadata.id = other_id.metadata.id.wrapping_add(1);
    let mut other_name = poison(answer.clone());
    other_name.queries[0].name = Name::from_ascii("other.example.").expect("a name");
    vec![other_id, other_name, answer]
}
