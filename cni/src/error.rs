//! Failures as the CNI protocol tells them: a code, what went wrong, and what to do about it.

use serde::Serialize;

/// Error codes of the CNI specification 1.1, section "Error", and our own from 100 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    IncompatibleVersion = 1,
    UnsupportedField = 2,
    UnknownContainer = 3,
    InvalidEnvironment = 4,
    IoFailure = 5,
    DecodeFailure = 6,
    InvalidConfig = 7,
    TryAgainLater = 11,
    /// STATUS and ADD: no further container can be attached (all addresses are in use).
    NotAvailable = 50,
    /// The kernel refused a change of links, addresses or routes.
    LinkFailure = 100,
    /// CHECK found a difference between what ADD made and what is there.
    CheckFailed = 101,
}

/// One act's failure, as it is printed on stdout for the runtime.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { ": " })]
pub struct Failure {
    pub code: Code,
    /// What failed, and where.
    pub msg: String,
    /// The cause, or what to do. May be empty.
    pub details: String,
}

impl Failure {
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Failure { code, msg: msg.into(), details: String::new() }
    }

    #[must_use]
    pub fn details(mut self, details: impl ToString) -> Self {
        self.details = details.to_string();
        self
    }

    /// The failure as the specification's JSON object.
    pub fn to_json(&self, cni_version: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            cni_version: &'a str,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        let wire =
            Wire { cni_version, code: self.code as u32, msg: &self.msg, details: &self.details };
        serde_json::to_string(&wire).expect("strings and a number always encode")
    }
}
