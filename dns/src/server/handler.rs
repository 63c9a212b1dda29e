//! The seam to hickory-server: its requests go to the resolver, the resolver's answers to it.
//!
//! A [`RequestHandler`] may be called from any thread and the resolver lives in one, so a queue
//! lies between. The resolver's answers are bytes, as UDP and the cache have them; here they are
//! taken apart once more, which the few queries over streams can pay for.

use std::rc::Rc;

use hickory_proto::op::{Header, HeaderCounts, Message, Metadata, ResponseCode};
use hickory_server::{
    net::{NetError, runtime::Time},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_local,
};
use tracing::debug;

use super::tcp::CONNECTIONS_MAX;
use crate::{
    resolver::{Resolver, Step},
    wire::Transport,
};

/// Queries that wait for the resolver's turn. A connection has one at a time, so all have a place.
const WAITING_MAX: usize = CONNECTIONS_MAX;

struct Asked {
    query: Vec<u8>,
    answer: oneshot::Sender<Vec<u8>>,
}

/// Answers hickory-server's requests from the resolver.
#[derive(Clone)]
pub struct Handler {
    resolver: mpsc::Sender<Asked>,
}

impl Handler {
    /// To be called in the `LocalSet` in which `resolver` lives.
    pub fn new(resolver: Rc<Resolver>) -> Self {
        let (sender, mut waiting) = mpsc::channel::<Asked>(WAITING_MAX);
        spawn_local(async move {
            while let Some(asked) = waiting.recv().await {
                resolve(&resolver, asked);
            }
        });
        Handler { resolver: sender }
    }

    /// The answer to a query's bytes; `None` to what deserves none.
    pub async fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        self.resolver.send(Asked { query: query.to_vec(), answer }).await.ok()?;
        answered.await.ok()
    }
}

/// Answers at once what can be; the rest goes upstream beside the queries that follow.
fn resolve(resolver: &Rc<Resolver>, asked: Asked) {
    // Whoever asked may be gone by now, and wants no answer.
    match resolver.start(&asked.query, Transport::Tcp) {
        Step::Done(answer) => drop(asked.answer.send(answer)),
        Step::Ignore => {}
        Step::Upstream(pending) => {
            let resolver = Rc::clone(resolver);
            spawn_local(async move {
                drop(asked.answer.send(resolver.finish(pending).await));
            });
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let answer = self.answer(request.as_slice()).await;
        let Some(answer) = answer.and_then(|bytes| Message::from_vec(&bytes).ok()) else {
            return unanswered(request);
        };
        send(request, &answer, &mut response).await.unwrap_or_else(|error| {
            debug!(client = %request.src(), %error, "answering over TCP");
            unanswered(request)
        })
    }
}

async fn send<R: ResponseHandler>(
    request: &Request,
    answer: &Message,
    response: &mut R,
) -> Result<ResponseInfo, NetError> {
    let mut builder = MessageResponseBuilder::from_message_request(request);
    if let Some(edns) = &answer.edns {
        builder.edns(edns);
    }
    let message = builder.build(
        answer.metadata,
        &answer.answers,
        &answer.authorities,
        [],
        &answer.additionals,
    );
    response.send_response(message).await
}

/// What hickory-server is told of a query that got no answer.
fn unanswered(request: &Request) -> ResponseInfo {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = ResponseCode::ServFail;
    Header { metadata, counts: HeaderCounts::default() }.into()
}
