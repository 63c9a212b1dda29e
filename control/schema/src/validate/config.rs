//! Config maps and secrets.

use bowline_api::words;

use super::cursor::{Cursor, Errors};

const MAX_SIZE: usize = 1024 * 1024;

pub(super) fn config_map(root: &Cursor<'_>, errors: &mut Errors) {
    let (data, binary) = (root.field("data"), root.field("binaryData"));
    for (key, _) in data.entries() {
        self::key(&data, key, errors);
        if binary.value.get(key).is_some() {
            errors.invalid_value(&data.key(key), key, "duplicate of key present in binaryData");
        }
    }
    for (key, _) in binary.entries() {
        self::key(&binary, key, errors);
    }
    let size = text_size(&data) + decoded_size(&binary);
    if size > MAX_SIZE {
        errors.too_long(&Cursor { path: String::new(), value: root.value }, MAX_SIZE);
    }
}

fn key(map: &Cursor<'_>, key: &str, errors: &mut Errors) {
    for problem in words::config_key(key) {
        errors.invalid_value(&map.key(key), key, &problem);
    }
}

fn text_size(map: &Cursor<'_>) -> usize {
    map.entries().map(|(k, v)| k.len() + v.as_str().unwrap_or_default().len()).sum()
}

/// Of base64 values.
fn decoded_size(map: &Cursor<'_>) -> usize {
    let decoded = |text: &str| text.trim_end_matches('=').len() * 3 / 4;
    map.entries().map(|(k, v)| k.len() + decoded(v.as_str().unwrap_or_default())).sum()
}

pub(super) fn secret(root: &Cursor<'_>, errors: &mut Errors) {
    let data = root.field("data");
    for (key, _) in data.entries() {
        self::key(&data, key, errors);
    }
    if decoded_size(&data) > MAX_SIZE {
        errors.too_long(&data, MAX_SIZE);
    }
    let annotations = root.field("metadata").field("annotations");
    match root.field("type").text() {
        "kubernetes.io/service-account-token" => {
            let account = annotations.key("kubernetes.io/service-account.name");
            errors.require(&account);
        }
        "kubernetes.io/dockercfg" => need_keys(&data, &[".dockercfg"], errors),
        "kubernetes.io/dockerconfigjson" => need_keys(&data, &[".dockerconfigjson"], errors),
        "kubernetes.io/basic-auth" => {
            let either = ["username", "password"];
            if !either.iter().any(|key| data.value.get(*key).is_some()) {
                either.iter().for_each(|key| errors.required(&data.key(key), ""));
            }
        }
        "kubernetes.io/ssh-auth" => need_keys(&data, &["ssh-privatekey"], errors),
        "kubernetes.io/tls" => need_keys(&data, &["tls.crt", "tls.key"], errors),
        _ => {}
    }
}

fn need_keys(data: &Cursor<'_>, keys: &[&str], errors: &mut Errors) {
    for key in keys {
        if data.value.get(*key).is_none() {
            errors.required(&data.key(key), "");
        }
    }
}
