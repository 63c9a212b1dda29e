//! Timestamps in the two forms that the API prints.

use jiff::Timestamp;
use jiff::fmt::strtime;

/// `2006-01-02T15:04:05Z`; `None` if the text is no RFC 3339 time.
pub(super) fn seconds(text: &str) -> Option<String> {
    format(text, "%Y-%m-%dT%H:%M:%SZ")
}

/// `2006-01-02T15:04:05.000000Z`; `None` if the text is no RFC 3339 time.
pub(super) fn micros(text: &str) -> Option<String> {
    format(text, "%Y-%m-%dT%H:%M:%S.%6fZ")
}

fn format(text: &str, format: &str) -> Option<String> {
    // jiff reads more than RFC 3339 (a space for the T, no zone, fractions of hours); the API doesn't.
    let bytes = text.as_bytes();
    if bytes.len() < "2006-01-02T15:04:05Z".len() || bytes[10] != b'T' || bytes[16] != b':' {
        return None;
    }
    let time: Timestamp = text.parse().ok()?;
    strtime::format(format, time).ok()
}
