//! A container's log over HTTP.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};

use super::routes::{Query, flag};
use super::{Response, Server, text};
use crate::logs::read::{Options, Reader, Stream};
use crate::pod::news::Shown;
use crate::runtime::State;

/// Bytes read at once, and pieces that wait for the client.
const PIECE: usize = 32 << 10;
const PIECES: usize = 4;
/// How often a followed log is looked at.
const FOLLOW_PERIOD: Duration = Duration::from_millis(100);

/// Answers with the log of a container, or of its run before.
pub(super) async fn answer(
    server: &Server,
    (namespace, pod, container): (&str, &str, &str),
    query: &Query,
) -> Response {
    let Some(handle) = server.pods.find(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod {namespace}/{pod} does not exist here"));
    };
    let options = match options(query) {
        Ok(options) => options,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    if crate::pod::view::container(&handle.pod(), container).is_none() {
        let message = format!("container {container} not found in pod {pod}");
        return text(StatusCode::NOT_FOUND, message);
    }
    let shown = handle.shown();
    let mut runs = shown.runtime.containers.iter().filter(|c| c.name == container);
    let run = if flag(query, "previous") {
        runs.nth(1).ok_or_else(|| {
            format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")
        })
    } else {
        runs.next().ok_or_else(|| {
            format!(
                "container \"{container}\" in pod \"{pod}\" is waiting to start: {}",
                why(&shown, container)
            )
        })
    };
    let run = match run {
        Ok(run) => run,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let path = if run.log_path.is_empty() {
        let below = crate::make::container::log_path(&run.name, run.attempt);
        server.ctx.log_dir(&handle.pod()).join(below)
    } else {
        PathBuf::from(&run.log_path)
    };
    let follow = options.follow.then(|| (handle.watch(), run.id.clone()));
    let reader = match Reader::open(&path, options) {
        Ok(reader) => reader,
        Err(e) => {
            let message = format!("failed to open log file {}: {e}", path.display());
            return text(StatusCode::INTERNAL_SERVER_ERROR, message);
        }
    };
    let (to, from) = mpsc::channel(PIECES);
    tokio::spawn(send(reader, follow, to));
    let frames = futures::stream::unfold(from, |mut from| async move {
        from.recv().await.map(|piece: Bytes| (Ok::<_, std::io::Error>(Frame::data(piece)), from))
    });
    let mut response = http::Response::new(BodyExt::boxed(StreamBody::new(frames)));
    let kind = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

/// Why a container has not started, as its status says.
fn why(shown: &Shown, container: &str) -> String {
    let all = [&shown.status.container_statuses, &shown.status.init_container_statuses];
    let status = all.into_iter().flatten().flatten().find(|c| c.name == container);
    let waiting = status.and_then(|s| s.state.as_ref()?.waiting.as_ref()?.reason.clone());
    waiting.unwrap_or_else(|| "ContainerCreating".to_owned())
}

fn options(query: &Query) -> Result<Options, String> {
    let value = |name: &str| query.get(name).and_then(|v| v.first()).filter(|v| !v.is_empty());
    let number = |name: &str| match value(name) {
        Some(text) => text.parse().map(Some).map_err(|_| format!("{name}: {text:?} is no number")),
        None => Ok(None),
    };
    let since = match (value("sinceTime"), number("sinceSeconds")?) {
        (Some(time), _) => {
            Some(time.parse().map_err(|_| format!("sinceTime: {time:?} is no time"))?)
        }
        (None, Some(seconds)) => {
            let ago = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            Some(Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::MIN))
        }
        (None, None) => None,
    };
    Ok(Options {
        tail_lines: number("tailLines")?,
        since,
        limit_bytes: number("limitBytes")?,
        timestamps: flag(query, "timestamps"),
        follow: flag(query, "follow"),
        stream: match value("stream").map(String::as_str) {
            Some("Stdout") => Some(Stream::Stdout),
            Some("Stderr") => Some(Stream::Stderr),
            _ => None,
        },
    })
}

/// Reads until the end; with `follow`, until the container has ended and all is sent.
async fn send(
    mut reader: Reader,
    mut follow: Option<(watch::Receiver<Shown>, String)>,
    to: mpsc::Sender<Bytes>,
) {
    loop {
        // Asked before reading: what was written before an end that is seen here is read below.
        let ended = follow.as_ref().is_none_or(|(shown, id)| !is_running(&shown.borrow(), id));
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let Ok(more) = reader.fill(&mut piece, PIECE) else { return };
            if !piece.is_empty() && to.send(piece.into()).await.is_err() {
                return;
            }
            if !more {
                break;
            }
        }
        if ended || reader.is_full() {
            return;
        }
        let Some((shown, _)) = &mut follow else { return };
        tokio::select! {
            () = to.closed() => return,
            changed = shown.changed() => if changed.is_err() { follow = None },
            () = tokio::time::sleep(FOLLOW_PERIOD) => {}
        }
    }
}

fn is_running(shown: &Shown, id: &str) -> bool {
    shown.runtime.containers.iter().any(|c| c.id == id && c.state == State::Running)
}
