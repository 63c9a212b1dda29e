use serde_json::json;

use super::*;
use crate::Gvk;

fn pod() -> Gvk {
    Gvk::new("", "v1", "Pod")
}

fn patched(object: Value, patch: Value) -> Value {
    strategic(&pod(), &object, &patch).expect("a good patch")
}

#[test]
fn lists_with_a_merge_key_merge_item_by_item() {
    let object = json!({"spec": {"containers": [
        {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]},
        {"name": "b", "image": "b:1"}]}});
    let result = patched(
        object,
        json!({"spec": {"containers": [
            {"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}]},
            {"name": "b", "$patch": "delete"},
            {"name": "c", "image": "c:1"}]}}),
    );
    assert_eq!(
        result,
        json!({"spec": {"containers": [
            {"name": "a", "image": "a:2",
                "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]},
            {"name": "c", "image": "c:1"}]}})
    );
}

/// As in the documentation of `kubectl patch`: the added container is the first one.
#[test]
fn a_new_item_comes_before_those_that_the_patch_does_not_name() {
    let object = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}});
    let names = |patch: Value| -> Vec<String> {
        let result = patched(object.clone(), json!({"spec": {"containers": patch}}));
        let list = result["spec"]["containers"].as_array().unwrap().clone();
        list.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(json!([{"name": "new"}])), ["new", "a", "b", "c"]);
    assert_eq!(names(json!([{"name": "b"}, {"name": "new"}])), ["a", "b", "new", "c"]);
    assert_eq!(names(json!([{"name": "c"}, {"name": "a"}])), ["b", "c", "a"]);
}

#[test]
fn what_kubectl_apply_sends_when_an_item_is_removed_removes_it() {
    let object =
        json!({"spec": {"containers": [{"name": "a"}, {"name": "side"}, {"name": "injected"}]}});
    let result = patched(
        object,
        json!({"spec": {"$setElementOrder/containers": [{"name": "new"}, {"name": "a"}],
            "containers": [{"name": "new"}, {"$patch": "delete", "name": "side"}]}}),
    );
    let names: Vec<_> = result["spec"]["containers"].as_array().unwrap().iter().collect();
    assert_eq!(
        names,
        [&json!({"name": "new"}), &json!({"name": "a"}), &json!({"name": "injected"})]
    );
}

#[test]
fn an_order_without_items_only_reorders() {
    let object = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
    let result = patched(
        object,
        json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
    );
    assert_eq!(result["spec"]["containers"], json!([{"name": "b"}, {"name": "a"}]));
}

#[test]
fn retain_keys_clears_the_old_source_of_a_volume() {
    let object = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
    let result = patched(
        object,
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"],
            "hostPath": {"path": "/x"}}]}}),
    );
    assert_eq!(result["spec"]["volumes"], json!([{"name": "v", "hostPath": {"path": "/x"}}]));
    let deployment = Gvk::new("apps", "v1", "Deployment");
    let object =
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let result = strategic(&deployment, &object, &patch).unwrap();
    assert_eq!(result["spec"]["strategy"], json!({"type": "Recreate"}));
}

#[test]
fn sets_of_plain_values_merge_and_delete() {
    let object = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
    let result = patched(
        object.clone(),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "finalizers": ["d", "a"]}}),
    );
    assert_eq!(result["metadata"]["finalizers"], json!(["d", "a", "c"]));
    let result = patched(
        object,
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"],
            "$setElementOrder/finalizers": ["c", "b"]}}),
    );
    assert_eq!(result["metadata"]["finalizers"], json!(["c", "b"]));
}

#[test]
fn directives_replace_and_delete_objects_and_nulls_delete_fields() {
    let object = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "annotations": {"x": "y"}},
        "spec": {"nodeName": "n", "securityContext": {"runAsUser": 1}}});
    let result = patched(
        object,
        json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}, "annotations": {"x": null}},
            "spec": {"nodeName": null, "securityContext": {"$patch": "delete"}}}),
    );
    assert_eq!(
        result,
        json!({"metadata": {"labels": {"c": "3"}, "annotations": {}},
            "spec": {"securityContext": {}}})
    );
}

#[test]
fn lists_without_a_merge_key_are_replaced() {
    let object = json!({"spec": {"tolerations": [{"key": "a"}], "containers": [{"name": "c", "args": ["x"]}]}});
    let result = patched(
        object,
        json!({"spec": {"tolerations": [{"key": "b"}], "containers": [{"name": "c", "args": ["y"]}]}}),
    );
    assert_eq!(result["spec"]["tolerations"], json!([{"key": "b"}]));
    assert_eq!(result["spec"]["containers"][0]["args"], json!(["y"]));
}

#[test]
fn directives_never_reach_the_object() {
    let result = patched(
        json!({}),
        json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "a", "env": [
            {"name": "gone", "$patch": "delete"}, {"name": "E", "$patch": "merge", "value": null}]}]}}),
    );
    assert!(!result.to_string().contains('$'), "{result}");
    assert_eq!(result["spec"]["containers"], json!([{"name": "a", "env": [{"name": "E"}]}]));
}

#[test]
fn malformed_patches_are_refused() {
    for patch in [
        json!([]),
        json!({"spec": {"containers": [{"image": "x"}]}}),
        json!({"spec": {"containers": ["x"]}}),
        json!({"spec": {"$patch": "explode"}}),
        json!({"spec": {"$retainKeys": ["a"], "nodeName": "n"}}),
        json!({"metadata": {"$setElementOrder/finalizers": "x", "finalizers": []}}),
    ] {
        let result = strategic(&pod(), &json!({"spec": {}}), &patch);
        assert!(matches!(result, Err(PatchError::Malformed(_))), "{patch} gave {result:?}");
    }
    let widget = Gvk::new("example.com", "v1", "Widget");
    assert_eq!(strategic(&widget, &json!({}), &json!({})), Err(PatchError::NoSchema));
}

#[test]
fn json_patches_fail_whole() {
    let object = json!({"a": 1});
    let failing =
        json!([{"op": "add", "path": "/b", "value": 2}, {"op": "test", "path": "/a", "value": 2}]);
    assert!(matches!(json(&object, &failing), Err(PatchError::NotApplicable(_))));
    assert!(matches!(json(&object, &json!({"op": "add"})), Err(PatchError::Malformed(_))));
    let good = json!([{"op": "replace", "path": "/a", "value": 3}]);
    assert_eq!(json(&object, &good), Ok(json!({"a": 3})));
    assert_eq!(merge(&object, &json!({"a": null, "b": {"c": 1}})), Ok(json!({"b": {"c": 1}})));
    assert!(matches!(merge(&object, &json!([])), Err(PatchError::Malformed(_))));
}

#[test]
fn copies_of_copies_end_before_they_fill_the_memory() {
    let object = json!({"data": {"a": "x".repeat(1 << 10)}});
    let doubled = |times: usize| {
        let operations: Vec<Value> = (0..times)
            .map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/{n}")}))
            .collect();
        json(&object, &Value::Array(operations))
    };
    assert!(doubled(4).is_ok());
    assert_eq!(doubled(64), Err(PatchError::TooLarge));
}

#[test]
fn an_object_gets_no_deeper_by_a_patch_than_it_may_be_read() {
    let mut deep = json!({});
    for _ in 0..100 {
        deep = json!({ "d": deep });
    }
    let below = "/d".repeat(100);
    let patch = json!([{"op": "add", "path": "/d", "value": deep},
        {"op": "add", "path": format!("{below}/x"), "value": deep}]);
    assert_eq!(json(&json!({}), &patch), Err(PatchError::TooLarge));
    let moved = json!([{"op": "add", "path": "/d", "value": deep},
        {"op": "copy", "from": "/d", "path": format!("{below}/x")}]);
    assert_eq!(json(&json!({}), &moved), Err(PatchError::TooLarge));
}

#[test]
fn a_failure_names_its_operation() {
    let patch = json!([{"op": "add", "path": "/a", "value": 1}, {"op": "remove", "path": "/b"}]);
    let Err(error) = json(&json!({}), &patch) else { panic!("there is no b") };
    assert!(error.to_string().contains("operation '/1' failed at path '/b'"), "{error}");
}
