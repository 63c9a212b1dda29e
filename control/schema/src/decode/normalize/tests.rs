use serde_json::json;

use super::*;

fn pod() -> Gvk {
    Gvk::new("", "v1", "Pod")
}

fn good(gvk: &Gvk, mut value: Value) -> (Value, Vec<String>) {
    let unknown = normalize(gvk, &mut value).expect("a good object");
    let before = value.clone();
    assert_eq!(normalize(gvk, &mut value), Ok(Vec::new()), "the second pass finds nothing");
    assert_eq!(value, before, "normalize is idempotent");
    (value, unknown)
}

#[test]
fn unknown_fields_are_removed_and_named() {
    let (value, unknown) = good(
        &pod(),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "nope": 1},
            "spec": {"containers": [{"name": "c", "imag": "x"}], "foo": {"bar": 1}}, "zzz": 1}),
    );
    assert_eq!(unknown, ["metadata.nope", "spec.containers[0].imag", "spec.foo", "zzz"]);
    assert_eq!(
        value,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c"}]}})
    );
}

#[test]
fn values_become_canonical() {
    let (value, _) = good(
        &pod(),
        json!({"metadata": {"creationTimestamp": null, "labels": {"a": null},
                "deletionTimestamp": "2024-05-01T12:00:00+02:00", "annotations": {}},
            "spec": {"containers": [{"name": "c", "ports": [], "resources":
                {"limits": {"cpu": 1, "memory": "1024Mi"}, "requests": {"cpu": 0.5}}}],
                "volumes": [{"name": "v", "emptyDir": {}}]}}),
    );
    assert_eq!(
        value,
        json!({"metadata": {"labels": {"a": ""}, "deletionTimestamp": "2024-05-01T10:00:00Z"},
            "spec": {"containers": [{"name": "c", "resources":
                {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}}],
                "volumes": [{"name": "v", "emptyDir": {}}]}})
    );
}

#[test]
fn lease_times_keep_their_microseconds() {
    let lease = Gvk::new("coordination.k8s.io", "v1", "Lease");
    let (value, _) = good(&lease, json!({"spec": {"renewTime": "2024-05-01T12:00:00.5Z"}}));
    assert_eq!(value["spec"]["renewTime"], "2024-05-01T12:00:00.500000Z");
}

#[test]
fn wrong_types_name_the_field_as_go_does() {
    let deployment = Gvk::new("apps", "v1", "Deployment");
    for (gvk, object, message) in [
        (
            &deployment,
            json!({"spec": {"replicas": "3"}}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            &deployment,
            json!({"spec": {"replicas": 1.5}}),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            &pod(),
            json!({"spec": {"containers": {"name": "x"}}}),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            &pod(),
            json!({"spec": {"containers": [{"name": 3}]}}),
            "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string",
        ),
        (
            &pod(),
            json!({"metadata": {"labels": {"a": true}}}),
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels.a of type string",
        ),
        (
            &pod(),
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}}),
            "quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            &Gvk::new("", "v1", "Secret"),
            json!({"data": {"a": "!!"}}),
            "illegal base64 data at input byte 0",
        ),
    ] {
        let mut object = object;
        let error = normalize(gvk, &mut object).expect_err("a wrong type");
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn an_unknown_kind_is_left_alone() {
    let widget = Gvk::new("example.com", "v1", "Widget");
    let value = json!({"spec": {"a": null, "b": {}}});
    let mut copy = value.clone();
    assert_eq!(normalize(&widget, &mut copy), Ok(Vec::new()));
    assert_eq!(copy, value);
}
