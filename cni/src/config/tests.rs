//! What the configuration accepts, and with which code it refuses the rest.

use serde_json::json;

use super::*;

fn parse(value: &Value, command: Command) -> Result<Config, Failure> {
    Config::parse(value.to_string().as_bytes(), command)
}

fn good() -> Value {
    json!({"cniVersion": "1.0.0", "name": "bowline", "type": "bowline-cni",
           "ranges": ["10.244.1.0/24", "fd00:1::/64"], "clusterCidrs": ["10.244.0.0/16"], "mtu": 0})
}

fn with(key: &str, value: Value) -> Value {
    let mut config = good();
    config[key] = value;
    config
}

#[test]
fn the_installed_configuration_is_read() {
    let config = parse(&good(), Command::Add).expect("valid");
    assert_eq!(config.version, Version(1, 0, 0));
    assert_eq!(config.ranges.len(), 2);
    assert_eq!(config.mtu, None, "0 means the uplink's");
    assert_eq!(config.state_dir, PathBuf::from(DEFAULT_STATE_DIR));
}

#[test]
fn bytes_that_are_no_json_object_fail_with_6() {
    for text in ["", "{", "[]", "nonsense", r#"{"cniVersion": 3}"#, r#"{"ranges": "x"}"#] {
        let failure = Config::parse(text.as_bytes(), Command::Add).expect_err(text);
        assert_eq!(failure.code, Code::DecodeFailure, "{text}: {failure}");
    }
}

#[test]
fn a_wrong_value_fails_with_7_and_names_it() {
    let cases = [
        ("name", json!(""), "name"),
        ("ranges", json!([]), "ranges"),
        ("ranges", json!(["10.244.1.0/33"]), "10.244.1.0/33"),
        ("ranges", json!(["10.244.1.5/24"]), "10.244.1.5/24"),
        ("ranges", json!(["10.244.1.0/24", "10.244.1.128/25"]), "overlap"),
        ("ranges", json!(["10.244.1.0/32"]), "too small"),
        ("mtu", json!(20), "mtu 20"),
        ("mtu", json!(1000), "mtu 1000"),
        ("stateDir", json!("var/lib"), "var/lib"),
        ("runtimeConfig", json!({"portMappings": [{"hostPort": 80}]}), "portMappings"),
    ];
    for (key, value, named) in cases {
        let failure = parse(&with(key, value), Command::Add).expect_err(named);
        assert_eq!(failure.code, Code::InvalidConfig, "{failure}");
        assert!(failure.msg.contains(named), "{failure} names {named}");
    }
}

#[test]
fn an_unknown_field_fails_with_2_but_foreign_namespaces_pass() {
    let failure = parse(&with("rangez", json!([])), Command::Add).expect_err("typo");
    assert_eq!(failure.code, Code::UnsupportedField);
    assert!(failure.msg.contains("rangez"), "{failure}");
    parse(&with("example.com/extra", json!(1)), Command::Add).expect("a namespaced field");
}

#[test]
fn versions_are_held_to() {
    for version in ["0.2.0", "", "2.0.0", "1.0"] {
        let failure = parse(&with("cniVersion", json!(version)), Command::Add).expect_err(version);
        assert_eq!(failure.code, Code::IncompatibleVersion);
    }
    let mut old = with("cniVersion", json!("0.3.1"));
    old["prevResult"] = json!({});
    assert!(parse(&old, Command::Add).is_ok());
    assert_eq!(
        parse(&old, Command::Check).expect_err("since 0.4.0").code,
        Code::IncompatibleVersion
    );
    assert_eq!(
        parse(&good(), Command::Gc).expect_err("since 1.1.0").code,
        Code::IncompatibleVersion
    );
}

#[test]
fn del_works_with_a_configuration_whose_ranges_went_bad() {
    assert!(parse(&with("ranges", json!(["junk"])), Command::Del).is_ok());
}

#[test]
fn gc_tells_an_absent_list_from_an_empty_one() {
    let mut config = with("cniVersion", json!("1.1.0"));
    assert_eq!(parse(&config, Command::Gc).expect_err("absent").code, Code::InvalidConfig);
    config["cni.dev/valid-attachments"] = json!([]);
    assert!(parse(&config, Command::Gc).expect("empty").valid_attachments.is_empty());
    config["cni.dev/valid-attachments"] = json!([{"containerID": "a", "ifname": "eth0"}]);
    assert_eq!(parse(&config, Command::Gc).expect("one").valid_attachments.len(), 1);
}

#[test]
fn an_answer_carries_the_version_that_was_asked_with() {
    assert_eq!(version_of(br#"{"cniVersion":"0.4.0"}"#), "0.4.0");
    assert_eq!(version_of(b"rubbish"), "1.1.0");
}
