//! Images: there already, or pulled.

use std::collections::HashMap;

use base64::Engine;
use bowline_api::events::Severity;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};

use crate::context::Context;
use crate::cri::v1::{AuthConfig, Image};
use crate::pod::view;

/// An image can't be had. The reason is the one that users see.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub reason: &'static str,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

fn policy(c: &Container, image: &str) -> Policy {
    match c.image_pull_policy.as_deref() {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some("IfNotPresent") => Policy::IfNotPresent,
        _ => {
            let last = image.rsplit('/').next().unwrap_or(image);
            let tagged =
                image.contains('@') || last.split_once(':').is_some_and(|(_, t)| t != "latest");
            if tagged { Policy::IfNotPresent } else { Policy::Always }
        }
    }
}

/// Makes sure that the image of `c` is on this node.
pub async fn ensure(ctx: &Context, pod: &Pod, c: &Container) -> Result<Image, Error> {
    let name = c.image.as_deref().unwrap_or_default();
    let event = |severity, reason: &str, message: String| {
        ctx.event(pod, Some(&c.name), severity, reason, message);
    };
    if name.trim().is_empty() || name.contains(char::is_whitespace) {
        let message =
            format!("Failed to apply default image tag {name:?}: couldn't parse image name");
        event(Severity::Warning, "InspectFailed", message.clone());
        return Err(Error { reason: "InvalidImageName", message });
    }
    let find = async || {
        let found = ctx.runtime.image(name).await;
        found.map_err(|e| Error { reason: "ImageInspectError", message: e.to_string() })
    };
    let policy = policy(c, name);
    if policy != Policy::Always
        && let Some(image) = find().await?
    {
        let message = format!("Container image \"{name}\" already present on machine");
        event(Severity::Normal, "Pulled", message);
        return Ok(image);
    }
    if policy == Policy::Never {
        let message =
            format!("Container image \"{name}\" is not present with pull policy of Never");
        event(Severity::Warning, "ErrImageNeverPull", message.clone());
        return Err(Error { reason: "ErrImageNeverPull", message });
    }
    event(Severity::Normal, "Pulling", format!("Pulling image \"{name}\""));
    let began = std::time::Instant::now();
    let auth = credentials(ctx, pod, name).await;
    if let Err(e) = ctx.runtime.pull_image(name, auth).await {
        let message = format!("failed to pull image \"{name}\": {e}");
        event(Severity::Warning, "Failed", message.clone());
        return Err(Error { reason: "ErrImagePull", message });
    }
    let took = began.elapsed();
    event(
        Severity::Normal,
        "Pulled",
        format!("Successfully pulled image \"{name}\" in {took:.3?}"),
    );
    let gone = || Error { reason: "ErrImagePull", message: format!("{name} is gone again") };
    find().await?.ok_or_else(gone)
}

/// Credentials for the registry of `image` from the pod's pull secrets.
async fn credentials(ctx: &Context, pod: &Pod, image: &str) -> Option<AuthConfig> {
    for reference in view::spec(pod).image_pull_secrets.iter().flatten() {
        let (uid, namespace) = (view::uid(pod), view::namespace(pod));
        let secret = ctx.objects.secrets.get(uid, namespace, &reference.name).await;
        if let Ok(Some(secret)) = secret
            && let Some(auth) = from_secret(&secret, image)
        {
            return Some(auth);
        }
    }
    None
}

#[derive(serde::Deserialize)]
struct DockerConfig {
    auths: HashMap<String, DockerAuth>,
}

#[derive(serde::Deserialize)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
}

/// The registry that an image name means.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

fn from_secret(secret: &Secret, image: &str) -> Option<AuthConfig> {
    let data = secret.data.as_ref()?.get(".dockerconfigjson")?;
    let config: DockerConfig = serde_json::from_slice(&data.0).ok()?;
    let wanted = registry(image);
    let (_, found) = config.auths.into_iter().find(|(server, _)| {
        let host = server.trim_start_matches("https://").trim_start_matches("http://");
        let host = host.split('/').next().unwrap_or_default();
        host == wanted || (wanted == "docker.io" && host.ends_with("docker.io"))
    })?;
    let mut auth = AuthConfig {
        username: found.username,
        password: found.password,
        identity_token: found.identitytoken,
        ..AuthConfig::default()
    };
    if auth.username.is_empty() && !found.auth.is_empty() {
        let plain = base64::engine::general_purpose::STANDARD.decode(found.auth).ok()?;
        let plain = String::from_utf8(plain).ok()?;
        let (user, password) = plain.split_once(':')?;
        (auth.username, auth.password) = (user.to_owned(), password.to_owned());
    }
    Some(auth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_without_a_fixed_tag_are_pulled_always() {
        let c = Container::default();
        assert_eq!(policy(&c, "busybox"), Policy::Always);
        assert_eq!(policy(&c, "busybox:latest"), Policy::Always);
        assert_eq!(policy(&c, "reg:5000/busybox"), Policy::Always);
        assert_eq!(policy(&c, "reg:5000/busybox:1"), Policy::IfNotPresent);
        assert_eq!(policy(&c, "busybox@sha256:00"), Policy::IfNotPresent);
    }

    #[test]
    fn credentials_are_those_of_the_images_registry() {
        let json = r#"{"auths":{"reg.example:5000":{"auth":"dTpw"},"https://index.docker.io/v1/":{"username":"d","password":"q"}}}"#;
        let data = [(".dockerconfigjson".to_owned(), k8s_openapi::ByteString(json.into()))];
        let secret = Secret { data: Some(data.into()), ..Secret::default() };
        let user = |image| from_secret(&secret, image).map(|a| (a.username, a.password));
        assert_eq!(user("reg.example:5000/a:1"), Some(("u".into(), "p".into())));
        assert_eq!(user("library/a"), Some(("d".into(), "q".into())));
        assert_eq!(user("other.example/a"), None);
    }
}
