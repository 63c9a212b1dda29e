//! What readers of the cache may rely on.

use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::api::core::v1::ConfigMap;

use super::*;

fn object(name: &str, uid: &str, version: u64) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name.to_owned());
    object.metadata.namespace = Some("default".to_owned());
    object.metadata.uid = Some(uid.to_owned());
    object.metadata.resource_version = Some(version.to_string());
    object
}

#[test]
fn a_packed_cache_shows_the_same() {
    let (whole, packed) = (Informer::<ConfigMap>::new(), Informer::packed());
    for informer in [&whole, &packed] {
        informer.index("data", |map| map.data.iter().flatten().map(|(k, _)| k.clone()).collect());
        let mut map = object("a", "1", 5);
        map.data = Some([("k".to_owned(), "v".to_owned())].into());
        informer.watched(map);
        informer.watched(object("b", "2", 6));
        informer.watched(object("a", "1", 4));
    }
    let key = Key::new("default", "a");
    assert_eq!(whole.get(&key), packed.get(&key));
    assert_eq!(whole.by("data", "k"), packed.by("data", "k"));
    assert_eq!(packed.in_namespace("default").len(), 2);
    packed.deleted(&object("a", "1", 7));
    assert!(packed.by("data", "k").is_empty(), "the index forgets with the object");
    assert_eq!(packed.keys().len(), 1);
}

#[test]
fn older_news_never_replaces_newer() {
    let informer = Informer::new();
    informer.observe(object("a", "1", 5));
    informer.watched(object("a", "1", 4));
    let held = informer.get(&Key::new("default", "a")).expect("the object is cached");
    assert_eq!(held.metadata.resource_version.as_deref(), Some("5"));
}

#[test]
fn own_create_that_the_watch_already_saw_deleted_stays_away() {
    let informer = Informer::new();
    informer.watched(object("a", "1", 5));
    informer.deleted(&object("a", "1", 6));
    informer.observe(object("a", "1", 5));
    assert!(informer.is_empty(), "a deleted object must not come back from an old answer");
}

#[test]
fn own_delete_hides_late_news_until_the_watch_confirms() {
    let informer = Informer::new();
    informer.watched(object("a", "1", 5));
    informer.forget(&Key::new("default", "a"), "1");
    informer.watched(object("a", "1", 6));
    assert!(informer.is_empty());
    informer.deleted(&object("a", "1", 7));
    informer.watched(object("a", "2", 8));
    assert_eq!(informer.in_namespace("default").len(), 1, "a namesake is another object");
}

#[test]
fn a_list_removes_what_it_lacks_and_tells_it() {
    let informer = Informer::new();
    let count = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&count);
    informer.on_change(move |change: &Change<ConfigMap>| {
        if change.new.is_none() {
            seen.fetch_add(1, Ordering::Relaxed);
        }
    });
    informer.replace(vec![object("a", "1", 5), object("b", "2", 6)]);
    informer.replace(vec![object("b", "2", 6)]);
    assert_eq!(count.load(Ordering::Relaxed), 1);
    assert_eq!(informer.len(), 1);
}
