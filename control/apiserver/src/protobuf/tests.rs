//! Objects written by hand as protobuf writes them.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A length-delimited field.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).expect("test messages are short");
    assert!(length < 128, "one byte holds the length");
    [&[number << 3 | 2, length][..], content].concat()
}

fn number(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC, &field(1, &meta), &field(2, raw)].concat()
}

#[test]
fn a_deployment_reads_as_its_json_does() {
    let metadata = [field(1, b"web"), field(2, b""), field(8, b"")].concat();
    // replicas is a pointer: its zero was meant; minReadySeconds is none: its zero is nothing.
    let spec = [number(1, 0), number(5, 0)].concat();
    let raw = [field(1, &metadata), field(2, &spec)].concat();
    let object = read(&envelope("apps/v1", "Deployment", &raw)).expect("it is well formed");
    assert_eq!(
        object,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": 0},
        })
    );
}

#[test]
fn bytes_maps_and_quantities_take_their_json_forms() {
    let entry = [field(1, b"key"), field(2, b"\x00\xff")].concat();
    let secret = envelope("v1", "Secret", &field(2, &entry));
    assert_eq!(read(&secret).expect("a secret")["data"], json!({"key": "AP8="}));
    let quantity = field(1, b"5Gi");
    let limit = field(1, &[field(1, b"memory"), field(2, &quantity)].concat());
    let container = field(8, &limit);
    let pod = envelope("v1", "Pod", &field(2, &field(2, &container)));
    let pod = read(&pod).expect("a pod");
    assert_eq!(pod.pointer("/spec/containers/0/resources/limits"), Some(&json!({"memory": "5Gi"})));
}

#[test]
fn embedded_structs_join_their_parent() {
    // A volume's source has a message of its own on the wire.
    let host_path = field(1, &field(1, b"/tmp"));
    let volume = [field(1, b"v"), field(2, &host_path)].concat();
    let pod = envelope("v1", "Pod", &field(2, &field(1, &volume)));
    let pod = read(&pod).expect("a pod");
    let volumes = json!([{"name": "v", "hostPath": {"path": "/tmp"}}]);
    assert_eq!(pod.pointer("/spec/volumes"), Some(&volumes));
}

#[test]
fn what_is_cut_off_or_unknown_is_refused() {
    let whole = envelope("apps/v1", "Deployment", &field(1, &field(1, b"web")));
    assert_eq!(read(&whole[..whole.len() - 1]), Err(ProtobufError::Wire));
    assert_eq!(read(b"{}"), Err(ProtobufError::Magic));
    let unknown = envelope("example.com/v1", "Thing", b"");
    assert!(matches!(read(&unknown), Err(ProtobufError::Unknown(_))));
}

#[test]
fn every_line_of_the_table_can_be_read_and_names_messages_that_exist() {
    for (message, line) in table() {
        let entries = line.split(' ').filter(|entry| !entry.is_empty()).count();
        assert_eq!(fields(line).count(), entries, "{message}: an entry cannot be read");
        for field in fields(line) {
            let kind = field.kind.trim_start_matches(['[', '{']);
            if let Some(other) = kind.strip_prefix('M') {
                assert!(table().contains_key(other), "{message}.{}: no {other}", field.name);
            }
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let raw = envelope_of_any_length(&bytes);
        let _either = read(&raw);
    }
}

fn envelope_of_any_length(raw: &[u8]) -> Vec<u8> {
    let mut out = envelope("v1", "Pod", b"");
    out.truncate(out.len() - 2);
    out.push(2 << 3 | 2);
    let length = raw.len();
    if length >= 128 {
        out.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        out.push(u8::try_from(length >> 7).expect("short"));
    } else {
        out.push(u8::try_from(length).expect("short"));
    }
    [&out, raw].concat()
}
