//! The join token: what an agent must know to enter a cluster.
//!
//! `ID.SECRET#CA-HASH`: a Kubernetes bootstrap token (`[a-z0-9]{6}.[a-z0-9]{16}`) that proves the
//! agent to the server, and the SHA-256 of the cluster's CA certificate, in hex, that proves the
//! server to the agent.

use std::fmt;
use std::str::FromStr;

const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
const HASH_LENGTH: usize = 64;
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A parsed join token. Its `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub id: String,
    pub secret: String,
    /// None: the server's certificate is trusted at first sight. Only a token typed by hand lacks it.
    pub ca_hash: Option<String>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a join token: it looks like abcdef.0123456789abcdef#<64 hex digits>; copy it whole from \
     `bowline token` on the server"
)]
pub struct InvalidToken;

impl JoinToken {
    /// A new random token for the cluster whose CA has this hash.
    pub fn generate(ca_hash: String) -> Self {
        let text = random_text(ID_LENGTH + SECRET_LENGTH);
        let (id, secret) = text.split_at(ID_LENGTH);
        Self { id: id.to_owned(), secret: secret.to_owned(), ca_hash: Some(ca_hash) }
    }

    /// What goes into the `Authorization: Bearer` header.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

impl FromStr for JoinToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let (bearer, ca_hash) = match text.trim().split_once('#') {
            Some((bearer, hash)) => (bearer, Some(hash)),
            None => (text.trim(), None),
        };
        let (id, secret) = bearer.split_once('.').ok_or(InvalidToken)?;
        let plain = |part: &str, length| {
            part.len() == length && part.bytes().all(|byte| ALPHABET.contains(&byte))
        };
        let hex = |hash: &str| {
            hash.len() == HASH_LENGTH && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if !plain(id, ID_LENGTH) || !plain(secret, SECRET_LENGTH) || !ca_hash.is_none_or(hex) {
            return Err(InvalidToken);
        }
        Ok(Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
            ca_hash: ca_hash.map(str::to_ascii_lowercase),
        })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.secret)?;
        match &self.ca_hash {
            Some(hash) => write!(f, "#{hash}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}.<secret>)", self.id)
    }
}

fn random_text(length: usize) -> String {
    // 36 does not divide 256: bytes that would favour the first letters are thrown away.
    const FAIR: usize = 256 - 256 % ALPHABET.len();
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    let mut text = String::with_capacity(length);
    let mut bytes = [0; 64];
    while text.len() < length {
        random.fill(&mut bytes).expect("the kernel's random source answers");
        let fair = bytes.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < FAIR);
        let missing = length - text.len();
        text.extend(fair.take(missing).map(|byte| char::from(ALPHABET[byte % ALPHABET.len()])));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_token_reads_back_as_itself() {
        let token = JoinToken::generate("ab".repeat(32));
        assert_eq!(token.to_string().parse::<JoinToken>().unwrap(), token);
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in [
            "",
            "abcdef",
            "abcdef.0123456789abcde",
            "ABCDEF.0123456789abcdef",
            "abcdef.0123456789abcdef#12",
            "abcdef.0123456789abcdef#zz",
        ] {
            assert_eq!(text.parse::<JoinToken>(), Err(InvalidToken), "{text:?}");
        }
    }

    #[test]
    fn a_log_line_never_shows_the_secret() {
        let token: JoinToken = "abcdef.0123456789abcdef".parse().unwrap();
        assert!(!format!("{token:?}").contains("0123456789abcdef"));
    }
}
