use serde_json::json;

use super::*;

fn deployment() -> Gvk {
    Gvk::new("apps", "v1", "Deployment")
}

fn writer(manager: &'static str, now: &'static str) -> Writer<'static> {
    Writer { manager, subresource: "", now }
}

fn owners(object: &Value) -> Vec<(String, Vec<String>)> {
    entries::read(object).into_iter().map(|e| (e.manager, e.set.paths())).collect()
}

fn base() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "uid": "u", "labels": {"a": "1"}},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "image": "x"}]}}}})
}

#[test]
fn a_creator_owns_all_and_an_updater_what_it_changed() {
    let mut object = base();
    track(&deployment(), None, &mut object, &writer("creator", "t1"));
    let fields = &object["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!(fields["f:metadata"]["f:labels"], json!({".": {}, "f:a": {}}));
    assert!(fields["f:metadata"].get("f:uid").is_none());
    let container = &fields["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"];
    assert_eq!(container, &json!({".": {}, "f:image": {}, "f:name": {}}));

    let old = object.clone();
    object["spec"]["replicas"] = 3.into();
    object["spec"]["template"]["spec"]["containers"][0]["image"] = "y".into();
    track(&deployment(), Some(&old), &mut object, &writer("scaler", "t2"));
    let owners = owners(&object);
    assert_eq!(owners[1].0, "scaler");
    assert_eq!(owners[1].1, [".spec.replicas", ".spec.template.spec.containers[name=\"c\"].image"]);
    assert!(!owners[0].1.contains(&".spec.replicas".to_owned()), "taken from the creator");

    let same = object.clone();
    track(&deployment(), Some(&same), &mut object, &writer("idle", "t3"));
    assert_eq!(object, same, "no change, no entry");
}

#[test]
fn what_is_removed_belongs_to_nobody() {
    let mut object = base();
    track(&deployment(), None, &mut object, &writer("creator", "t1"));
    let old = object.clone();
    object["metadata"].as_object_mut().unwrap().remove("labels");
    track(&deployment(), Some(&old), &mut object, &writer("remover", "t2"));
    let owners = owners(&object);
    assert_eq!(owners.len(), 1, "{owners:?}");
    assert!(!owners[0].1.iter().any(|p| p.contains("labels")));
}

#[test]
fn an_empty_list_clears_and_an_absent_one_keeps() {
    let mut object = base();
    track(&deployment(), None, &mut object, &writer("creator", "t1"));
    let old = object.clone();
    let mut absent = old.clone();
    absent["metadata"].as_object_mut().unwrap().remove("managedFields");
    track(&deployment(), Some(&old), &mut absent, &writer("other", "t2"));
    assert_eq!(absent, old);
    let mut cleared = old.clone();
    cleared["metadata"]["managedFields"] = json!([{}]);
    track(&deployment(), Some(&old), &mut cleared, &writer("other", "t2"));
    assert!(cleared["metadata"].get("managedFields").is_none());
}

#[test]
fn many_updaters_are_merged() {
    let mut object = json!({"metadata": {"name": "c"}, "data": {}});
    let gvk = Gvk::new("", "v1", "ConfigMap");
    for n in 0..30 {
        let old = object.clone();
        object["data"][format!("k{n}")] = "v".into();
        let (manager, now) = (format!("m{n}"), format!("2024-05-01T12:00:{n:02}Z"));
        let writer = Writer { manager: &manager, subresource: "", now: &now };
        track(&gvk, Some(&old), &mut object, &writer);
    }
    let owners = owners(&object);
    assert_eq!(owners.len(), entries::MAX_UPDATERS);
    assert!(owners.iter().any(|(m, paths)| m == "ancient-changes" && paths.len() >= 20));
}
