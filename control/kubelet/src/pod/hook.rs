//! Lifecycle hooks: postStart and preStop.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use crate::probe::act::{self, Target};

/// Runs a hook for at most `limit`.
pub async fn run(
    target: &Target<'_>,
    hook: &LifecycleHandler,
    limit: Duration,
) -> Result<(), String> {
    let act = async {
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            act::run(target, command, limit).await.map_err(act::Failure::message)
        } else if let Some(get) = &hook.http_get {
            act::http_get(target, get, "kube-lifecycle/1.35").await
        } else if let Some(sleep) = &hook.sleep {
            let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(())
        } else if let Some(tcp) = &hook.tcp_socket {
            act::connect(target, tcp.host.as_deref(), &tcp.port).await
        } else {
            Ok(())
        }
    };
    match tokio::time::timeout(limit, act).await {
        Ok(result) => result,
        Err(_) => Err(format!("not done within {limit:?}")),
    }
}
