//! The process that answers: brings view, sockets and upstreams together, in one thread.
//!
//! It reads no query before its view is complete. If that takes longer than [`FRESH_MAX`], the last
//! view of its predecessor will do; without one, names of the cluster fail after [`SYNC_MAX`], and
//! others are forwarded. And it reads none before its predecessor is gone: the journal's
//! file is locked by the worker that serves, and the kernel lets go of the lock with its holder.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{StreamExt, stream::BoxStream};
use nix::fcntl::{Flock, FlockArg};
use tokio::{
    net::{TcpListener, UdpSocket},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::spawn_local,
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

use crate::{
    config::{Config, SourceKind, without_ipv6},
    forward::Forwarder,
    journal::{Journal, Left},
    metrics::Metrics,
    model::{Change, Model},
    resolver::{Resolver, SharedView},
    server::{
        handler::Handler,
        http::{self, Page, Pages},
        tcp,
        udp::UdpServer,
    },
    snapshot::Snapshot,
    source::{self, Source},
    supervisor,
    upstream::{Upstreams, nameservers, without_loops},
};

/// Queries wait this long, at most, for the first view.
pub const SYNC_MAX: Duration = Duration::from_secs(5);
/// ... or this long, if there is one of a former worker.
pub const FRESH_MAX: Duration = Duration::from_millis(100);
/// Views are stored for the next worker this often, at most.
const STORE_EVERY: Duration = Duration::from_secs(1);
/// Views follow one another no faster than this; changes in between go into one view.
const PUBLISH_GAP: Duration = Duration::from_millis(10);
/// Changes applied before others get their turn.
const CHANGES_MAX: usize = 1024;
/// How often to look whether the cluster's id is known.
const LOOK_FOR_ID: Duration = Duration::from_millis(500);
/// When told to stop, queries that are upstream get so much time to come back.
const DRAIN_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("can't use the sockets")]
    Sockets { source: io::Error },
    #[error("can't open the sockets")]
    Open(#[from] supervisor::SupervisorError),
    #[error("can't open the snapshot")]
    Snapshot { source: io::Error },
    #[error("can't take over the journal")]
    Journal { source: io::Error },
    #[error("can't listen on {address}/tcp for {what}")]
    Listen { what: &'static str, address: SocketAddr, source: io::Error },
    #[error("can't reach the cluster's API")]
    Client(#[from] bowline_api::client::ClientError),
    #[error("can't get random numbers")]
    Entropy { source: io::Error },
    #[error("can't take over signals")]
    Signals { source: io::Error },
    #[error("can't serve UDP")]
    Serve { source: io::Error },
}

/// Serves until SIGTERM or SIGINT. To be run in a `LocalSet` of a runtime with one thread.
pub async fn run(config: Config) -> Result<(), WorkerError> {
    let stop_signal = StopSignal::new()?;
    let (udp, tcp) = sockets(&config)?;
    let view = SharedView::default();
    let metrics = Rc::new(Metrics::new(
        config.zone.origin().to_ascii(),
        format!("dns://:{}", config.listen.port()),
    ));
    let forwarder = Forwarder::new(Upstreams::new(upstreams(&config)))
        .map_err(|source| WorkerError::Entropy { source })?;
    let resolver = Rc::new(Resolver::new(
        config.zone.clone(),
        Arc::clone(&view),
        forwarder,
        Rc::clone(&metrics),
    ));
    let (synced, mut is_synced) = watch::channel(false);
    let (stop, stopping) = watch::channel(false);
    let snapshot = supervisor::file_of(supervisor::SNAPSHOT_ENV)
        .transpose()
        .map_err(|source| WorkerError::Snapshot { source })?
        .map(|file| Arc::new(Snapshot::new(file)));
    spawn_local(follow(source(&config).await?.changes(), Arc::clone(&view), synced));
    serve_http(&config, &view, stopping.clone(), &resolver, metrics).await?;

    // (What `wait_for` returns holds the channel's lock, so it must not be kept.)
    let former = snapshot.as_ref().and_then(|snapshot| snapshot.load());
    let patience = if former.is_some() { FRESH_MAX } else { SYNC_MAX };
    let is_fresh = timeout(patience, is_synced.wait_for(|synced| *synced)).await.is_ok();
    if is_fresh {
        is_synced.mark_changed();
    } else {
        match former {
            Some(former) => {
                info!(services = former.len(), "going on with the last view of a former worker");
                view.store(Some(Arc::new(former)));
            }
            None => warn!("no view of the cluster after {patience:?}: its names fail until then"),
        }
    }
    if let Some(snapshot) = snapshot {
        spawn_local(keep(snapshot, Arc::clone(&view), is_synced));
    }
    let (_lock, journal, left) = take_over_journal().await?;
    let (ended, has_ended) = watch::channel(false);
    let server = UdpServer::new(udp, Rc::clone(&resolver), journal);
    server.take_up(left).await;
    info!("serving");
    spawn_local(check_for_loops(Arc::clone(&view), Rc::clone(&resolver)));
    spawn_local(tcp::serve(tcp, Handler::new(Rc::clone(&resolver)), has_ended.clone()));
    let serving = spawn_local(async move { server.serve(has_ended).await });

    stop_signal.received().await;
    info!(lameduck = ?config.lameduck, "stopping");
    // No receiver is a reason to fail here: all of them end with this process.
    let _ = stop.send(true);
    sleep(config.lameduck).await;
    let _ = ended.send(true);
    if let Ok(result) = serving.await {
        result.map_err(|source| WorkerError::Serve { source })?;
    }
    let drained = async {
        while resolver.forwarder().in_flight() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let _all_answered = timeout(DRAIN_MAX, drained).await;
    Ok(())
}

/// The supervisor's sockets, or our own where there is none.
fn sockets(config: &Config) -> Result<(UdpSocket, TcpListener), WorkerError> {
    let (udp, tcp) = match std::env::var_os(supervisor::JOURNAL_ENV) {
        None => supervisor::open(config.listen)?,
        Some(_) => {
            let inherited = || -> io::Result<(OwnedFd, OwnedFd)> {
                let udp = io::stdin().as_fd().try_clone_to_owned()?;
                Ok((udp, io::stdout().as_fd().try_clone_to_owned()?))
            };
            let (udp, tcp) = inherited().map_err(|source| WorkerError::Sockets { source })?;
            (udp.into(), tcp.into())
        }
    };
    let to_tokio = || {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?))
    };
    to_tokio().map_err(|source| WorkerError::Sockets { source })
}

type TakenOver = (Option<Flock<File>>, Option<Rc<Journal>>, Left);

/// Waits until no other worker serves, then reads what it left.
async fn take_over_journal() -> Result<TakenOver, WorkerError> {
    let failed = |source| WorkerError::Journal { source };
    let Some(file) = supervisor::file_of(supervisor::JOURNAL_ENV) else {
        return Ok((None, None, vec![]));
    };
    let file = file.map_err(failed)?;
    let notes = file.try_clone().map_err(failed)?;
    let lock = tokio::task::spawn_blocking(move || Flock::lock(file, FlockArg::LockExclusive))
        .await
        .map_err(|error| failed(io::Error::other(error)))?
        .map_err(|(_, errno)| failed(errno.into()))?;
    let (journal, left) = Journal::take_over(notes).map_err(failed)?;
    Ok((Some(lock), Some(journal), left))
}

async fn source(config: &Config) -> Result<Box<dyn Source>, WorkerError> {
    Ok(match &config.source {
        SourceKind::Directory(path) => Box::new(source::Directory::new(path.clone())),
        SourceKind::Cluster => {
            bowline_api::client::install_crypto();
            let client = bowline_api::client::connect(config.kubeconfig.as_deref()).await?;
            Box::new(source::Cluster::new(client))
        }
    })
}

/// Keeps the view up to date with what the source tells.
async fn follow(
    changes: BoxStream<'static, Change>,
    view: SharedView,
    synced: watch::Sender<bool>,
) {
    let mut model = Model::default();
    let mut serial = 0;
    let mut batches = changes.ready_chunks(CHANGES_MAX);
    while let Some(batch) = batches.next().await {
        batch.into_iter().for_each(|change| model.apply(change));
        if !model.is_synced() {
            continue;
        }
        // Serials grow over restarts as well, as long as clocks do.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        serial = u32::try_from(now).unwrap_or(u32::MAX).max(serial + 1);
        let mut next = model.view().clone();
        next.serial = serial;
        let services = next.len();
        view.store(Some(Arc::new(next)));
        // Sent each time: `keep` waits for it.
        if !synced.send_replace(true) {
            info!(services, "the view is complete");
        }
        sleep(PUBLISH_GAP).await;
    }
    warn!("the source has ended; the view stays as it is");
}

/// Once it is known which cluster this is, finds out which upstream servers lead back to it.
async fn check_for_loops(view: SharedView, resolver: Rc<Resolver>) {
    let cluster_id = loop {
        match view.load().as_deref() {
            Some(view) if !view.cluster_id.is_empty() => break Arc::clone(&view.cluster_id),
            _ => sleep(LOOK_FOR_ID).await,
        }
    };
    for upstream in resolver.forwarder().remove_loops(&cluster_id).await {
        error!(%upstream, "this upstream server leads back to this cluster's DNS: left out");
    }
}

/// Stores each view for the next worker, not too often.
async fn keep(snapshot: Arc<Snapshot>, view: SharedView, mut published: watch::Receiver<bool>) {
    while published.changed().await.is_ok() {
        if let Some(view) = view.load_full() {
            let snapshot = Arc::clone(&snapshot);
            let stored = tokio::task::spawn_blocking(move || snapshot.store(&view)).await;
            if let Ok(Err(error)) = stored {
                warn!(%error, "can't store the view for the next worker");
            }
        }
        sleep(STORE_EVERY).await;
    }
}

fn upstreams(config: &Config) -> Vec<SocketAddr> {
    let named = if config.upstreams.is_empty() {
        match fs::read_to_string(&config.resolv_conf) {
            Ok(text) => nameservers(&text),
            Err(error) => {
                let path = config.resolv_conf.display();
                warn!(%path, %error, "can't read the upstream servers");
                vec![]
            }
        }
    } else {
        config.upstreams.clone()
    };
    let own: HashSet<IpAddr> = nix::ifaddrs::getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
        })
        .collect();
    let (upstreams, loops) = without_loops(named, config.listen, &own);
    for upstream in loops {
        warn!(%upstream, "this upstream server is this server itself: left out");
    }
    if upstreams.is_empty() {
        warn!("there is no upstream server: only names of the cluster are answered");
    }
    upstreams
}

async fn serve_http(
    config: &Config,
    view: &SharedView,
    stopping: watch::Receiver<bool>,
    resolver: &Rc<Resolver>,
    metrics: Rc<Metrics>,
) -> Result<(), WorkerError> {
    let (view, resolver) = (Arc::clone(view), Rc::clone(resolver));
    let not_found = || Page::new(404, "404 page not found\n");
    let health = move |path: &str| match path {
        "/health" => Page::new(200, "OK"),
        _ => not_found(),
    };
    let ready = move |path: &str| match path {
        "/ready" if *stopping.borrow() => Page::new(503, "stopping\n"),
        "/ready" if view.load().is_none() => Page::new(503, "kubernetes\n"),
        "/ready" => Page::new(200, "OK"),
        _ => not_found(),
    };
    let metrics = move |path: &str| match path {
        "/metrics" => Page::new(200, metrics.render(resolver.forwarder())),
        _ => not_found(),
    };
    let pages: [(&str, SocketAddr, Pages); 3] = [
        ("health", config.health, Rc::new(health)),
        ("readiness", config.ready, Rc::new(ready)),
        ("metrics", config.metrics, Rc::new(metrics)),
    ];
    for (what, address, page_of) in pages {
        let listener = match (TcpListener::bind(address).await, without_ipv6(address)) {
            (Err(error), Some(v4)) if error.kind() != io::ErrorKind::AddrInUse => {
                TcpListener::bind(v4).await
            }
            (bound, _) => bound,
        };
        let listener = listener.map_err(|source| WorkerError::Listen { what, address, source })?;
        spawn_local(http::serve(listener, page_of));
    }
    Ok(())
}

/// SIGTERM and SIGINT. Made before anything else, or an early one would end the process at once.
struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignal {
    fn new() -> Result<Self, WorkerError> {
        let on = |kind| signal(kind).map_err(|source| WorkerError::Signals { source });
        Ok(StopSignal {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }

    async fn received(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
