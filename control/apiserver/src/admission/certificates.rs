//! Who approves a certificate request, or signs one, must be allowed to for its signer
//! (CertificateApproval, CertificateSigning).

use serde_json::Value;

use crate::authz::Attributes;
use crate::object::text;
use crate::rest::Call;
use crate::status::{ApiError, ApiResult};

pub(super) fn check(call: &Call, old: &Value, new: &Value) -> ApiResult<()> {
    if call.kind.kind != "CertificateSigningRequest" {
        return Ok(());
    }
    let same = |pointer: &str| old.pointer(pointer) == new.pointer(pointer);
    let verb = match call.target.subresource.as_str() {
        "approval" => "approve",
        "status" if !(same("/status/certificate") && same("/status/conditions")) => "sign",
        _ => return Ok(()),
    };
    let signer = text(old, "/spec/signerName");
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    if may(call, verb, signer) || may(call, verb, &format!("{domain}/*")) {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName \"{signer}\"");
    Err(ApiError::refused(&call.kind, new, &why))
}

fn may(call: &Call, verb: &str, signer: &str) -> bool {
    let wanted = Attributes {
        verb: verb.to_owned(),
        group: "certificates.k8s.io".to_owned(),
        resource: "signers".to_owned(),
        name: signer.to_owned(),
        ..Attributes::default()
    };
    call.app.authz.allows(&call.user, &wanted).is_some()
}
