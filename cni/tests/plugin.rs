//! The plugin's binary in real network namespaces, by the clauses of the CNI specification.

use std::{
    collections::HashSet,
    io::{ErrorKind, Write},
    net::{IpAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

mod support;

use support::{Node, Space, is_root, read};

fn has_eth0(pod: &Space) -> bool {
    pod.netlink().link("eth0").expect("netlink").is_some()
}

#[test]
fn pods_reach_each_other_and_the_node_both_ways_over_both_families() {
    if !is_root("pods_reach_each_other") {
        return;
    }
    let node = Node::new();
    let (a, b) = (node.pod("a"), node.pod("b"));
    let (added_a, added_b) = (node.add("a", &a), node.add("b", &b));
    // An uplink gives the node addresses of its own.
    node.space.ip("link add up0 type veth peer name up1");
    node.space.ip("addr add 192.168.9.1/24 dev up0");
    node.space.ip("addr add fd00:9::1/64 dev up0 nodad");
    node.space.ip("link set up0 up");
    node.space.ip("link set up1 up");
    for (address_a, address_b) in added_a.addresses().into_iter().zip(added_b.addresses()) {
        assert!(a.reaches(&b, address_b), "a -> b {address_b}");
        assert!(b.reaches(&a, address_a), "b -> a {address_a}");
        assert!(node.space.reaches(&a, address_a), "node -> a {address_a}");
        assert!(a.reaches(&a, address_a), "a -> itself {address_a}");
    }
    for own in ["192.168.9.1", "fd00:9::1"] {
        let own: IpAddr = own.parse().expect("address");
        assert!(a.reaches(&node.space, own), "a -> node {own}");
    }
}

#[test]
fn a_pod_can_send_the_moment_it_is_added() {
    if !is_root("a_pod_can_send_the_moment_it_is_added") {
        return;
    }
    let node = Node::new();
    let peer = node.pod("peer");
    let address = node.add("peer", &peer).addresses()[0];
    for n in 0..3 {
        let pod = node.pod(&format!("p{n}"));
        node.add(&format!("p{n}"), &pod);
        let started = Instant::now();
        assert!(pod.reaches(&peer, address));
        // A lost first packet is sent again after a second.
        assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    }
}

#[test]
fn the_node_reaches_a_pod_when_it_has_no_address_but_loopback() {
    if !is_root("the_node_reaches_a_pod_when_it_has_no_address") {
        return;
    }
    let node = Node::new();
    let pod = node.pod("a");
    let added = node.add("a", &pod);
    // Only IPv6: its link-local address is one that a pod can answer to.
    assert!(node.space.reaches(&pod, added.addresses()[1]));
}

#[test]
fn the_result_tells_what_was_made() {
    if !is_root("the_result_tells_what_was_made") {
        return;
    }
    let node = Node::new();
    let pod = node.pod("a");
    let result = node.add("a", &pod).stdout;
    assert_eq!(result["cniVersion"], "1.1.0");
    let link = pod.netlink().link("eth0").expect("netlink").expect("eth0");
    assert_eq!(result["interfaces"][1]["mac"], link.mac.expect("a MAC").to_string());
    assert_eq!(result["interfaces"][1]["sandbox"], json!(pod.path));
    assert_eq!(result["interfaces"][0]["name"], node.links()[0]);
    assert_eq!(result["ips"][0]["address"], "10.244.1.2/32");
    assert_eq!(result["ips"][0]["gateway"], "169.254.1.1");
    let text = std::fs::read_to_string(node.state().join("attachments/a-eth0.json"));
    let file: Value = serde_json::from_str(&text.expect("the file")).expect("JSON");
    assert_eq!(file["podName"], "a");
    assert_eq!(file["podNamespace"], "default");
    assert_eq!(file["addresses"], json!(["10.244.1.2", "fd00:244:1::2"]));
    assert_eq!(file["mac"], result["interfaces"][1]["mac"]);
    let host = node.space.netlink().link(&node.links()[0]).expect("netlink").expect("link");
    assert_eq!(file["hostIfindex"], host.index);
}

#[test]
fn del_leaves_nothing_and_may_be_repeated() {
    if !is_root("del_leaves_nothing") {
        return;
    }
    let node = Node::new();
    let pod = node.pod("a");
    node.add("a", &pod);
    let del = node.run("DEL", "a", Some(&pod.path));
    assert!(del.ok && del.stdout.is_null(), "{del:?}");
    node.assert_empty();
    assert!(!has_eth0(&pod));
    node.del("a");
    node.del("never-added");
    node.add("a", &pod);
    drop(pod);
    let gone = node.dir.path().join("a");
    assert!(node.run("DEL", "a", Some(&gone)).ok, "the namespace is gone");
    node.assert_empty();
}

/// The kernel takes a link down before it drops the routes by it: packets sent in between vanish,
/// and a client waits for a second or more.
#[test]
fn a_connection_to_a_pod_that_goes_is_refused_or_unreachable_but_never_lost() {
    if !is_root("a_connection_to_a_pod_that_goes_is_refused_or_unreachable") {
        return;
    }
    const PODS: usize = 8;
    let node = Node::new();
    node.space.ip("addr add 192.168.9.1/32 dev lo");
    // As the agent has it: what is for no pod of this node's range is unreachable.
    node.space.ip("route add unreachable 10.244.1.0/24 metric 1000");
    let mut lost = vec![];
    for n in 0..PODS {
        let name = format!("p{n}");
        let pod = node.pod(&name);
        let address = node.add(&name, &pod).addresses()[0];
        let going = AtomicBool::new(false);
        let longest = thread::scope(|scope| {
            let client =
                scope.spawn(|| node.space.inside(|| connects_until_unreachable(address, &going)));
            going.store(true, Ordering::Release);
            assert!(node.run("DEL", &name, Some(&pod.path)).ok);
            client.join().expect("the client ends")
        });
        if longest > Duration::from_millis(500) {
            lost.push((n, longest));
        }
    }
    // A machine that is busy enough may hold a packet back for longer than the plugin waits.
    assert!(lost.len() <= 1, "{} of {PODS} pods lost a packet: {lost:?}", lost.len());
}

/// Connects to a port on which nothing listens until the address is unreachable; the longest wait.
fn connects_until_unreachable(address: IpAddr, going: &AtomicBool) -> Duration {
    let until = Instant::now() + Duration::from_secs(5);
    let mut longest = Duration::ZERO;
    while Instant::now() < until {
        let began = Instant::now();
        let error = TcpStream::connect_timeout(&(address, 9).into(), Duration::from_secs(1))
            .expect_err("nothing listens there");
        longest = longest.max(began.elapsed());
        if error.kind() == ErrorKind::HostUnreachable && going.load(Ordering::Acquire) {
            return longest;
        }
    }
    panic!("the address never became unreachable");
}

#[test]
fn a_second_add_fails_and_harms_nothing() {
    if !is_root("a_second_add_fails") {
        return;
    }
    let node = Node::new();
    let pod = node.pod("a");
    let first = node.add("a", &pod);
    let second = node.run("ADD", "a", Some(&pod.path));
    assert!(!second.ok, "{second:?}");
    let other = node.run("ADD", "other", Some(&pod.path));
    assert!(!other.ok, "another container with the same namespace and interface: {other:?}");
    assert_eq!(node.files("addresses").len(), 2);
    assert!(node.check("a", &pod, &first.stdout).ok, "the first is as it was");
}

#[test]
fn check_finds_every_kind_of_damage() {
    if !is_root("check_finds_every_kind_of_damage") {
        return;
    }
    type Damage = fn(&Node, &Space, &str);
    let kinds: [(&str, Damage); 9] = [
        ("default route", |_, pod, _| drop(pod.ip("route del default"))),
        ("IPv6 default route", |_, pod, _| drop(pod.ip("-6 route del default"))),
        ("has lost the address", |_, pod, _| {
            drop(pod.ip("-6 addr del fd00:244:1::2/128 dev eth0"));
        }),
        ("gateway 169.254.1.1", |_, pod, _| drop(pod.ip("neigh del 169.254.1.1 dev eth0"))),
        ("in the pod is down", |_, pod, _| drop(pod.ip("link set eth0 down"))),
        ("no route to 10.244.1.2", |node, _, link| {
            drop(node.space.ip(&format!("route del 10.244.1.2 dev {link}")));
        }),
        ("MAC of 10.244.1.2", |node, _, link| {
            drop(node.space.ip(&format!("neigh del 10.244.1.2 dev {link}")));
        }),
        ("is gone", |node, _, link| drop(node.space.ip(&format!("link del {link}")))),
        ("has no attachment", |node, _, _| {
            std::fs::remove_file(node.state().join("attachments/a-eth0.json")).expect("remove");
        }),
    ];
    for (what, damage) in kinds {
        let node = Node::new();
        let pod = node.pod("a");
        let added = node.add("a", &pod);
        let before = node.check("a", &pod, &added.stdout);
        assert!(before.ok, "undamaged: {before:?}");
        damage(&node, &pod, &node.links()[0]);
        let after = node.check("a", &pod, &added.stdout);
        assert!(!after.ok && after.code() == 101, "{what}: {after:?}");
        let named = what.trim_start_matches("IPv6 ");
        assert!(after.stdout["msg"].as_str().unwrap().contains(named), "{what}: {after:?}");
    }
}

#[test]
fn a_corrupt_configuration_leaves_nothing() {
    if !is_root("a_corrupt_configuration_leaves_nothing") {
        return;
    }
    let node = Node::new();
    let pod = node.pod("a");
    let mut no_ranges = node.config();
    no_ranges["ranges"] = json!([]);
    let mut bad_range = node.config();
    bad_range["ranges"] = json!(["10.0.0.0/99"]);
    for (stdin, code) in [
        ("{\"cniVersion\":\"1.0.0\",".to_owned(), 6),
        (String::new(), 6),
        (no_ranges.to_string(), 7),
        (bad_range.to_string(), 7),
    ] {
        let ran = node.run_raw("ADD", "a", Some(&pod.path), stdin.as_bytes());
        assert!(!ran.ok && ran.code() == code, "{stdin}: {ran:?}");
        assert!(!node.state().exists(), "not even the state directory");
        assert!(!has_eth0(&pod) && node.links().is_empty());
    }
    let no_netns = node.run("ADD", "a", Some(&node.dir.path().join("nowhere")));
    assert_eq!(no_netns.code(), 3, "{no_netns:?}");
    assert!(!node.state().exists());
}

#[test]
fn an_add_that_fails_half_way_takes_everything_back() {
    if !is_root("an_add_that_fails_half_way") {
        return;
    }
    let node = Node::new();
    let pod = node.pod("a");
    node.space.ip("link add x0 type veth peer name x1");
    node.space.ip("link set x0 up");
    // The last step, the node's route, meets one that is there already.
    node.space.ip("route add 10.244.1.2/32 dev x0");
    let failed = node.run("ADD", "a", Some(&pod.path));
    assert!(!failed.ok && failed.code() == 11, "{failed:?}");
    assert!(!has_eth0(&pod) && node.links().is_empty());
    assert!(node.files("addresses").is_empty() && node.files("attachments").is_empty());
    let retried = node.add("a", &pod);
    assert_eq!(retried.addresses()[0].to_string(), "10.244.1.3", "it goes on to the next address");
}

#[test]
fn an_add_killed_at_any_moment_can_be_tried_again() {
    if !is_root("an_add_killed_at_any_moment") {
        return;
    }
    let node = Node::new();
    let pod = node.pod("a");
    let (mut unfinished, mut finished) = (0, 0);
    for round in 0..40_u32 {
        let mut command = node.command("ADD", "a", Some(&pod.path));
        let mut child = node.space.inside(|| command.spawn().expect("start"));
        let stdin =
            child.stdin.take().expect("piped").write_all(node.config().to_string().as_bytes());
        stdin.expect("it reads its configuration");
        // Not a wait for something: this is the moment of the kill, spread over an ADD's length.
        thread::sleep(Duration::from_micros(u64::from(round) * 250));
        child.kill().expect("kill -9");
        let ran = child.wait_with_output().expect("it ends");
        let retried = if ran.status.success() || !node.files("attachments").is_empty() {
            finished += 1;
            node.del("a");
            node.run("ADD", "a", Some(&pod.path))
        } else {
            unfinished += 1;
            node.run("ADD", "a", Some(&pod.path))
        };
        assert!(retried.ok, "round {round}: {retried:?}");
        node.del("a");
        assert!(node.links().is_empty() && !has_eth0(&pod), "round {round}");
    }
    println!("{unfinished} ADDs were killed before they were finished, {finished} after");
    assert!(unfinished > 0, "at least one was killed in the middle");
    // An unfinished one may have left reservations; the DEL of its container gave them back.
    node.assert_empty();
}

#[test]
fn gc_removes_all_but_the_valid() {
    if !is_root("gc_removes_all_but_the_valid") {
        return;
    }
    let node = Node::new();
    let pods: Vec<Space> = ["a", "b", "c"].iter().map(|name| node.pod(name)).collect();
    for (name, pod) in ["a", "b", "c"].iter().zip(&pods) {
        node.add(name, pod);
    }
    let mut config = node.config();
    config["cni.dev/valid-attachments"] = json!([{"containerID": "b", "ifname": "eth0"}]);
    let ran = node.run_raw("GC", "", None, config.to_string().as_bytes());
    assert!(ran.ok, "{ran:?}");
    assert_eq!(node.files("attachments"), ["b-eth0.json"]);
    assert_eq!(node.files("addresses").len(), 2);
    assert_eq!(node.links().len(), 1);
    assert!(!has_eth0(&pods[0]) && has_eth0(&pods[1]) && !has_eth0(&pods[2]));
    // Without the list nothing is touched: absent is not empty.
    let ran = node.run("GC", "", None);
    assert!(!ran.ok && ran.code() == 7, "{ran:?}");
    assert_eq!(node.links().len(), 1);
}

#[test]
fn status_and_add_say_50_when_the_addresses_are_used_up() {
    if !is_root("status_and_add_say_50") {
        return;
    }
    let mut node = Node::new();
    node.ranges = vec!["10.244.1.0/29"];
    let pods: Vec<Space> = (0..6).map(|n| node.pod(&format!("p{n}"))).collect();
    for (n, pod) in pods[..5].iter().enumerate() {
        assert!(node.run("STATUS", "", None).ok);
        node.add(&format!("p{n}"), pod);
    }
    let status = node.run("STATUS", "", None);
    assert_eq!(status.code(), 50, "{status:?}");
    let add = node.run("ADD", "p5", Some(&pods[5].path));
    assert_eq!(add.code(), 50, "{add:?}");
    assert!(!has_eth0(&pods[5]));
    // A pod that vanished without a DEL gives its address back.
    let mut pods = pods;
    drop(pods.remove(0));
    assert!(node.run("STATUS", "", None).ok);
    assert!(node.run("ADD", "p5", Some(&pods[4].path)).ok);
}

#[test]
fn a_hundred_adds_at_once_get_a_hundred_addresses() {
    if !is_root("a_hundred_adds_at_once") {
        return;
    }
    let node = Node::new();
    let pods: Vec<Space> = (0..100).map(|n| node.pod(&format!("p{n}"))).collect();
    let alone = Instant::now();
    for (n, pod) in pods[..10].iter().enumerate() {
        node.add(&format!("p{n}"), pod);
    }
    let alone = alone.elapsed() / 10;
    let together = Instant::now();
    let children: Vec<_> = pods[10..]
        .iter()
        .enumerate()
        .map(|(n, pod)| {
            let mut command = node.command("ADD", &format!("p{}", n + 10), Some(&pod.path));
            let mut child = node.space.inside(|| command.spawn().expect("start"));
            let config = node.config().to_string();
            child.stdin.take().expect("piped").write_all(config.as_bytes()).expect("write");
            child
        })
        .collect();
    let mut addresses = HashSet::new();
    for child in children {
        let ran = read(child.wait_with_output().expect("it ends"));
        assert!(ran.ok, "{ran:?}");
        addresses.extend(ran.addresses());
    }
    println!("one ADD alone: {alone:?}; 90 at once: {:?} each", together.elapsed() / 90);
    assert_eq!(addresses.len(), 180, "an address of each family for each of 90 pods");
    assert_eq!(node.files("addresses").len(), 200);
    for n in 0..100 {
        node.del(&format!("p{n}"));
    }
    node.assert_empty();
}

#[test]
fn strict_filters_and_no_forwarding_are_dealt_with_and_told() {
    if !is_root("strict_filters_and_no_forwarding") {
        return;
    }
    let node = Node::new();
    node.space.inside(|| {
        for (name, value) in [
            ("net/ipv4/ip_forward", "0"),
            ("net/ipv4/conf/all/rp_filter", "1"),
            ("net/ipv6/conf/all/forwarding", "0"),
        ] {
            std::fs::write(format!("/proc/sys/{name}"), value).expect("sysctl");
        }
    });
    let (a, b) = (node.pod("a"), node.pod("b"));
    let added = node.add("a", &a);
    for word in ["ip_forward", "ipv6.conf.all.forwarding", "rp_filter"] {
        assert!(added.stderr.contains(word), "{word} is named in: {}", added.stderr);
    }
    let added = node.add("b", &b);
    for address in added.addresses() {
        assert!(a.reaches(&b, address), "{address}");
    }
}

#[test]
fn a_pods_link_has_the_uplinks_mtu_unless_told_another() {
    if !is_root("a_pods_link_has_the_uplinks_mtu") {
        return;
    }
    let node = Node::new();
    node.space.ip("link add up0 mtu 1420 type veth peer name up1");
    node.space.ip("addr add 192.168.9.1/24 dev up0");
    node.space.ip("link set up0 up");
    let mtu = |pod: &Space| pod.netlink().link("eth0").expect("netlink").expect("eth0").mtu;
    let pods: Vec<Space> = (0..3).map(|n| node.pod(&format!("p{n}"))).collect();
    node.add("p0", &pods[0]);
    assert_eq!(mtu(&pods[0]), 1420, "without a default route: the smallest of the node's links");
    node.space.ip("link add wide0 mtu 1600 type veth peer name wide1");
    node.space.ip("link set wide0 up");
    node.space.ip("addr add 192.168.8.1/24 dev wide0");
    node.space.ip("route add default via 192.168.8.2");
    node.add("p1", &pods[1]);
    assert_eq!(mtu(&pods[1]), 1600, "with a default route: that link's");
    let mut config = node.config();
    config["mtu"] = json!(1300);
    let ran = node.run_raw("ADD", "p2", Some(&pods[2].path), config.to_string().as_bytes());
    assert!(ran.ok, "{ran:?}");
    assert_eq!(mtu(&pods[2]), 1300);
}

#[test]
fn version_and_usage_need_no_privileges() {
    let ran = std::process::Command::new(env!("CARGO_BIN_EXE_bowline-cni"))
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("run");
    let ran = read(ran);
    assert!(ran.ok);
    assert_eq!(ran.stdout["supportedVersions"][4], "1.1.0");
    let usage = std::process::Command::new(env!("CARGO_BIN_EXE_bowline-cni"))
        .env_clear()
        .stdin(std::process::Stdio::null())
        .output()
        .expect("run");
    let usage = read(usage);
    assert!(!usage.ok && usage.code() == 4);
    assert!(usage.stderr.contains("container runtime"), "{}", usage.stderr);
}
