//! The acts behind [`Action`](super::actions::Action): each runs beside the worker and reports once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_api::events::Severity;
use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use tokio_util::sync::CancellationToken;

use super::actions::Why;
use super::hook;
use super::view::{self, Role};
use crate::context::Context;
use crate::cri::v1::{Mount, NamespaceMode, PodSandboxConfig};
use crate::image;
use crate::make::{container, dns, env, hosts, sandbox, services};
use crate::probe::act::Target;
use crate::volume::{self, Ready};

/// A container gets this long for the stop signal even when its hook used up the grace period.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// The first list of services is waited for this long.
const SERVICES_LIMIT: Duration = Duration::from_secs(10);
/// A postStart hook may take this long.
const POST_START_LIMIT: Duration = Duration::from_secs(120);

/// Why a container did not start, in the words of the pod's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    pub reason: &'static str,
    pub message: String,
}

/// What a job says when it is over.
#[derive(Debug)]
pub enum Done {
    Setup(Result<Ready, String>),
    Sandbox(Result<(), String>),
    Start { name: String, result: Result<(), StartError> },
    Kill { id: String },
    Remove { id: String },
}

/// One pod and everything that its jobs need.
#[derive(Clone)]
pub struct Job {
    pub ctx: Arc<Context>,
    pub pod: Arc<Pod>,
}

fn text(error: &dyn std::error::Error) -> String {
    bowline_api::chain::chain(error)
}

impl Job {
    /// Folders, cgroup, volumes.
    pub async fn setup(&self) -> Result<Ready, String> {
        let (ctx, pod) = (&self.ctx, &self.pod);
        make_dir(&ctx.pod_dir(view::uid(pod)).join("containers"), 0o750)?;
        if let Err(e) = ctx.cgroups.ensure(pod) {
            let message = text(&e);
            ctx.event(pod, None, Severity::Warning, "FailedCreatePodContainer", message.clone());
            return Err(message);
        }
        match volume::setup(ctx, pod).await {
            Ok(ready) => Ok(ready),
            Err(e) => {
                let message = text(&e);
                ctx.event(pod, None, Severity::Warning, "FailedMount", message.clone());
                Err(message)
            }
        }
    }

    /// The sandbox's configuration, the same for every call about it.
    pub fn sandbox_config(&self, attempt: u32) -> PodSandboxConfig {
        let (ctx, pod) = (&self.ctx, &self.pod);
        let resolv = std::fs::read_to_string(&ctx.config.resolv_conf).unwrap_or_default();
        let cluster =
            dns::Cluster { servers: &ctx.config.cluster_dns, domain: &ctx.config.cluster_domain };
        let site = sandbox::Site {
            log_dir: ctx.log_dir(pod).display().to_string(),
            cgroup_parent: ctx.cgroups.path(pod),
            seccomp_root: ctx.seccomp_root(),
            dns: dns::config(pod, &cluster, &dns::ResolvConf::parse(&resolv)),
            cluster_domain: &ctx.config.cluster_domain,
            node_name: &ctx.config.node_name,
        };
        sandbox::config(pod, attempt, &site)
    }

    pub async fn run_sandbox(&self, attempt: u32) -> Result<(), String> {
        let (ctx, pod) = (&self.ctx, &self.pod);
        make_dir(&ctx.log_dir(pod), 0o755)?;
        ctx.cgroups.ensure(pod).map_err(|e| text(&e))?;
        let config = self.sandbox_config(attempt);
        let handler = self.runtime_handler().await?;
        if let Err(e) = ctx.runtime.run_sandbox(config, &handler).await {
            let message = format!("Failed to create pod sandbox: {e}");
            ctx.event(pod, None, Severity::Warning, "FailedCreatePodSandBox", message.clone());
            return Err(message);
        }
        Ok(())
    }

    /// The runtime's own name for the pod's runtime class.
    async fn runtime_handler(&self) -> Result<String, String> {
        let class = view::spec(&self.pod).runtime_class_name.as_deref().filter(|c| !c.is_empty());
        let Some(class) = class else { return Ok(String::new()) };
        let api: kube::Api<k8s_openapi::api::node::v1::RuntimeClass> =
            kube::Api::all(self.ctx.config.client.clone());
        api.get(class).await.map(|c| c.handler).map_err(|e| format!("runtime class {class}: {e}"))
    }

    /// Image, environment, mounts, container, start, postStart hook.
    pub async fn start(&self, start: Start, cancel: CancellationToken) -> Result<(), StartError> {
        let Some((role, spec)) = view::container(&self.pod, &start.name) else {
            let message = format!("the pod has no container called {}", start.name);
            return Err(StartError { reason: "CreateContainerConfigError", message });
        };
        let made = tokio::select! {
            () = cancel.cancelled() => return Err(canceled()),
            made = self.prepare(&start, &spec) => made?,
        };
        let (config, image_event) = made;
        let id = self.create_and_start(&start, &spec, config, image_event).await?;
        let hook = spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
        if let Some(hook) = hook.filter(|_| role != Role::Ephemeral) {
            let ip = start.ips.first().copied();
            let target = Target { runtime: &*self.ctx.runtime, id: &id, spec: &spec, ip };
            let result = tokio::select! {
                () = cancel.cancelled() => return Err(canceled()),
                result = hook::run(&target, hook, POST_START_LIMIT) => result,
            };
            if let Err(e) = result {
                let message = format!("PostStartHook failed: {e}");
                self.warn(&spec, "FailedPostStartHook", &message);
                let why = Why::Unknown;
                self.kill(&id, &spec.name, view::grace_period(&self.pod), &why, None).await;
                return Err(StartError { reason: "PostStartHookError", message });
            }
        }
        Ok(())
    }

    async fn prepare(
        &self,
        start: &Start,
        spec: &Spec,
    ) -> Result<(crate::cri::v1::ContainerConfig, PodSandboxConfig), StartError> {
        let (ctx, pod) = (&self.ctx, &self.pod);
        let image = image::ensure(ctx, pod, spec)
            .await
            .map_err(|e| StartError { reason: e.reason, message: e.message })?;
        let config_error = |message: String| {
            self.warn(spec, "Failed", &format!("Error: {message}"));
            StartError { reason: "CreateContainerConfigError", message }
        };
        let env = self.environment(spec, &start.ips).await.map_err(config_error)?;
        let managed = self.managed_files(start, spec).map_err(config_error)?;
        let inputs = container::Inputs {
            pod,
            container: spec,
            attempt: start.attempt,
            image: &image,
            env,
            volumes: &start.volumes,
            managed,
            seccomp_root: &ctx.seccomp_root(),
            node_memory: ctx.machine.memory,
            lowest_oom: ctx.machine.lowest_oom,
        };
        let (mut config, sub_paths) =
            container::config(&inputs).map_err(|e| config_error(text(&e)))?;
        for sub in sub_paths {
            let Some(root) = start.volumes.get(&sub.volume) else { continue };
            let real =
                volume::sub_path(Path::new(root), &sub.path).map_err(|e| config_error(text(&e)))?;
            let written = format!("{root}/{}", sub.path);
            for mount in config.mounts.iter_mut().filter(|m| m.host_path == written) {
                mount.host_path = real.display().to_string();
            }
        }
        let context = config.linux.as_mut().and_then(|l| l.security_context.as_mut());
        if let (Some(target), Some(context)) = (&start.target, context) {
            let namespaces = context.namespace_options.get_or_insert_default();
            namespaces.set_pid(NamespaceMode::Target);
            namespaces.target_id.clone_from(target);
        }
        Ok((config, self.sandbox_config(start.sandbox_attempt)))
    }

    async fn environment(&self, c: &Spec, ips: &[IpAddr]) -> Result<Vec<(String, String)>, String> {
        let (ctx, pod) = (&self.ctx, &self.pod);
        let (maps, secrets) = env::references(c);
        let (uid, namespace) = (view::uid(pod), view::namespace(pod));
        let mut objects = env::Objects::default();
        for name in maps {
            let found = ctx.objects.config_maps.get(uid, namespace, &name).await;
            if let Some(map) = found.map_err(|e| e.to_string())? {
                objects.config_maps.insert(name, map.data.clone().unwrap_or_default());
            }
        }
        for name in secrets {
            let found = ctx.objects.secrets.get(uid, namespace, &name).await;
            if let Some(secret) = found.map_err(|e| e.to_string())? {
                let data = secret.data.iter().flatten();
                let data = data.map(|(k, v)| (k.clone(), v.0.clone())).collect();
                objects.secrets.insert(name, data);
            }
        }
        let links = self.service_links(namespace).await?;
        env::environment(pod, c, &ctx.place(ips), &objects, &links).map_err(|e| text(&e))
    }

    /// Variables of the API server's service, and of the namespace's where the pod wants them.
    async fn service_links(&self, namespace: &str) -> Result<Vec<(String, String)>, String> {
        if self.ctx.config.standalone {
            return Ok(Vec::new());
        }
        let services = &self.ctx.objects.services;
        if tokio::time::timeout(SERVICES_LIMIT, services.synced()).await.is_err() {
            return Err("services have not yet been read at least once, cannot construct envvars"
                .to_owned());
        }
        let mut wanted = Vec::new();
        if view::spec(&self.pod).enable_service_links != Some(false) {
            wanted = services.in_namespace(namespace);
        }
        let master = bowline_api::informer::Key::new("default", "kubernetes");
        if namespace != "default" || wanted.is_empty() {
            wanted.extend(services.get(&master));
        }
        Ok(services::variables(wanted.iter().map(|s| &**s)))
    }

    /// Files that the kubelet writes and the container sees.
    fn managed_files(&self, start: &Start, c: &Spec) -> Result<Vec<Mount>, String> {
        let (ctx, pod) = (&self.ctx, &self.pod);
        let dir = ctx.pod_dir(view::uid(pod));
        let mut mounts = Vec::new();
        let mounted = |path: &str| c.volume_mounts.iter().flatten().any(|m| m.mount_path == path);
        if !mounted("/etc/hosts") {
            let path = dir.join("etc-hosts");
            let hosts = if view::host_network(pod) {
                let node = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
                hosts::node_network(pod, &node)
            } else {
                let config = self.sandbox_config(start.sandbox_attempt);
                let name = config.hostname.split('.').next().unwrap_or_default();
                hosts::own_network(pod, &start.ips, name, &ctx.config.cluster_domain)
            };
            if std::fs::read_to_string(&path).ok().as_deref() != Some(&hosts) {
                write(&path, hosts.as_bytes(), 0o644)?;
            }
            mounts.push(mount("/etc/hosts", &path));
        }
        let last_words =
            c.termination_message_path.as_deref().unwrap_or(container::TERMINATION_PATH);
        if !last_words.is_empty() {
            let path = termination_file(&dir, &c.name, start.attempt);
            if let Some(parent) = path.parent() {
                make_dir(parent, 0o755)?;
            }
            write(&path, b"", 0o666)?;
            mounts.push(mount(last_words, &path));
        }
        Ok(mounts)
    }

    async fn create_and_start(
        &self,
        start: &Start,
        spec: &Spec,
        config: crate::cri::v1::ContainerConfig,
        sandbox: PodSandboxConfig,
    ) -> Result<String, StartError> {
        let (ctx, pod) = (&self.ctx, &self.pod);
        let log = ctx.log_dir(pod).join(&config.log_path);
        if let Some(parent) = log.parent() {
            make_dir(parent, 0o755)
                .map_err(|message| StartError { reason: "CreateContainerError", message })?;
        }
        let id = ctx.runtime.create_container(&start.sandbox_id, config, sandbox).await;
        let id = id.map_err(|e| {
            self.warn(spec, "Failed", &format!("Error: {e}"));
            StartError { reason: "CreateContainerError", message: e.to_string() }
        })?;
        let name = Some(spec.name.as_str());
        let message = format!("Created container: {}", spec.name);
        ctx.event(pod, name, Severity::Normal, "Created", message);
        if let Err(e) = ctx.runtime.start_container(&id).await {
            self.warn(spec, "Failed", &format!("Error: {e}"));
            return Err(StartError { reason: "RunContainerError", message: e.to_string() });
        }
        ctx.event(
            pod,
            name,
            Severity::Normal,
            "Started",
            format!("Started container {}", spec.name),
        );
        self.link_log(spec, &id, &log);
        Ok(id)
    }

    /// The name under which log collectors look for this log.
    fn link_log(&self, c: &Spec, id: &str, log: &Path) {
        let Some(dir) = &self.ctx.config.container_log_dir else { return };
        let pod = &self.pod;
        let (name, namespace) = (view::name(pod), view::namespace(pod));
        let link = dir.join(format!("{name}_{namespace}_{}-{id}.log", c.name));
        if let Err(error) = std::os::unix::fs::symlink(log, &link) {
            tracing::debug!(link = %link.display(), %error, "the log's link could not be made");
        }
    }

    /// preStop hook, stop signal, grace, SIGKILL.
    pub async fn kill(&self, id: &str, name: &str, grace: i64, why: &Why, ip: Option<IpAddr>) {
        let (ctx, pod) = (&self.ctx, &self.pod);
        let message = match why {
            Why::PodEnds => format!("Stopping container {name}"),
            Why::SandboxLost => format!("Stopping container {name}: its sandbox is gone"),
            Why::Changed => {
                format!("Container {name} definition changed, will be restarted")
            }
            Why::Probe(kind, _) => {
                format!(
                    "Container {name} failed {} probe, will be restarted",
                    format!("{kind:?}").to_lowercase()
                )
            }
            Why::Unknown => format!("Stopping container {name} in an unknown state"),
        };
        ctx.event(pod, Some(name), Severity::Normal, "Killing", message);
        let mut grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let began = Instant::now();
        let spec = view::container(pod, name).map(|(_, c)| c);
        if let Some(spec) = &spec
            && let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
            && !grace.is_zero()
        {
            let target = Target { runtime: &*ctx.runtime, id, spec, ip };
            if let Err(e) = hook::run(&target, hook, grace).await {
                self.warn(spec, "FailedPreStopHook", &format!("PreStopHook failed: {e}"));
            }
            grace = grace.saturating_sub(began.elapsed()).max(LEAST_GRACE);
        }
        if let Err(error) = ctx.runtime.stop_container(id, grace).await
            && !error.is_not_found()
        {
            tracing::warn!(pod = view::folder(pod), name, %error, "the container did not stop");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn warn(&self, c: &Spec, reason: &str, message: &str) {
        self.ctx.event(&self.pod, Some(&c.name), Severity::Warning, reason, message);
    }
}

/// What a container is started with.
#[derive(Clone, Debug)]
pub struct Start {
    pub name: String,
    pub attempt: u32,
    pub sandbox_id: String,
    pub sandbox_attempt: u32,
    pub ips: Vec<IpAddr>,
    pub volumes: BTreeMap<String, String>,
    /// The container whose processes it is to see.
    pub target: Option<String>,
}

fn canceled() -> StartError {
    StartError { reason: "ContainerCreating", message: "the pod ends".to_owned() }
}

/// Where the container's last words are, on the node.
pub fn termination_file(pod_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_dir.join("containers").join(container).join(attempt.to_string())
}

fn mount(container_path: &str, host_path: &Path) -> Mount {
    Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.display().to_string(),
        ..Mount::default()
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), String> {
    let made = std::fs::create_dir_all(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)));
    made.map_err(|e| format!("create {}: {e}", path.display()))
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), String> {
    let written = std::fs::write(path, content)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)));
    written.map_err(|e| format!("write {}: {e}", path.display()))
}
