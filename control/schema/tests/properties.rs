//! What must hold for all objects, found with random ones.

use bowline_schema::managed::{self, Writer};
use bowline_schema::{Gvk, apply, decode, default, patch, validate};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn gvk() -> Gvk {
    Gvk::new("apps", "v1", "Deployment")
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: "", now: "2024-05-01T12:00:00Z" }
}

/// A list of objects, each with another value under `key`, from a few.
fn keyed(
    key: &'static str,
    keys: &'static [&'static str],
    rest: impl Strategy<Value = Value> + 'static,
) -> impl Strategy<Value = Value> {
    let names = proptest::sample::subsequence(keys.to_vec(), 0..=keys.len()).prop_shuffle();
    (names, vec(rest, keys.len())).prop_map(move |(names, rest)| {
        let item = |(name, mut rest): (&str, Value)| {
            rest[key] = name.into();
            rest
        };
        names.into_iter().zip(rest).map(item).collect()
    })
}

fn labels() -> impl Strategy<Value = Value> {
    btree_map("[abc]", "[xy]", 0..3).prop_map(|map| json!(map))
}

/// An object with those of the given fields that are there.
fn fields(pairs: Vec<(&str, Option<Value>)>) -> Value {
    let set = pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(set.collect::<Map<String, Value>>())
}

fn container() -> impl Strategy<Value = Value> {
    let variable = "[xy]".prop_map(|value| json!({"value": value}));
    let ports = proptest::sample::subsequence(
        vec![
            json!({"containerPort": 80}),
            json!({"containerPort": 80, "protocol": "UDP"}),
            json!({"containerPort": 81}),
        ],
        0..=3,
    );
    let env = option::of(keyed("name", &["A", "B", "C"], variable));
    (option::of("[ij]"), env, option::of(ports), option::of(vec("[pq]", 0..3))).prop_map(
        |(image, env, ports, args)| {
            fields(vec![
                ("image", image.map(Value::from)),
                ("env", env),
                ("ports", ports.map(Value::from)),
                ("args", args.map(Value::from)),
            ])
        },
    )
}

/// A deployment's configuration, as a user writes it.
fn configuration() -> impl Strategy<Value = Value> {
    let containers = option::of(keyed("name", &["one", "two", "three"], container()));
    let parts = (
        option::of(labels()),
        option::of(0..5_i64),
        option::of(labels()),
        containers,
        option::of(vec("[ab]/[xy]", 0..3)),
    );
    parts.prop_map(|(labels, replicas, selector, containers, finalizers)| {
        let mut finalizers = finalizers.unwrap_or_default();
        finalizers.sort();
        finalizers.dedup();
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": fields(vec![("name", Some("d".into())), ("labels", labels),
                ("finalizers", Some(finalizers.into()))]),
            "spec": fields(vec![("replicas", replicas.map(Value::from)),
                ("selector", selector.map(|l| json!({"matchLabels": l}))),
                ("template", containers.map(|c| json!({"spec": {"containers": c}})))]),
        });
        decode::normalize(&gvk(), &mut object).expect("right types");
        object
    })
}

fn applied(live: Option<&Value>, config: &Value, manager: &str) -> Value {
    apply::apply(&gvk(), live, config, &writer(manager), true).expect("forced")
}

/// The object without what tells who wrote it, and without empty containers.
fn content(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"].as_object_mut().expect("metadata").remove("managedFields");
    bare(object)
}

fn bare(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().map(|(k, v)| (k, bare(v)));
            Value::Object(kept.filter(|(_, v)| !is_empty(v)).collect())
        }
        Value::Array(items) => items.into_iter().map(bare).collect(),
        other => other,
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// The JSON merge patch from one value to another.
fn difference(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut patch = Map::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in to.iter().filter(|(name, value)| from.get(*name) != Some(value)) {
        let change = from.get(name).map_or_else(|| value.clone(), |old| difference(old, value));
        patch.insert(name.clone(), change);
    }
    Value::Object(patch)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn applying_twice_is_applying_once(config in configuration(), other in configuration()) {
        let live = applied(Some(&applied(None, &other, "other")), &config, "m");
        prop_assert_eq!(applied(Some(&live), &config, "m"), live);
    }

    #[test]
    fn a_manager_alone_gets_what_it_last_declared(first in configuration(), second in configuration()) {
        let live = applied(Some(&applied(None, &first, "m")), &second, "m");
        prop_assert_eq!(content(&live), content(&second));
    }

    #[test]
    fn an_apply_that_takes_all_back_leaves_what_the_other_declared(
        mine in configuration(), theirs in configuration()
    ) {
        // Where both declare, theirs comes last; so all of theirs is there after mine is gone.
        let both = applied(Some(&applied(None, &mine, "m")), &theirs, "t");
        let nothing = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
        let left = applied(Some(&both), &nothing, "m");
        let again = applied(Some(&left), &theirs, "t");
        prop_assert_eq!(content(&again), content(&left));
    }

    #[test]
    fn a_strategic_patch_is_idempotent(object in configuration(), change in configuration()) {
        let once = patch::strategic(&gvk(), &object, &change).expect("a good patch");
        let twice = patch::strategic(&gvk(), &once, &change).expect("a good patch");
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn a_merge_patch_of_the_difference_leads_there(from in configuration(), to in configuration()) {
        prop_assert_eq!(patch::merge(&from, &difference(&from, &to)), Ok(to));
    }

    #[test]
    fn an_update_is_owned_once(from in configuration(), to in configuration()) {
        let mut live = from.clone();
        managed::track(&gvk(), None, &mut live, &writer("creator"));
        let mut next = to;
        managed::track(&gvk(), Some(&live), &mut next, &writer("updater"));
        let entries = next["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        prop_assert!(entries.len() <= 2);
        if let [a, b] = entries.as_slice() {
            let mut shared = Vec::new();
            leaves(&a["fieldsV1"], &b["fieldsV1"], String::new(), &mut shared);
            prop_assert!(shared.is_empty(), "both own {:?}", shared);
        }
    }

    #[test]
    fn defaulting_keeps_what_was_declared_and_normal_form(config in configuration()) {
        let mut object = config.clone();
        default::apply(&gvk(), &mut object);
        // Not by a strategic patch: that one tells ports apart by number alone, as upstream's does.
        prop_assert_eq!(content(&applied(Some(&object), &config, "m")), content(&object));
        let before = object.clone();
        prop_assert_eq!(decode::normalize(&gvk(), &mut object), Ok(Vec::new()));
        prop_assert_eq!(object, before);
    }

    #[test]
    fn an_object_without_change_may_always_be_updated_to_itself(config in configuration()) {
        let mut object = config;
        default::apply(&gvk(), &mut object);
        if validate::create(&gvk(), &object).is_empty() {
            prop_assert_eq!(validate::update(&gvk(), &object, &object), Vec::new());
        }
    }

    #[test]
    fn no_bytes_break_the_reader(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(parsed) = decode::parse(&bytes) {
            let again = decode::parse(parsed.value.to_string().as_bytes()).expect("own output");
            prop_assert_eq!(again.value, parsed.value);
        }
    }
}

/// Paths that are members of both sets.
fn leaves(a: &Value, b: &Value, path: String, out: &mut Vec<String>) {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return };
    let member = |map: &Map<String, Value>| map.is_empty() || map.contains_key(".");
    if member(a) && member(b) && !path.is_empty() {
        out.push(path.clone());
    }
    for (name, child) in a.iter().filter(|(name, _)| *name != ".") {
        if let Some(other) = b.get(name) {
            leaves(child, other, format!("{path}/{name}"), out);
        }
    }
}
