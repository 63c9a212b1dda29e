//! An apiserver in memory: lists in pages and watches of three kinds, and the ways in which real
//! ones fail.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;

type Body = BoxBody<Bytes, std::io::Error>;

/// Events that a slow watcher may be behind.
const BACKLOG: usize = 8_192;

#[derive(Clone)]
pub(crate) struct ApiServer {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<Message>,
    port: u16,
}

#[derive(Clone)]
enum Message {
    Event(Event),
    Break,
}

#[derive(Clone)]
struct Event {
    kind: String,
    revision: u64,
    line: Bytes,
}

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<(String, String, String), Value>,
    history: Vec<Event>,
    /// Watches from before this revision are refused as expired.
    compacted: u64,
    lists: BTreeMap<String, usize>,
    lies: Vec<String>,
    away: bool,
}

impl ApiServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let (events, _) = broadcast::channel(BACKLOG);
        let server = Self { state: Arc::default(), events, port };
        server.state.lock().expect("unpoisoned").revision = 100;
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = accepting.clone();
                let service = hyper::service::service_fn(move |request| {
                    let response = server.answer(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service),
                );
            }
        });
        server
    }

    pub(crate) fn url(&self) -> http::Uri {
        format!("http://127.0.0.1:{}", self.port).parse().expect("a URL")
    }

    pub(crate) fn set(&self, kind: &str, mut object: Value) {
        let mut state = self.state.lock().expect("unpoisoned");
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = (kind.to_owned(), text("namespace"), text("name"));
        let old = state.objects.insert(key, object.clone());
        self.publish(&mut state, kind, if old.is_some() { "MODIFIED" } else { "ADDED" }, &object);
    }

    pub(crate) fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let mut state = self.state.lock().expect("unpoisoned");
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        let mut object = state.objects.remove(&key).expect("it is there");
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        self.publish(&mut state, kind, "DELETED", &object);
    }

    /// Ends all watches in the middle.
    pub(crate) fn break_watches(&self) {
        let _nobody_watches = self.events.send(Message::Break);
    }

    /// While away, every request is answered with 503.
    pub(crate) fn set_away(&self, away: bool) {
        self.state.lock().expect("unpoisoned").away = away;
    }

    /// Forgets all events so far.
    pub(crate) fn compact(&self) {
        let mut state = self.state.lock().expect("unpoisoned");
        state.revision += 1;
        state.compacted = state.revision;
        state.history.clear();
    }

    /// The next list of this kind is empty.
    pub(crate) fn lie_once(&self, kind: &str) {
        self.state.lock().expect("unpoisoned").lies.push(kind.to_owned());
    }

    /// How many lists of this kind were begun.
    pub(crate) fn lists(&self, kind: &str) -> usize {
        self.state.lock().expect("unpoisoned").lists.get(kind).copied().unwrap_or(0)
    }

    fn publish(&self, state: &mut State, kind: &str, what: &str, object: &Value) {
        let line = json!({"type": what, "object": object}).to_string() + "\n";
        let event = Event { kind: kind.to_owned(), revision: state.revision, line: line.into() };
        state.history.push(event.clone());
        let _nobody_watches = self.events.send(Message::Event(event));
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let kind = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let query = request.uri().query().unwrap_or_default();
        let parameter = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let number = |name: &str| parameter(name).and_then(|value| value.parse::<u64>().ok());
        let mut state = self.state.lock().expect("unpoisoned");
        if state.away {
            return whole(503, &status(503, "ServiceUnavailable"));
        }
        if parameter("watch").is_some() {
            return self.watch(&state, kind, number("resourceVersion").unwrap_or(0));
        }
        let from = number("continue").unwrap_or(0) as usize;
        let limit = number("limit").unwrap_or(500) as usize;
        if from == 0 {
            *state.lists.entry(kind.clone()).or_default() += 1;
        }
        let lie = state.lies.iter().position(|lie| *lie == kind).map(|at| state.lies.remove(at));
        let all: Vec<&Value> = match lie {
            Some(_) => Vec::new(),
            None => {
                state.objects.iter().filter(|((k, ..), _)| *k == kind).map(|(_, o)| o).collect()
            }
        };
        let next = from + limit;
        let more = if next < all.len() { next.to_string() } else { String::new() };
        let page: Vec<&Value> = all.into_iter().skip(from).take(limit).collect();
        let metadata = json!({"resourceVersion": state.revision.to_string(), "continue": more});
        whole(200, &json!({"kind": "List", "metadata": metadata, "items": page}))
    }

    fn watch(&self, state: &State, kind: String, from: u64) -> Response<Body> {
        if from < state.compacted {
            return whole(410, &status(410, "Expired"));
        }
        let missed: Vec<Event> = state
            .history
            .iter()
            .filter(|event| event.kind == kind && event.revision > from)
            .cloned()
            .collect();
        let live = futures::stream::unfold(self.events.subscribe(), |mut events| async move {
            let message = events.recv().await.ok()?;
            Some((message, events))
        });
        let live = live
            .take_while(|message| {
                let broken = matches!(message, Message::Break);
                async move { !broken }
            })
            .filter_map(move |message| {
                let event = match message {
                    Message::Event(event) if event.kind == kind => Some(event),
                    _ => None,
                };
                async move { event }
            });
        let lines = futures::stream::iter(missed).chain(live);
        let frames = lines.map(|event| Ok(Frame::data(event.line)));
        // The end of a broken watch is an error in the middle of the body.
        let end = futures::stream::iter([Err(std::io::Error::other("broken on purpose"))]);
        Response::new(BodyExt::boxed(SyncBody::new(StreamBody::new(frames.chain(end)))))
    }
}

/// Bodies must be Sync to be boxed; this one is polled by one task only.
type SyncBody<B> = sync_body::SyncBody<B>;

mod sync_body {
    use std::pin::Pin;
    use std::sync::Mutex;
    use std::task::{Context, Poll};

    use hyper::body::{Body, Frame};

    pub(super) struct SyncBody<B>(Mutex<Pin<Box<B>>>);

    impl<B> SyncBody<B> {
        pub(super) fn new(body: B) -> Self {
            Self(Mutex::new(Box::pin(body)))
        }
    }

    impl<B: Body> Body for SyncBody<B> {
        type Data = B::Data;
        type Error = B::Error;

        fn poll_frame(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
            self.0.lock().expect("unpoisoned").as_mut().poll_frame(context)
        }
    }
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason,
           "reason": reason, "code": code})
}

fn whole(code: u16, body: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = hyper::StatusCode::from_u16(code).expect("a status");
    response
}
