//! The server as it runs: real sockets, a supervisor, workers that are killed.

use std::{
    fs, io,
    net::{TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bowline_dns::server::tcp::CONNECTIONS_MAX;
use hickory_proto::{op::ResponseCode, rr::RecordType};
use nix::sys::signal::{Signal, kill};

mod support;

use support::{
    Behaviour, Client, DEADLINE, PORT, Server, Upstream, ask_over_tcp, await_that, data,
    own_address, query, read_framed, write_framed,
};

const WEB: &str = "web.shop.svc.cluster.local.";

#[test]
fn names_are_answered_over_udp_and_tcp() {
    let server = Server::start(&[]);
    assert_eq!(data(&server.ask(WEB, RecordType::A)), ["10.96.0.20"]);
    let queries: Vec<_> = (1..=5).map(|id| query(id, WEB, RecordType::A)).collect();
    let answers = ask_over_tcp(server.socket(), &queries);
    for (query, answer) in queries.iter().zip(&answers) {
        assert_eq!(answer.id, query.id, "answers of one connection come in order");
        assert_eq!(data(answer), ["10.96.0.20"]);
    }
    let (status, metrics) = server.get(9153, "/metrics").expect("metrics");
    assert_eq!(status, 200);
    let counted = "zone=\"cluster.local.\",view=\"\",proto=\"tcp\",family=\"1\",type=\"A\"} 5";
    assert!(metrics.contains(counted), "{metrics}");
    assert_eq!(server.get(8080, "/health").expect("health").0, 200);
}

#[test]
fn on_the_wildcard_address_it_serves_ipv4_and_ipv6_through_its_workers_deaths() {
    let upstream = Upstream::start(Behaviour::Answers);
    // Wildcard ports would be in other tests' way.
    let port = 20_000 + u16::try_from(std::process::id() % 2_000).expect("small") * 4;
    let flags = [
        format!("--listen=[::]:{port}"),
        format!("--health-port={}", port + 1),
        format!("--ready-port={}", port + 2),
        format!("--metrics-port={}", port + 3),
        upstream.flag(),
    ];
    let server = Server::launch_with(&flags);
    let ready = || server.get_from("127.0.0.1", port + 2, "/ready").is_some_and(|(s, _)| s == 200);
    await_that("ready", ready);
    for address in ["127.0.0.1", "[::1]"] {
        let socket = format!("{address}:{port}").parse().expect("a socket address");
        let mut client = Client::new(socket);
        let answer = client.ask(WEB, RecordType::A).expect("an answer");
        assert_eq!(data(&answer), ["10.96.0.20"], "from {address}");
        // The worker dies while the query is upstream; the next one has to answer the client.
        let name = format!("slow-{}.example.com.", address.len());
        let asker = thread::spawn(move || client.ask(&name, RecordType::A));
        let asked = upstream.asked();
        await_that("the query is upstream", || upstream.asked() > asked);
        kill(server.worker().expect("a worker"), Signal::SIGKILL).expect("kill -9");
        let answer = asker.join().expect("ends").expect("an answer from the next worker");
        assert_eq!(data(&answer), ["192.0.2.1"], "from {address}");
        await_that("ready again", ready);
    }
}

#[test]
fn bytes_over_tcp_that_are_no_query_get_their_error_and_the_connection_goes_on() {
    let server = Server::start(&[]);
    let mut stream = TcpStream::connect(server.socket()).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let whole = query(3, WEB, RecordType::A).to_vec().expect("encodes");
    write_framed(&mut stream, &whole[..whole.len() - 3]);
    let error = read_framed(&mut stream).expect("an answer");
    assert_eq!((error.id, error.response_code), (3, ResponseCode::FormErr));
    write_framed(&mut stream, &whole);
    assert_eq!(data(&read_framed(&mut stream).expect("an answer")), ["10.96.0.20"]);
    // No header: there is nobody to answer.
    write_framed(&mut stream, &whole[..5]);
    assert_eq!(read_framed(&mut stream), None, "it is closed");
}

#[test]
fn a_tcp_connection_too_many_waits_for_a_place() {
    let server = Server::start(&[]);
    let connect = || {
        let stream = TcpStream::connect(server.socket()).expect("connect");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream
    };
    let mut open: Vec<_> = (0..CONNECTIONS_MAX).map(|_| connect()).collect();
    let bytes = query(5, WEB, RecordType::A).to_vec().expect("encodes");
    let last = open.last_mut().expect("some are open");
    write_framed(last, &bytes);
    assert_eq!(data(&read_framed(last).expect("an answer")), ["10.96.0.20"]);
    let mut waiting = connect();
    write_framed(&mut waiting, &bytes);
    waiting.set_nonblocking(true).expect("set");
    // What is asked over UDP now is answered after a waiting connection would have been.
    server.ask(WEB, RecordType::A);
    assert_eq!(waiting.peek(&mut [0]).expect_err("no answer").kind(), io::ErrorKind::WouldBlock);
    waiting.set_nonblocking(false).expect("set");
    open.pop();
    assert_eq!(data(&read_framed(&mut waiting).expect("an answer")), ["10.96.0.20"]);
}

#[test]
fn a_change_is_answered_soon_and_an_unreadable_manifest_changes_nothing_else() {
    let server = Server::start(&[]);
    let more = support::MANIFEST.replace("10.96.0.20", "10.96.0.21");
    fs::write(server.manifest(), more).expect("write");
    await_that("the new address", || data(&server.ask(WEB, RecordType::A)) == ["10.96.0.21"]);
    fs::write(server.dir.path().join("zone/z.yaml"), "kind: Service\nmetadata: 3\n")
        .expect("write");
    fs::write(
        server.dir.path().join("zone/y.yaml"),
        "kind: Service\nmetadata: {name: x, namespace: y}",
    )
    .expect("write");
    await_that("the new service", || {
        server.ask("x.y.svc.cluster.local.", RecordType::A).response_code == ResponseCode::NoError
    });
    assert_eq!(data(&server.ask(WEB, RecordType::A)), ["10.96.0.21"]);
}

#[test]
fn an_answer_that_is_too_long_for_udp_is_whole_over_tcp() {
    let mut manifest = "kind: Service\nmetadata: {name: many, namespace: shop}\n\
                        spec: {clusterIP: None}\n---\nkind: EndpointSlice\n\
                        metadata: {name: m, namespace: shop, labels: \
                        {kubernetes.io/service-name: many}}\nendpoints:\n"
        .to_owned();
    for n in 0..100 {
        manifest += &format!("- {{addresses: [10.244.3.{n}]}}\n");
    }
    let server = Server::start(&[]);
    fs::write(server.dir.path().join("zone/many.yaml"), manifest).expect("write");
    let many = "many.shop.svc.cluster.local.";
    await_that("the service", || {
        server.ask(many, RecordType::A).response_code == ResponseCode::NoError
    });
    let cut = server.ask(many, RecordType::A);
    assert!(cut.truncation && cut.answers.is_empty(), "TC over UDP");
    let whole = ask_over_tcp(server.socket(), &[query(1, many, RecordType::A)]);
    assert_eq!(whole[0].answers.len(), 100);
}

#[test]
fn other_names_are_asked_upstream() {
    let upstream = Upstream::start(Behaviour::Answers);
    let server = Server::start(&[upstream.flag()]);
    let answer = server.ask("Example.COM.", RecordType::A);
    assert_eq!(data(&answer), ["192.0.2.1"]);
    assert_eq!(answer.queries[0].name().to_ascii(), "Example.COM.", "spelt as asked");
    let cut = server.ask("big.example.com.", RecordType::A);
    assert!(cut.truncation, "TC is passed on");
    let whole = ask_over_tcp(server.socket(), &[query(9, "big.example.com.", RecordType::A)]);
    assert_eq!(data(&whole[0]), ["192.0.2.1"]);
    let followed = server.ask("outside.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(data(&followed), ["slow.example.com.", "192.0.2.1"], "an external name");
}

#[test]
fn an_upstream_that_fails_is_followed_by_the_next() {
    let silent = Upstream::start(Behaviour::Silent);
    let broken = Upstream::start(Behaviour::Servfail);
    let good = Upstream::start(Behaviour::Answers);
    let server = Server::start(&[silent.flag(), broken.flag(), good.flag()]);
    for name in ["a.example.com.", "b.example.com."] {
        assert_eq!(data(&server.ask(name, RecordType::A)), ["192.0.2.1"]);
    }
    assert_eq!(silent.asked(), 2);
    let quick = Instant::now();
    assert_eq!(data(&server.ask("more.example.com.", RecordType::A)), ["192.0.2.1"]);
    assert_eq!(silent.asked(), 2, "a server that failed twice is asked last");
    assert!(quick.elapsed() < Duration::from_secs(1));
}

#[test]
fn when_no_upstream_answers_it_is_servfail_in_time() {
    let silent = Upstream::start(Behaviour::Silent);
    let server = Server::start(&[silent.flag()]);
    let started = Instant::now();
    let answer = server.ask("example.com.", RecordType::A);
    assert_eq!(answer.response_code, ResponseCode::ServFail);
    assert!(started.elapsed() < Duration::from_secs(5), "before clients give up");
    assert!(silent.asked() > 1, "it was tried again");
    let broken = Upstream::start(Behaviour::Servfail);
    let server = Server::start(&[broken.flag()]);
    let answer = server.ask("example.com.", RecordType::A);
    assert_eq!(answer.response_code, ResponseCode::ServFail);
    assert_eq!(broken.asked(), 1, "a lone server's SERVFAIL is an answer");
}

#[test]
fn forged_answers_are_passed_over() {
    let upstream = Upstream::start(Behaviour::Spoofed);
    let server = Server::start(&[upstream.flag()]);
    assert_eq!(data(&server.ask("example.com.", RecordType::A)), ["192.0.2.1"]);
}

#[test]
fn an_upstream_that_is_the_server_itself_is_left_out() {
    let address = own_address();
    let server = Server::launch(address, &[format!("--upstream={address}:{PORT}")]);
    await_that("ready", || server.ready() == Some(200));
    let started = Instant::now();
    let answer = server.ask("example.com.", RecordType::A);
    assert_eq!(answer.response_code, ResponseCode::ServFail);
    assert!(started.elapsed() < Duration::from_secs(1), "nobody is asked");
    assert!(server.log().contains("this server itself"), "{}", server.log());
}

#[test]
fn an_upstream_that_leads_back_here_is_found_and_left_out() {
    let address = own_address();
    let upstream = Upstream::relay(std::net::SocketAddr::new(address, PORT));
    let server = Server::launch(address, &[upstream.flag()]);
    await_that("the loop is found", || server.log().contains("leads back to this cluster"));
    assert_eq!(upstream.asked(), 1, "by one query");
    let started = Instant::now();
    let answer = server.ask("example.com.", RecordType::A);
    assert_eq!(answer.response_code, ResponseCode::ServFail);
    assert!(started.elapsed() < Duration::from_secs(1), "nothing goes round");
    assert_eq!(upstream.asked(), 1);
}

#[test]
fn another_clusters_server_is_a_fine_upstream() {
    let outer = Server::start(&[]);
    let outer_zone = support::MANIFEST.replace("5f0c", "other").replace("web", "outer");
    fs::write(outer.manifest(), outer_zone).expect("write");
    let name = "outer.shop.svc.cluster.local.";
    await_that("the outer zone", || data(&outer.ask(name, RecordType::A)) == ["10.96.0.20"]);
    let inner =
        Server::start(&[format!("--upstream={}", outer.socket()), "--zone=inner.local".to_owned()]);
    assert_eq!(data(&inner.ask(name, RecordType::A)), ["10.96.0.20"]);
    assert!(!inner.log().contains("leads back"), "{}", inner.log());
}

/// Clients that never ask twice; the worker is killed again and again.
#[test]
fn a_worker_killed_under_load_loses_no_query() {
    let upstream = Upstream::start(Behaviour::Answers);
    let server = Server::start(&[upstream.flag()]);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|n| {
            let (stop, socket) = (Arc::clone(&stop), server.socket());
            // Every third one asks for what has to go upstream, and takes 30 ms there.
            let (name, expected) =
                if n % 3 == 0 { ("slow.example.com.", "192.0.2.1") } else { (WEB, "10.96.0.20") };
            thread::spawn(move || {
                let mut client = Client::new(socket);
                let (mut answered, mut lost, mut slowest) = (0, 0, Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    // Names of their own are in no cache.
                    let name = match name.strip_prefix("slow") {
                        Some(rest) => format!("slow-{n}-{answered}{rest}"),
                        None => name.to_owned(),
                    };
                    match client.ask(&name, RecordType::A) {
                        Some(answer) => {
                            assert_eq!(data(&answer), [expected], "{answer}");
                            answered += 1;
                        }
                        None => lost += 1,
                    }
                    slowest = slowest.max(asked.elapsed());
                }
                (answered, lost, slowest)
            })
        })
        .collect();
    for round in 0..12 {
        await_that("a worker that serves", || server.ready() == Some(200));
        // Some are killed the moment they are ready, others in the midst of their work. (Those that
        // die young are replaced after a pause, so not all of them do.)
        thread::sleep(Duration::from_millis(if round % 4 == 0 {
            0
        } else {
            510 + round as u64 * 7
        }));
        let worker = server.worker().expect("a worker");
        kill(worker, Signal::SIGKILL).expect("kill -9");
        await_that("another worker", || server.worker().is_some_and(|other| other != worker));
        assert!(server.log().matches("the worker ended").count() >= round, "it is told");
    }
    stop.store(true, Ordering::Relaxed);
    let results: Vec<_> = clients.into_iter().map(|client| client.join().expect("ends")).collect();
    for (answered, lost, slowest) in &results {
        println!("{answered} answered, {lost} lost, the slowest took {slowest:?}");
    }
    assert!(results.iter().all(|(answered, ..)| *answered > 10), "they asked all the time");
    assert_eq!(results.iter().map(|(_, lost, _)| lost).sum::<u32>(), 0, "queries lost");
}

#[test]
fn a_worker_that_starts_while_the_source_is_away_goes_on_with_the_last_view() {
    let server = Server::start(&[]);
    // The view is stored soon after it is published; wait for the service of a second one.
    let more = format!("{}---\n{}", support::MANIFEST, support::MANIFEST.replace("web", "more"));
    fs::write(server.manifest(), more).expect("write");
    let more = "more.shop.svc.cluster.local.";
    await_that("the new service", || data(&server.ask(more, RecordType::A)) == ["10.96.0.20"]);
    let mut rounds = 0;
    await_that("a worker that knows it without the source", || {
        rounds += 1;
        let (here, away) = (server.dir.path().join("zone"), server.dir.path().join("away"));
        fs::rename(&here, &away).expect("the source goes away");
        let worker = server.worker().expect("a worker");
        kill(worker, Signal::SIGKILL).expect("kill -9");
        await_that("ready", || server.worker() != Some(worker) && server.ready() == Some(200));
        let asked = Instant::now();
        let known = data(&server.ask(more, RecordType::A)) == ["10.96.0.20"];
        assert!(asked.elapsed() < Duration::from_secs(3), "no wait for the source");
        assert_eq!(data(&server.ask(WEB, RecordType::A)), ["10.96.0.20"]);
        fs::rename(&away, &here).expect("the source comes back");
        await_that("it again", || data(&server.ask(more, RecordType::A)) == ["10.96.0.20"]);
        known
    });
    assert!(server.log().contains("last view of a former worker"), "{}", server.log());
    assert!(rounds < 20, "{rounds} rounds");
}

#[test]
fn upstreams_answers_are_kept_and_outlive_it() {
    let upstream = Upstream::start(Behaviour::Answers);
    let server = Server::start(&[upstream.flag()]);
    for _ in 0..5 {
        assert_eq!(data(&server.ask("example.com.", RecordType::A)), ["192.0.2.1"]);
    }
    assert_eq!(upstream.asked(), 1, "asked once");
    let (_, metrics) = server.get(9153, "/metrics").expect("metrics");
    assert!(metrics.contains("coredns_cache_hits_total 4"), "{metrics}");
}

#[test]
fn a_person_can_ask_with_the_same_program() {
    let server = Server::start(&[]);
    let ask = |name: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_bowline-dns"))
            .args(["query", name, "a", "--server", &server.socket().to_string()])
            .output()
            .expect("run");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (found, text) = ask("web.shop.svc.cluster.local");
    assert!(found && text.contains("web.shop.svc.cluster.local. 5 A 10.96.0.20"), "{text}");
    let (found, text) = ask("nope.shop.svc.cluster.local");
    assert!(!found && text.contains("; cluster.local. 5 SOA"), "{text}");
}

#[test]
fn queries_wait_while_there_is_no_worker() {
    let server = Server::start(&[]);
    let worker = server.worker().expect("a worker");
    // Stopped, it is there but reads nothing; killed then, it has read nothing.
    kill(worker, Signal::SIGSTOP).expect("stop");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(server.socket()).expect("connect");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    for id in 0..200 {
        let bytes = query(id, WEB, RecordType::A).to_vec().expect("encodes");
        socket.send(&bytes).expect("send");
    }
    kill(worker, Signal::SIGKILL).expect("kill -9");
    let mut buffer = [0; 512];
    for _ in 0..200 {
        socket.recv(&mut buffer).expect("each one is answered");
    }
}

#[test]
fn asked_to_stop_it_is_not_ready_but_answers_for_a_while() {
    let mut server = Server::launch(own_address(), &["--lameduck=1".into()]);
    await_that("ready", || server.ready() == Some(200));
    server.signal(Signal::SIGTERM);
    await_that("not ready", || server.ready() == Some(503));
    assert_eq!(data(&server.ask(WEB, RecordType::A)), ["10.96.0.20"]);
    let worker = server.worker().expect("a worker");
    let status = server.child.0.wait().expect("it ends");
    assert!(status.success(), "{status}");
    assert!(!fs::exists(format!("/proc/{worker}")).expect("procfs"), "nothing is left behind");
}

#[test]
fn it_is_ready_only_when_it_knows_the_cluster() {
    let upstream = Upstream::start(Behaviour::Answers);
    let dir = tempfile::tempdir().expect("a directory");
    let kubeconfig = dir.path().join("kubeconfig");
    // Nobody listens there.
    let text = "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
                clusters: [{name: x, cluster: {server: 'http://127.0.0.1:1'}}]\n\
                users: [{name: x, user: {}}]\n\
                contexts: [{name: x, context: {cluster: x, user: x}}]\n";
    fs::write(&kubeconfig, text).expect("write");
    let flags = [
        "--source=cluster".to_owned(),
        format!("--kubeconfig={}", kubeconfig.display()),
        upstream.flag(),
    ];
    let server = Server::launch(own_address(), &flags);
    await_that("it runs", || server.ready().is_some());
    assert_eq!(server.ready(), Some(503));
    let started = Instant::now();
    // Asked at once, it waits for the view, and then says that it can't tell.
    let answer = server.ask(WEB, RecordType::A);
    assert_eq!(answer.response_code, ResponseCode::ServFail);
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(data(&server.ask("example.com.", RecordType::A)), ["192.0.2.1"]);
    assert_eq!(server.ready(), Some(503));
}

#[test]
fn a_port_that_is_taken_and_a_wrong_flag_are_told_at_once() {
    let first = Server::start(&[]);
    let mut second = Server::launch(first.address, &[]);
    assert_eq!(second.child.0.wait().expect("it ends").code(), Some(1));
    assert!(second.log().contains("another DNS server"), "{}", second.log());
    let mut wrong = Server::launch(own_address(), &["--zone=a..b".into()]);
    assert_eq!(wrong.child.0.wait().expect("it ends").code(), Some(78));
    assert!(wrong.log().contains("a..b"), "{}", wrong.log());
}
