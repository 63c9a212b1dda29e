//! The reflector against an apiserver of the test's own, which breaks watches, goes away, expires
//! revisions and lies.

mod apiserver;

use std::time::Duration;

use apiserver::ApiServer;
use bowline_proxy::model::ObjectName;
use bowline_proxy::reflector::{self, Outlets};
use bowline_proxy::routes::Peers;
use bowline_proxy::writer::{Source, Update};
use tokio::sync::{mpsc, watch};

/// Longer than the reflector's longest pause before it tries again.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running reflector and what it has said.
struct Reflector {
    updates: mpsc::Receiver<Vec<Update>>,
    peers: watch::Receiver<Peers>,
    eligible: watch::Receiver<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Reflector {
    fn start(server: &ApiServer, inherited: usize) -> Self {
        bowline_api::client::install_crypto();
        let config = kube::Config::new(server.url());
        let client = kube::Client::try_from(config).expect("a client");
        let (updates, receiver) = mpsc::channel(64);
        let (peers, peers_receiver) = watch::channel(Peers::default());
        let (eligible, eligible_receiver) = watch::channel(true);
        let outlets = Outlets { updates, peers, eligible };
        let task = tokio::spawn(reflector::run(client, "here".into(), outlets, inherited));
        Self { updates: receiver, peers: peers_receiver, eligible: eligible_receiver, task }
    }

    /// The next update that `wanted` takes; others are passed over.
    async fn next<T>(&mut self, what: &str, wanted: impl Fn(&Update) -> Option<T>) -> T {
        let search = async {
            loop {
                let batch = self.updates.recv().await.expect("the reflector lives");
                if let Some(found) = batch.iter().find_map(&wanted) {
                    return found;
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, search).await;
        found.unwrap_or_else(|_| panic!("never told: {what}"))
    }

    async fn service(&mut self, name: &str) {
        let name = ObjectName::new("default", name);
        let is =
            |update: &Update| matches!(update, Update::Service(n, _) if *n == name).then_some(());
        self.next(&format!("service {name}"), is).await;
    }

    async fn gone(&mut self, name: &str) {
        let name = ObjectName::new("default", name);
        let is =
            |update: &Update| matches!(update, Update::ServiceGone(n) if *n == name).then_some(());
        self.next(&format!("{name} gone"), is).await;
    }

    async fn synced(&mut self, source: Source) {
        let is =
            |update: &Update| matches!(update, Update::Synced(s) if *s == source).then_some(());
        self.next(&format!("{source:?} synced"), is).await;
    }

    /// Nothing about services is told for a while.
    async fn silent(&mut self, time: Duration) {
        let told = async {
            loop {
                let batch = self.updates.recv().await.expect("the reflector lives");
                let service = batch
                    .into_iter()
                    .find(|update| matches!(update, Update::Service(..) | Update::ServiceGone(_)));
                if let Some(update) = service {
                    return update;
                }
            }
        };
        if let Ok(update) = tokio::time::timeout(time, told).await {
            panic!("told too early: {update:?}");
        }
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn service(name: &str) -> serde_json::Value {
    serde_json::json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    })
}

#[tokio::test]
async fn what_is_listed_and_what_is_watched_is_told() {
    let server = ApiServer::start().await;
    server.set("services", service("a"));
    let mut reflector = Reflector::start(&server, 0);
    reflector.synced(Source::Services).await;
    server.set("services", service("b"));
    reflector.service("b").await;
    server.delete("services", "default", "a");
    reflector.gone("a").await;
}

#[tokio::test]
async fn a_list_of_many_pages_is_told_whole() {
    let server = ApiServer::start().await;
    for i in 0..1_203 {
        server.set("services", service(&format!("s{i}")));
    }
    let mut reflector = Reflector::start(&server, 0);
    let count = |batch: &[Update]| {
        batch.iter().filter(|update| matches!(update, Update::Service(..))).count()
    };
    let mut told = 0;
    while told < 1_203 {
        let batch = tokio::time::timeout(PATIENCE, reflector.updates.recv()).await;
        told += count(&batch.expect("in time").expect("the reflector lives"));
    }
    assert_eq!(told, 1_203);
}

#[tokio::test]
async fn a_broken_watch_goes_on_where_it_stopped() {
    let server = ApiServer::start().await;
    server.set("services", service("a"));
    let mut reflector = Reflector::start(&server, 0);
    reflector.synced(Source::Services).await;
    server.set("services", service("b"));
    reflector.service("b").await;
    let lists = server.lists("services");
    server.break_watches();
    server.set("services", service("c"));
    reflector.service("c").await;
    assert_eq!(server.lists("services"), lists, "it listed again without need");
}

#[tokio::test]
async fn nothing_is_lost_while_the_apiserver_is_away() {
    let server = ApiServer::start().await;
    server.set("services", service("a"));
    server.set("services", service("b"));
    let mut reflector = Reflector::start(&server, 0);
    reflector.synced(Source::Services).await;
    server.set_away(true);
    server.break_watches();
    server.set("services", service("c"));
    server.delete("services", "default", "a");
    reflector.silent(Duration::from_millis(500)).await;
    server.set_away(false);
    reflector.service("c").await;
    reflector.gone("a").await;
}

#[tokio::test]
async fn after_an_expired_revision_the_difference_is_told() {
    let server = ApiServer::start().await;
    server.set("services", service("a"));
    server.set("services", service("b"));
    let mut reflector = Reflector::start(&server, 0);
    reflector.synced(Source::Services).await;
    server.set_away(true);
    server.break_watches();
    server.delete("services", "default", "a");
    server.set("services", service("c"));
    server.compact();
    server.set_away(false);
    let mut missing = vec!["a gone", "c"];
    while !missing.is_empty() {
        let batch = tokio::time::timeout(PATIENCE, reflector.updates.recv()).await;
        for update in batch.expect("in time").expect("the reflector lives") {
            match update {
                Update::ServiceGone(name) if &*name.name == "a" => {
                    missing.retain(|m| *m != "a gone");
                }
                Update::Service(name, _) if &*name.name == "c" => missing.retain(|m| *m != "c"),
                Update::Service(name, _) => panic!("{name} did not change"),
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn a_list_without_most_services_is_read_twice() {
    let server = ApiServer::start().await;
    for i in 0..10 {
        server.set("services", service(&format!("s{i}")));
    }
    let mut reflector = Reflector::start(&server, 0);
    reflector.synced(Source::Services).await;
    let lists = server.lists("services");
    // One list lies that all is gone; the next one is right.
    server.lie_once("services");
    server.compact();
    server.break_watches();
    reflector.silent(Duration::from_secs(3)).await;
    assert!(server.lists("services") >= lists + 2, "the lie was believed or never told");
    server.set("services", service("new"));
    reflector.service("new").await;
}

#[tokio::test]
async fn an_empty_first_list_is_read_twice_if_there_were_services_before() {
    let server = ApiServer::start().await;
    for i in 0..10 {
        server.set("services", service(&format!("s{i}")));
    }
    server.lie_once("services");
    let mut reflector = Reflector::start(&server, 10);
    reflector.service("s0").await;
    assert_eq!(server.lists("services"), 2);
}

#[tokio::test]
async fn a_node_that_is_about_to_go_is_not_eligible() {
    let server = ApiServer::start().await;
    let node = |taints: serde_json::Value| {
        serde_json::json!({
            "metadata": {"name": "here"},
            "spec": {"podCIDRs": ["10.244.0.0/24"], "taints": taints},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
        })
    };
    server.set("nodes", node(serde_json::json!([])));
    let mut reflector = Reflector::start(&server, 0);
    reflector.synced(Source::Node).await;
    assert!(*reflector.eligible.borrow_and_update());
    let own = reflector.peers.borrow().own_ranges("here");
    assert_eq!(own, ["10.244.0.0/24".parse().expect("a literal")]);
    server.set(
        "nodes",
        node(serde_json::json!([
            {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"},
        ])),
    );
    let changed = tokio::time::timeout(PATIENCE, reflector.eligible.wait_for(|e| !e)).await;
    changed.expect("in time").expect("the reflector lives");
}
