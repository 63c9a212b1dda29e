//! Bootstrap tokens: `<id>.<secret>`, kept in Secrets `kube-system/bootstrap-token-<id>`.

use base64::Engine as _;
use serde_json::Value;

use super::User;
use crate::cache::Cache;
use crate::kinds;
use crate::object::text;

const ID_LENGTH: usize = 6;
/// Six characters, a dot, sixteen characters.
pub(super) const TOKEN_LENGTH: usize = ID_LENGTH + 1 + 16;
const GROUP: &str = "system:bootstrappers";

pub(super) fn check(cache: &Cache, token: &str) -> Option<User> {
    let (id, secret) = token.split_once('.').filter(|(id, _)| id.len() == ID_LENGTH)?;
    let well_formed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !id.chars().chain(secret.chars()).all(well_formed) {
        return None;
    }
    let key = format!("{}kube-system/bootstrap-token-{id}", kinds::prefix("", "secrets"));
    let stored = cache.get(&key)?.value();
    let valid = text(&stored, "/type") == "bootstrap.kubernetes.io/token"
        && data(&stored, "token-id").as_deref() == Some(id)
        && same(data(&stored, "token-secret")?.as_bytes(), secret.as_bytes())
        && data(&stored, "usage-bootstrap-authentication").as_deref() == Some("true")
        && !is_expired(data(&stored, "expiration").as_deref());
    if !valid || stored.pointer("/metadata/deletionTimestamp").is_some() {
        return None;
    }
    let mut user = User::new(format!("system:bootstrap:{id}"), &[GROUP]);
    let extra = data(&stored, "auth-extra-groups").unwrap_or_default();
    let allowed = |group: &&str| group.starts_with("system:bootstrappers:");
    user.groups.extend(extra.split(',').filter(allowed).map(str::to_owned));
    Some(user)
}

fn data(secret: &Value, name: &str) -> Option<String> {
    let encoded = secret.get("data")?.get(name)?.as_str()?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    String::from_utf8(decoded).ok()
}

/// A time that can't be read is over.
fn is_expired(expiration: Option<&str>) -> bool {
    expiration.is_some_and(|time| {
        time.parse::<jiff::Timestamp>().map_or(true, |time| time <= jiff::Timestamp::now())
    })
}

/// Compares without telling by its time where the first difference is.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |acc, (l, r)| acc | (l ^ r)) == 0
}
