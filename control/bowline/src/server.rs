//! `bowline server`: the whole control plane in one process.
//!
//! ```text
//! PKI, token, kubeconfigs (files) -> apiserver (TLS) <- controllers, scheduler, manifests (clients)
//! ```
//!
//! If a part ends, the process ends with an error and its supervisor (systemd, or a local node's
//! init) starts it anew: state is in the store only.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bowline_api::{client, names};
use ipnetwork::IpNetwork;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::addresses;
use crate::durable;
use crate::huge_pages;
use crate::kubeconfig;
use crate::manifests;
use crate::notify;
use crate::pki::{self, Identity, Pki};
use crate::token::JoinToken;

/// Manifests that `bowline server` itself brings; `--disable NAME` leaves one out.
const ADD_ONS: [(&str, &str); 2] = [
    ("proxy", include_str!("../../../deploy/proxy.yaml")),
    ("dns", include_str!("../../../deploy/dns.yaml")),
];
const RETRY: Duration = Duration::from_millis(100);
const READY_POLL: Duration = Duration::from_millis(10);

const EXAMPLES: &str = "\
Examples:
  bowline server                                        with all data in /var/lib/bowline/server
  bowline server --tls-san k8s.example.com              also reached by this name
  bowline server --node-monitor-grace 10 --disable dns  quicker about lost nodes; with a DNS of your own
  kubectl --kubeconfig /var/lib/bowline/server/kubeconfig get nodes

What lies in DATA-DIR/manifests (*.yaml, *.json) is applied, and again when it changes.";

/// Settings of the control plane.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ServerArgs {
    /// Where the database, the certificates and the manifests are kept
    #[arg(long, default_value = "/var/lib/bowline/server", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Address under which nodes reach this server [default: the one with the default route]
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// Port of the apiserver
    #[arg(long, default_value_t = 6443)]
    pub port: u16,
    /// Further names and addresses that the server's certificate is to hold
    #[arg(long, value_name = "NAME|IP")]
    pub tls_san: Vec<String>,
    /// Range of pod addresses; give one for each IP family
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNetwork>,
    /// Range of service addresses; give one for each IP family, the default family first
    #[arg(long, default_value = "10.96.0.0/16", value_name = "CIDR", value_delimiter = ',')]
    pub service_cidr: Vec<IpNetwork>,
    /// DNS domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Seconds of silence after which a node counts as lost
    #[arg(long, default_value_t = 40, value_name = "SECONDS")]
    pub node_monitor_grace: u64,
    /// Add-ons that are not wanted
    #[arg(long, value_name = "NAME", value_parser = ["proxy", "dns"])]
    pub disable: Vec<String>,
    /// Also leave the administrator's kubeconfig here
    #[arg(long, value_name = "FILE")]
    pub write_kubeconfig: Option<PathBuf>,
    /// Also leave the join token here
    #[arg(long, value_name = "FILE")]
    pub write_token: Option<PathBuf>,
}

/// Runs the control plane until `shutdown`.
pub async fn run(args: ServerArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    client::install_crypto();
    huge_pages::turn_off();
    let advertise = match args.advertise_address.or_else(addresses::outward) {
        Some(address) => address,
        None => bail!(
            "this machine has no default route, so no address that nodes could use; name one by \
             --advertise-address"
        ),
    };
    usable(&args.data_dir)?;
    let pki = Pki::open(&args.data_dir.join("tls"))?;
    prepare_certificates(&pki, &args, advertise)?;
    let token = ensure_token(&args.data_dir, &pki)?;
    if let Some(path) = &args.write_token {
        durable::write(path, format!("{token}\n").as_bytes(), durable::SECRET)
            .with_context(|| format!("can't write {}", path.display()))?;
    }
    write_kubeconfigs(&pki, &args, advertise)?;
    write_add_ons(&args)?;

    let apiserver = bowline_apiserver::Server::bind(apiserver_config(&pki, &args, advertise)?)
        .await
        .context("can't start the apiserver")?;
    info!(address = %apiserver.local_addr(), %advertise, "the apiserver listens");

    let mut parts = JoinSet::new();
    let stop = shutdown.clone();
    parts.spawn(async move { apiserver.serve(stop).await.context("apiserver") });
    let admin = client::connect(Some(&pki.path("loopback.kubeconfig"))).await?;
    tokio::select! {
        () = ready(&admin) => {
            notify::ready();
            spawn_clients(&mut parts, admin, &pki, &args, advertise, token, &shutdown).await?;
        }
        () = shutdown.cancelled() => {}
        // The apiserver ended before it was ready: why is told below.
        Some(ended) = parts.join_next() => {
            parts.spawn(async move { ended.context("the apiserver panicked")? });
        }
    }
    supervise(parts, shutdown).await
}

/// Makes the data folder, and finds out at once whether this user may write there.
fn usable(data_dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(data_dir)
        .and_then(|()| {
            nix::unistd::access(data_dir, nix::unistd::AccessFlags::W_OK).map_err(Into::into)
        })
        .with_context(|| {
            format!(
                "can't write to {}: run this as root, or name a folder of yours by --data-dir",
                data_dir.display()
            )
        })
}

/// Waits until the apiserver has its caches, roles and namespaces.
async fn ready(admin: &kube::Client) {
    loop {
        let asked = http::Request::get("/readyz").body(Vec::new());
        if let Ok(request) = asked
            && admin.request_text(request).await.is_ok()
        {
            return;
        }
        tokio::time::sleep(READY_POLL).await;
    }
}

/// Waits for the first part to end. That is an error unless shutdown was asked for.
async fn supervise(
    mut parts: JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    while let Some(ended) = parts.join_next().await {
        let ended = ended.context("a part of the control plane panicked").and_then(|part| part);
        match ended {
            Ok(()) if shutdown.is_cancelled() => {}
            Ok(()) => outcome = Err(anyhow::anyhow!("a part of the control plane ended by itself")),
            Err(error) => outcome = Err(error),
        }
        shutdown.cancel();
    }
    outcome
}

fn prepare_certificates(pki: &Pki, args: &ServerArgs, advertise: IpAddr) -> anyhow::Result<()> {
    let mut ips = vec![advertise, IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    // The first address of each service range is the Service `default/kubernetes`.
    ips.extend(args.service_cidr.iter().filter_map(|range| range.iter().nth(1)));
    let domain = &args.cluster_domain;
    let mut dns: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
            .map(str::to_owned)
            .into();
    dns.push(format!("kubernetes.default.svc.{domain}"));
    for san in &args.tls_san {
        match san.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => dns.push(san.clone()),
        }
    }
    Ok(pki.prepare_apiserver(&ips, &dns)?)
}

/// The cluster's join token, kept in the file `token` of the data folder.
pub fn ensure_token(data_dir: &Path, pki: &Pki) -> anyhow::Result<JoinToken> {
    let path = data_dir.join("token");
    match fs::read_to_string(&path) {
        Ok(text) => text.parse().with_context(|| format!("{} is damaged", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let token = JoinToken::generate(pki.ca_hash()?);
            durable::write(&path, format!("{token}\n").as_bytes(), durable::SECRET)
                .with_context(|| format!("can't write {}", path.display()))?;
            Ok(token)
        }
        Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
    }
}

fn url(address: IpAddr, port: u16) -> String {
    format!("https://{}", SocketAddr::new(address, port))
}

fn write_kubeconfigs(pki: &Pki, args: &ServerArgs, advertise: IpAddr) -> anyhow::Result<()> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut files = vec![
        (pki.path("controllers.kubeconfig"), pki::CONTROLLER_MANAGER, loopback),
        (pki.path("scheduler.kubeconfig"), pki::SCHEDULER, loopback),
        (pki.path("loopback.kubeconfig"), pki::ADMIN, loopback),
        (args.data_dir.join("kubeconfig"), pki::ADMIN, advertise),
    ];
    if let Some(path) = &args.write_kubeconfig {
        files.push((path.clone(), pki::ADMIN, advertise));
    }
    for (path, identity, address) in files {
        let text = admin_kubeconfig(pki, identity, &url(address, args.port))?;
        durable::write(&path, text.as_bytes(), durable::SECRET)
            .with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(())
}

/// A kubeconfig for `identity`, with a certificate of its own.
pub fn admin_kubeconfig(pki: &Pki, identity: Identity, server: &str) -> anyhow::Result<String> {
    let pair = pki.client(identity)?;
    Ok(kubeconfig::with_certificate(server, &pki.ca().cert, identity.user, &pair))
}

fn write_add_ons(args: &ServerArgs) -> anyhow::Result<()> {
    let folder = args.data_dir.join("manifests");
    fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    for (name, text) in ADD_ONS {
        let path = folder.join(format!("bowline-{name}.yaml"));
        if args.disable.iter().any(|disabled| disabled == name) {
            continue;
        }
        if fs::read_to_string(&path).ok().as_deref() != Some(text) {
            durable::write(&path, text.as_bytes(), durable::PUBLIC)
                .with_context(|| format!("can't write {}", path.display()))?;
        }
    }
    Ok(())
}

fn apiserver_config(
    pki: &Pki,
    args: &ServerArgs,
    advertise: IpAddr,
) -> anyhow::Result<bowline_apiserver::Config> {
    let read = |file: &str| {
        let path = pki.path(file);
        fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))
    };
    Ok(bowline_apiserver::Config {
        listen: SocketAddr::new(any_address(), args.port),
        advertise_address: advertise,
        data_dir: args.data_dir.join("db"),
        tls: bowline_apiserver::Tls {
            cert_pem: read("apiserver.crt")?,
            key_pem: read("apiserver.key")?,
            ca_pem: read("ca.crt")?,
            kubelet_client_cert_pem: read("kubelet-client.crt")?,
            kubelet_client_key_pem: read("kubelet-client.key")?,
        },
        service_accounts: bowline_apiserver::ServiceAccounts {
            issuer: format!("https://kubernetes.default.svc.{}", args.cluster_domain),
            signing_key_pem: read("sa.key")?,
            public_keys_pem: vec![read("sa.pub")?],
        },
        service_cidrs: args.service_cidr.clone(),
        node_ports: 30000..=32767,
        cluster_domain: args.cluster_domain.clone(),
        limits: bowline_apiserver::Limits::default(),
    })
}

/// The wildcard of both families, or of IPv4 alone where the kernel has no IPv6.
fn any_address() -> IpAddr {
    let both = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    match std::net::UdpSocket::bind((both, 0)) {
        Ok(_) => both,
        Err(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

async fn spawn_clients(
    parts: &mut JoinSet<anyhow::Result<()>>,
    admin: kube::Client,
    pki: &Pki,
    args: &ServerArgs,
    advertise: IpAddr,
    token: JoinToken,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let (folder, stop) = (args.data_dir.join("manifests"), shutdown.clone());
    let facts = Facts {
        server: SocketAddr::new(advertise, args.port),
        cluster_cidrs: args.cluster_cidr.clone(),
        token,
    };
    parts.spawn(async move {
        publish_until_done(&admin, &facts, &stop).await;
        manifests::run(admin, folder, stop).await;
        Ok(())
    });

    let client = client::connect(Some(&pki.path("controllers.kubeconfig"))).await?;
    let mut config = bowline_controllers::Config::new(client);
    config.cluster_cidrs = args.cluster_cidr.clone();
    config.node_monitor_grace = Duration::from_secs(args.node_monitor_grace);
    config.ca = Some(bowline_controllers::CertificateAuthority {
        certificate_pem: pki.ca().cert.clone(),
        key_pem: pki.ca().key.clone(),
    });
    let stop = shutdown.clone();
    parts.spawn(async move { Ok(bowline_controllers::run(config, stop).await?) });

    let client = client::connect(Some(&pki.path("scheduler.kubeconfig"))).await?;
    let stop = shutdown.clone();
    parts.spawn(async move {
        Ok(bowline_scheduler::run(bowline_scheduler::Config::new(client), stop).await?)
    });
    Ok(())
}

/// What only this process knows, and the cluster must.
struct Facts {
    server: SocketAddr,
    cluster_cidrs: Vec<IpNetwork>,
    token: JoinToken,
}

/// Tells the cluster the [`Facts`], as a Secret for joining nodes and a ConfigMap for the add-ons.
async fn publish_until_done(client: &kube::Client, facts: &Facts, shutdown: &CancellationToken) {
    while let Err(error) = publish(client, facts).await {
        debug!("the apiserver does not take the bootstrap objects yet: {error}");
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn publish(client: &kube::Client, facts: &Facts) -> Result<(), kube::Error> {
    let Facts { server, cluster_cidrs, token } = facts;
    let cidrs: Vec<String> = cluster_cidrs.iter().map(ToString::to_string).collect();
    let params = PatchParams::apply(names::MANAGER).force();
    let metadata = |name: String| ObjectMeta { name: Some(name), ..ObjectMeta::default() };
    let text = |value: &str| ByteString(value.as_bytes().to_vec());
    let secret = Secret {
        metadata: metadata(format!("bootstrap-token-{}", token.id)),
        type_: Some("bootstrap.kubernetes.io/token".to_owned()),
        data: Some(
            [
                ("token-id", text(&token.id)),
                ("token-secret", text(&token.secret)),
                ("usage-bootstrap-authentication", text("true")),
                ("usage-bootstrap-signing", text("true")),
            ]
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
        ),
        ..Secret::default()
    };
    let name = secret.metadata.name.clone().unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    secrets.patch(&name, &params, &Patch::Apply(&secret)).await?;

    let config = ConfigMap {
        metadata: metadata(names::CLUSTER_CONFIG_MAP.to_owned()),
        data: Some(
            [
                ("KUBERNETES_SERVICE_HOST", server.ip().to_string()),
                ("KUBERNETES_SERVICE_PORT", server.port().to_string()),
                ("CLUSTER_CIDR", cidrs.join(",")),
            ]
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
        ),
        ..ConfigMap::default()
    };
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    config_maps.patch(names::CLUSTER_CONFIG_MAP, &params, &Patch::Apply(&config)).await?;
    Ok(())
}
