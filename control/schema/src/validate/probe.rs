//! Probes and lifecycle hooks.

use bowline_api::words;
use serde_json::Value;

use super::cursor::{Cursor, Errors};

pub(super) fn probes(container: &Cursor<'_>, errors: &mut Errors) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.field(name);
        if probe.value.is_null() {
            continue;
        }
        handler(&probe, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
        for name in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            errors.not_negative(&probe.field(name));
        }
        let success = probe.field("successThreshold");
        if name != "readinessProbe" && success.number().is_some_and(|n| n != 1) {
            errors.invalid(&success, "must be 1");
        }
        let grace = probe.field("terminationGracePeriodSeconds");
        if name == "readinessProbe" && !grace.value.is_null() {
            errors.invalid(&grace, "must not be set for readinessProbes");
        }
        errors.positive(&grace);
    }
    let lifecycle = container.field("lifecycle");
    for name in ["postStart", "preStop"] {
        let hook = lifecycle.field(name);
        if !hook.value.is_null() {
            handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"], errors);
        }
    }
}

fn handler(at: &Cursor<'_>, kinds: &[&str], errors: &mut Errors) {
    let mut count = 0;
    for kind in kinds {
        let handler = at.field(kind);
        if handler.value.is_null() {
            continue;
        }
        count += 1;
        if count > 1 {
            errors.forbidden(&handler, "may not specify more than 1 handler type");
        }
        match *kind {
            "exec" => {
                let command = handler.field("command");
                if command.len() == 0 {
                    errors.required(&command, "");
                }
            }
            "httpGet" => {
                errors.require(&handler.field("path"));
                port(&handler.field("port"), errors);
                errors.one_of(&handler.field("scheme"), &["HTTP", "HTTPS"]);
                for header in handler.field("httpHeaders").items() {
                    errors.require(&header.field("name"));
                }
            }
            "tcpSocket" => port(&handler.field("port"), errors),
            "grpc" => port(&handler.field("port"), errors),
            _ => errors.not_negative(&handler.field("seconds")),
        }
    }
    if count == 0 {
        errors.required(at, "must specify a handler type");
    }
}

/// A port's number or name.
pub(super) fn port(at: &Cursor<'_>, errors: &mut Errors) {
    match at.value {
        Value::Number(number) => {
            errors.problems(at, words::port_number(number.as_i64().unwrap_or_default()));
        }
        Value::String(name) => errors.problems(at, words::port_name(name)),
        _ => errors.required(at, ""),
    }
}
