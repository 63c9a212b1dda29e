//! Many writers at once.

use std::collections::BTreeSet;

use serde_json::json;
use tokio::task::JoinSet;

use crate::kit::{Cluster, DEFAULT, config_map};

#[tokio::test(flavor = "multi_thread")]
async fn no_increment_is_lost_when_many_read_and_write_back() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let path = format!("{DEFAULT}/configmaps/counter");
    let counter = json!({"metadata": {"name": "counter"}, "data": {"n": "0"}});
    admin.post(&format!("{DEFAULT}/configmaps"), &counter).await.ok();
    let mut writers = JoinSet::new();
    for _ in 0..8 {
        let (admin, path) = (admin.clone(), path.clone());
        writers.spawn(async move {
            let mut done = 0;
            while done < 20 {
                let mut object = admin.get(&path).await.ok();
                let n: u32 = object["data"]["n"].as_str().unwrap_or("").parse().expect("a number");
                object["data"]["n"] = json!((n + 1).to_string());
                match admin.put(&path, &object).await.code {
                    200 => done += 1,
                    409 => {}
                    other => panic!("an update is answered {other}"),
                }
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer.expect("no writer panics");
    }
    assert_eq!(admin.get(&path).await.ok()["data"]["n"], "160");
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_of_different_fields_all_take_effect() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.post(&format!("{DEFAULT}/configmaps"), &config_map("m")).await.ok();
    let mut writers = JoinSet::new();
    for i in 0..40 {
        let admin = admin.clone();
        writers.spawn(async move {
            let patch = json!({"data": {format!("k{i}"): "v"}});
            admin.merge(&format!("{DEFAULT}/configmaps/m"), &patch).await.ok();
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer.expect("no patch is refused: the server retries");
    }
    let data = admin.get(&format!("{DEFAULT}/configmaps/m")).await.ok();
    assert_eq!(data["data"].as_object().map(serde_json::Map::len), Some(41));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_creators_of_a_name_wins_and_generated_names_differ() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let mut writers = JoinSet::new();
    for _ in 0..16 {
        let admin = admin.clone();
        writers.spawn(async move {
            let generated = json!({"metadata": {"generateName": "g-"}});
            let path = format!("{DEFAULT}/configmaps");
            let named = admin.post(&path, &config_map("one")).await.code;
            let object = admin.post(&path, &generated).await.ok();
            (named, object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
        });
    }
    let (mut won, mut names) = (0, BTreeSet::new());
    while let Some(writer) = writers.join_next().await {
        let (code, name) = writer.expect("no writer panics");
        assert!(matches!(code, 201 | 409), "{code}");
        won += usize::from(code == 201);
        names.insert(name);
    }
    assert_eq!((won, names.len()), (1, 16));
}
