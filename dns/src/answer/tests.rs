//! The specification's clauses as a table: question in, answer out.

use std::fmt::Write;

use crate::model::{Change, Event, Model};

use super::*;

/// Objects that between them have every form of the specification.
const OBJECTS: &str = r"
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.20
  clusterIPs: [10.96.0.20, 'fd00:96::20']
  ports: [{name: http, port: 80}, {name: dns, protocol: UDP, port: 53}, {port: 9}]
---
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, ports: [{name: pg, port: 5432}]}
---
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
endpoints:
- {addresses: [10.244.1.5], hostname: db-0, conditions: {ready: true}}
- {addresses: [10.244.2.6], conditions: {}}
- {addresses: [10.244.2.7], hostname: db-2, conditions: {ready: false}}
ports: [{name: pg, port: 5432, protocol: TCP}]
---
kind: EndpointSlice
metadata: {name: db-2, namespace: shop, labels: {kubernetes.io/service-name: db}}
endpoints:
- {addresses: ['fd00:244::5'], hostname: db-0}
ports: [{name: pg, port: 5432, protocol: TCP}]
---
kind: Service
metadata: {name: peers, namespace: shop}
spec: {clusterIP: None, publishNotReadyAddresses: true}
---
kind: EndpointSlice
metadata: {name: peers-1, namespace: shop, labels: {kubernetes.io/service-name: peers}}
endpoints: [{addresses: [10.244.2.7], conditions: {ready: false}}]
---
kind: Service
metadata: {name: empty, namespace: shop}
spec: {clusterIP: None}
---
kind: Service
metadata: {name: inside, namespace: shop}
spec: {type: ExternalName, externalName: web.shop.svc.cluster.local}
---
kind: Service
metadata: {name: outside, namespace: shop}
spec: {type: ExternalName, externalName: Example.COM.}
---
kind: Service
metadata: {name: round, namespace: shop}
spec: {type: ExternalName, externalName: round.shop.svc.cluster.local}
---
kind: Service
metadata: {name: kubernetes, namespace: default, uid: UID-1}
spec: {clusterIP: 10.96.0.1}
---
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: 10.96.0.10, ports: [{name: dns, protocol: UDP, port: 53}]}
";

fn view() -> ZoneView {
    let (services, slices) = crate::source::parse(OBJECTS);
    assert_eq!((services.len(), slices.len()), (9, 3), "all objects decode");
    let mut model = Model::default();
    model.apply(Change::Services(Event::Replace(services)));
    model.apply(Change::Slices(Event::Replace(slices)));
    assert!(model.is_synced());
    let mut view = model.view().clone();
    view.serial = 7;
    view
}

fn zone() -> Zone {
    let mut zone = Zone::new(Name::from_ascii("cluster.local.").expect("a name"), 5);
    zone.own_networks = vec!["10.96.0.0/16".parse().expect("CIDR")];
    zone
}

fn ask_in(zone: &Zone, name: &str, record_type: &str) -> Outcome {
    let name = Name::from_ascii(name).expect("a name");
    let record_type = record_type.parse().expect("a type");
    answer(zone, &view(), Question { name: &name, record_type }, 0)
}

/// An outcome in one line: code, answers, `+` additionals, `!` the SOA of a negative answer.
fn line(outcome: &Outcome) -> String {
    let record = |record: &Record| {
        let owner = record.name.to_ascii();
        format!("{owner} {} {} {}", record.ttl, record.record_type(), record.data)
    };
    match outcome {
        Outcome::Forward => "forward".into(),
        Outcome::Follow { chain, target } => {
            let chain: Vec<String> = chain.iter().map(record).collect();
            format!("{} -> {target}", chain.join("; "))
        }
        Outcome::Reply(reply) => {
            let mut text = format!("{:?}", reply.code);
            let mut answers: Vec<String> = reply.answers.iter().map(record).collect();
            answers.sort();
            for answer in answers {
                let _ = write!(text, "; {answer}");
            }
            for additional in &reply.additionals {
                let _ = write!(text, " + {}", record(additional));
            }
            for authority in &reply.authorities {
                assert_eq!(authority.record_type(), RecordType::SOA);
                assert_eq!(authority.ttl, 5);
                text += " !";
            }
            text
        }
    }
}

#[track_caller]
fn check(name: &str, record_type: &str, expected: &str) {
    assert_eq!(line(&ask_in(&zone(), name, record_type)), expected, "{name} {record_type}");
}

#[test]
fn clause_2_2_schema_version() {
    let answer = "NoError; dns-version.cluster.local. 5 TXT 1.1.0";
    check("dns-version.cluster.local.", "TXT", answer);
    check("dns-version.cluster.local.", "A", "NoError !");
}

#[test]
fn clause_2_3_1_a_and_aaaa_of_a_cluster_ip() {
    let a = "NoError; web.shop.svc.cluster.local. 5 A 10.96.0.20";
    check("web.shop.svc.cluster.local.", "A", a);
    let aaaa = "NoError; web.shop.svc.cluster.local. 5 AAAA fd00:96::20";
    check("web.shop.svc.cluster.local.", "AAAA", aaaa);
    check("kube-dns.kube-system.svc.cluster.local.", "AAAA", "NoError !");
    check("web.shop.svc.cluster.local.", "MX", "NoError !");
}

#[test]
fn the_callers_spelling_comes_back() {
    let a = "NoError; WeB.shop.SVC.Cluster.local. 5 A 10.96.0.20";
    check("WeB.shop.SVC.Cluster.local.", "A", a);
}

#[test]
fn clause_2_3_2_srv_of_named_ports_only() {
    check(
        "_http._tcp.web.shop.svc.cluster.local.",
        "SRV",
        "NoError; _http._tcp.web.shop.svc.cluster.local. 5 SRV 0 100 80 \
         web.shop.svc.cluster.local. + web.shop.svc.cluster.local. 5 A 10.96.0.20 + \
         web.shop.svc.cluster.local. 5 AAAA fd00:96::20",
    );
    check("_http._udp.web.shop.svc.cluster.local.", "SRV", "NXDomain !");
    check("_nope._tcp.web.shop.svc.cluster.local.", "SRV", "NXDomain !");
    check("_http._tcp.web.shop.svc.cluster.local.", "A", "NoError !");
    check("_tcp.web.shop.svc.cluster.local.", "SRV", "NoError !");
    check("_sctp.web.shop.svc.cluster.local.", "SRV", "NXDomain !");
}

#[test]
fn clause_2_3_3_ptr_of_a_cluster_ip() {
    let ptr = "NoError; 20.0.96.10.in-addr.arpa. 5 PTR web.shop.svc.cluster.local.";
    check("20.0.96.10.in-addr.arpa.", "PTR", ptr);
    check("20.0.96.10.in-addr.arpa.", "A", "NoError !");
}

#[test]
fn reverse_names_of_our_networks_stay_here_and_others_go_upstream() {
    check("99.0.96.10.in-addr.arpa.", "PTR", "NXDomain !");
    check("1.2.0.192.in-addr.arpa.", "PTR", "forward");
    check("96.10.in-addr.arpa.", "PTR", "forward");
}

#[test]
fn clause_2_4_1_a_of_ready_endpoints() {
    check(
        "db.shop.svc.cluster.local.",
        "A",
        "NoError; db.shop.svc.cluster.local. 5 A 10.244.1.5; db.shop.svc.cluster.local. 5 A \
         10.244.2.6",
    );
    let aaaa = "NoError; db.shop.svc.cluster.local. 5 AAAA fd00:244::5";
    check("db.shop.svc.cluster.local.", "AAAA", aaaa);
}

#[test]
fn endpoints_have_names_of_their_own() {
    let a = "NoError; db-0.db.shop.svc.cluster.local. 5 A 10.244.1.5";
    check("db-0.db.shop.svc.cluster.local.", "A", a);
    let a = "NoError; 10-244-2-6.db.shop.svc.cluster.local. 5 A 10.244.2.6";
    check("10-244-2-6.db.shop.svc.cluster.local.", "A", a);
    check("10-244-2-6.db.shop.svc.cluster.local.", "AAAA", "NoError !");
    check("db-2.db.shop.svc.cluster.local.", "A", "NXDomain !");
    check("db-0.web.shop.svc.cluster.local.", "A", "NXDomain !");
}

#[test]
fn clause_2_4_2_srv_of_each_endpoint() {
    check(
        "_pg._tcp.db.shop.svc.cluster.local.",
        "SRV",
        "NoError; _pg._tcp.db.shop.svc.cluster.local. 5 SRV 0 33 5432 \
         10-244-2-6.db.shop.svc.cluster.local.; _pg._tcp.db.shop.svc.cluster.local. 5 SRV 0 33 \
         5432 db-0.db.shop.svc.cluster.local. + db-0.db.shop.svc.cluster.local. 5 A 10.244.1.5 + \
         10-244-2-6.db.shop.svc.cluster.local. 5 A 10.244.2.6 + \
         db-0.db.shop.svc.cluster.local. 5 AAAA fd00:244::5",
    );
}

#[test]
fn clause_2_4_3_ptr_of_each_endpoint() {
    let ptr = "NoError; 5.1.244.10.in-addr.arpa. 5 PTR db-0.db.shop.svc.cluster.local.";
    check("5.1.244.10.in-addr.arpa.", "PTR", ptr);
    let dashed = "NoError; 6.2.244.10.in-addr.arpa. 5 PTR 10-244-2-6.db.shop.svc.cluster.local.";
    check("6.2.244.10.in-addr.arpa.", "PTR", dashed);
}

#[test]
fn endpoints_that_are_not_ready_are_published_where_asked_for() {
    let a = "NoError; peers.shop.svc.cluster.local. 5 A 10.244.2.7";
    check("peers.shop.svc.cluster.local.", "A", a);
}

#[test]
fn a_headless_service_without_endpoints_is_as_chosen() {
    check("empty.shop.svc.cluster.local.", "A", "NoError !");
    let mut zone = zone();
    zone.empty_headless = EmptyHeadless::Nxdomain;
    let outcome = ask_in(&zone, "empty.shop.svc.cluster.local.", "A");
    assert_eq!(line(&outcome), "NXDomain !");
    let outcome = ask_in(&zone, "db.shop.svc.cluster.local.", "MX");
    assert_eq!(line(&outcome), "NoError !", "one with endpoints has a name");
}

#[test]
fn clause_2_5_external_names() {
    let cname = "inside.shop.svc.cluster.local. 5 CNAME web.shop.svc.cluster.local.";
    check("inside.shop.svc.cluster.local.", "CNAME", &format!("NoError; {cname}"));
    let a = "web.shop.svc.cluster.local. 5 A 10.96.0.20";
    check("inside.shop.svc.cluster.local.", "A", &format!("NoError; {cname}; {a}"));
    check("inside.shop.svc.cluster.local.", "MX", &format!("NoError; {cname} !"));
    check(
        "outside.shop.svc.cluster.local.",
        "A",
        "outside.shop.svc.cluster.local. 5 CNAME Example.COM. -> Example.COM.",
    );
    let looped = line(&ask_in(&zone(), "round.shop.svc.cluster.local.", "A"));
    assert!(looped.starts_with("ServFail; round.shop"), "{looped}");
}

#[test]
fn nxdomain_is_for_names_that_hold_nothing_and_have_nothing_below() {
    for (name, expected) in [
        ("cluster.local.", "NoError !"),
        ("svc.cluster.local.", "NoError !"),
        ("pod.cluster.local.", "NoError !"),
        ("dns.cluster.local.", "NoError !"),
        ("shop.svc.cluster.local.", "NoError !"),
        ("nowhere.svc.cluster.local.", "NXDomain !"),
        ("nope.shop.svc.cluster.local.", "NXDomain !"),
        ("a.b.c.d.e.f.g.svc.cluster.local.", "NXDomain !"),
        ("example.com.cluster.local.", "NXDomain !"),
        ("example.com.shop.svc.cluster.local.", "NXDomain !"),
    ] {
        check(name, "A", expected);
    }
}

#[test]
fn the_zone_tells_its_authority_and_name_server() {
    check(
        "cluster.local.",
        "SOA",
        "NoError; cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 \
         1800 86400 5",
    );
    check("cluster.local.", "NS", "NoError; cluster.local. 5 NS ns.dns.cluster.local.");
    let a = "NoError; ns.dns.cluster.local. 5 A 10.96.0.10";
    check("ns.dns.cluster.local.", "A", a);
}

#[test]
fn pod_names_are_as_chosen() {
    let a = "NoError; 10-1-2-3.shop.pod.cluster.local. 5 A 10.1.2.3";
    check("10-1-2-3.shop.pod.cluster.local.", "A", a);
    check("10-1-2.shop.pod.cluster.local.", "A", "NXDomain !");
    let mut zone = zone();
    zone.pod_records = PodRecords::Disabled;
    let outcome = ask_in(&zone, "10-1-2-3.shop.pod.cluster.local.", "A");
    assert_eq!(line(&outcome), "NXDomain !");
}

#[test]
fn other_names_are_not_ours() {
    for name in ["example.com.", "local.", "kubernetes.", "."] {
        check(name, "A", "forward");
    }
}

#[test]
fn the_check_for_loops_is_answered_by_its_own_cluster_only() {
    let text = format!("NoError; uid-1.bowline-loop-check. 5 TXT {LOOPED}");
    check("uid-1.bowline-loop-check.", "TXT", &text);
    check("uid-2.bowline-loop-check.", "TXT", "forward");
}

#[test]
fn seeds_move_the_first_of_several_addresses() {
    let name = Name::from_ascii("db.shop.svc.cluster.local.").expect("a name");
    let question = Question { name: &name, record_type: RecordType::A };
    let firsts: std::collections::HashSet<String> = (0..8)
        .map(|seed| match answer(&zone(), &view(), question, seed) {
            Outcome::Reply(reply) => reply.answers[0].data.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(firsts.len(), 2, "both addresses come first at times");
}
