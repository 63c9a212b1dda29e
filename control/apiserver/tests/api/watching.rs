//! What a watch promises: every change once, in order, from where the client says.

use std::time::Duration;

use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use crate::kit::{Caller, Cluster, DEFAULT, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Events of a watch as `(type, name)`, until it ends or `count` have come.
async fn events(caller: &Caller, path: &str, count: usize) -> Vec<(String, Value)> {
    let request = http::Request::get(path).body(Vec::new()).expect("tests write valid requests");
    let stream = caller.client.request_stream(request).await.expect("the watch is accepted");
    let lines = stream.lines().map_ok(|line| {
        let event: Value = serde_json::from_str(&line).expect("each line is JSON");
        (event["type"].as_str().unwrap_or_default().to_owned(), event["object"].clone())
    });
    let all = lines.take(count).try_collect();
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("in time").expect("readable")
}

fn shown(events: &[(String, Value)]) -> Vec<String> {
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or("-").to_owned();
    events.iter().map(|(kind, object)| format!("{kind} {}", name(object))).collect()
}

#[tokio::test]
async fn a_watch_from_a_revision_shows_each_later_change_once_and_in_order() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.post(MAPS, &config_map("before")).await.ok();
    let from = admin.revision().await;
    admin.post(MAPS, &config_map("a")).await.ok();
    admin.merge(&format!("{MAPS}/a"), &json!({"data": {"a": "c"}})).await.ok();
    let path = format!("{MAPS}?watch=1&resourceVersion={from}&timeoutSeconds=10");
    let (watcher, later) = (admin.clone(), admin.clone());
    let seen = tokio::join!(events(&watcher, &path, 4), async {
        later.post(MAPS, &config_map("b")).await.ok();
        later.delete(&format!("{MAPS}/a")).await.ok();
    })
    .0;
    assert_eq!(shown(&seen), ["ADDED a", "MODIFIED a", "ADDED b", "DELETED a"]);
    let revisions: Vec<u64> = seen
        .iter()
        .map(|(_, o)| o["metadata"]["resourceVersion"].as_str().expect("a revision"))
        .map(|text| text.parse().expect("a number"))
        .collect();
    assert!(revisions.is_sorted(), "{revisions:?}");
}

#[tokio::test]
async fn an_object_that_comes_to_match_is_added_and_one_that_ceases_to_is_deleted() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.post(MAPS, &config_map("a")).await.ok();
    let from = admin.revision().await;
    let label = |value: Value| json!({"metadata": {"labels": {"x": value}}});
    for value in [json!("y"), json!("z"), json!("y")] {
        admin.merge(&format!("{MAPS}/a"), &label(value)).await.ok();
    }
    admin.merge(&format!("{MAPS}/a"), &json!({"data": {"n": "1"}})).await.ok();
    let path =
        format!("{MAPS}?watch=1&resourceVersion={from}&labelSelector=x%3Dy&timeoutSeconds=1");
    let seen = events(&admin, &path, 10).await;
    assert_eq!(shown(&seen), ["ADDED a", "DELETED a", "ADDED a", "MODIFIED a"]);
    let gone = &seen[1].1["metadata"]["labels"]["x"];
    assert_eq!(gone, "y", "it is shown as it last matched");
}

#[tokio::test]
async fn a_streaming_list_ends_in_the_bookmark_that_says_so() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    for name in ["a", "b"] {
        admin.post(MAPS, &config_map(name)).await.ok();
    }
    let path = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
         &allowWatchBookmarks=true&timeoutSeconds=5"
    );
    let seen = events(&admin, &path, 3).await;
    assert_eq!(shown(&seen), ["ADDED a", "ADDED b", "BOOKMARK -"]);
    let bookmark = &seen[2].1["metadata"];
    assert_eq!(bookmark["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(bookmark["resourceVersion"].as_str(), Some(admin.revision().await.as_str()));
}

#[tokio::test]
async fn a_watch_ends_at_its_time_with_a_bookmark_to_go_on_from() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let from = admin.revision().await;
    // Something else moves on meanwhile: the bookmark tells of it.
    admin.post(&format!("{DEFAULT}/secrets"), &json!({"metadata": {"name": "s"}})).await.ok();
    let path =
        format!("{MAPS}?watch=1&resourceVersion={from}&allowWatchBookmarks=true&timeoutSeconds=1");
    let seen = events(&admin, &path, 10).await;
    assert_eq!(shown(&seen), ["BOOKMARK -"]);
    let revision = seen[0].1["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    assert_eq!(revision, Some(admin.revision().await));
}

#[tokio::test]
async fn watches_go_on_over_a_restart_of_the_server() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let from = admin.revision().await;
    admin.post(MAPS, &config_map("a")).await.ok();
    admin.delete(&format!("{MAPS}/a")).await.ok();
    cluster.restart().await;
    let admin = cluster.admin().await;
    admin.post(MAPS, &config_map("b")).await.ok();
    let path = format!("{MAPS}?watch=1&resourceVersion={from}&timeoutSeconds=5");
    let seen = events(&admin, &path, 3).await;
    assert_eq!(shown(&seen), ["ADDED a", "DELETED a", "ADDED b"]);
}

#[tokio::test]
async fn a_revision_that_is_forgotten_is_gone_and_one_to_come_is_waited_for() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let first = admin.revision().await;
    // More changes than any resource remembers.
    let changes = futures::stream::iter(0..2100).map(|i| {
        let admin = admin.clone();
        async move { admin.post(MAPS, &config_map(&format!("m{i}"))).await.ok() }
    });
    changes.buffer_unordered(100).for_each(|_| async {}).await;
    let old = admin.get(&format!("{MAPS}?watch=1&resourceVersion={first}")).await;
    assert_eq!((old.code, &old.body["reason"]), (410, &json!("Expired")), "{}", old.body);
    let next: u64 = admin.revision().await.parse().expect("a number");
    let path = format!("{MAPS}?watch=1&resourceVersion={}&timeoutSeconds=5", next + 1);
    let seen = tokio::join!(events(&admin, &path, 1), async {
        admin.post(MAPS, &config_map("b")).await.ok();
        admin.post(MAPS, &config_map("c")).await.ok();
    })
    .0;
    assert_eq!(shown(&seen), ["ADDED c"]);
    let far = admin.get(&format!("{MAPS}?watch=1&resourceVersion=99999999")).await;
    assert_eq!(far.code, 504, "{}", far.body);
}

#[tokio::test]
async fn a_list_in_pages_shows_one_moment() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    for i in 0..7 {
        admin.post(MAPS, &config_map(&format!("m{i}"))).await.ok();
    }
    let first = admin.get(&format!("{MAPS}?limit=3")).await.ok();
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    // What changes now is not seen by the later pages.
    admin.delete(&format!("{MAPS}/m5")).await.ok();
    admin.post(MAPS, &config_map("m9")).await.ok();
    let mut names: Vec<Value> = Vec::new();
    let mut page = first;
    loop {
        let items = page["items"].as_array().expect("items").clone();
        names.extend(items.iter().map(|item| item["metadata"]["name"].clone()));
        let Some(token) = page["metadata"]["continue"].as_str() else { break };
        page = admin.get(&format!("{MAPS}?limit=3&continue={token}")).await.ok();
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
}

#[tokio::test]
async fn kube_reflectors_follow_by_lists_and_by_streaming_lists() {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::watcher::{self, Event};
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.post(MAPS, &config_map("a")).await.ok();
    let api: kube::Api<ConfigMap> = kube::Api::namespaced(admin.client.clone(), "default");
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut stream = Box::pin(watcher::watcher(api.clone(), config));
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| last != "done") {
            let event = tokio::time::timeout(Duration::from_secs(10), stream.next()).await;
            let event = event.expect("in time").expect("it does not end").expect("no error");
            seen.push(match event {
                Event::InitApply(map) => map.metadata.name.unwrap_or_default(),
                Event::InitDone => "done".to_owned(),
                _ => "other".to_owned(),
            });
        }
        assert!(seen.contains(&"a".to_owned()), "{seen:?}");
    }
}
