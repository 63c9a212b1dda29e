//! From a query's bytes to an answer's bytes: decode, answer from the view or ask upstream, encode.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use arc_swap::ArcSwapOption;
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{DNSClass, Name, Record},
};

use crate::{
    answer::{self, Outcome, Question, Reply},
    forward::Forwarder,
    metrics::{Metrics, Observed},
    view::ZoneView,
    wire::{self, Incoming, Transport},
    zone::Zone,
};

/// The current view; none until the sources have told everything once.
pub type SharedView = Arc<ArcSwapOption<ZoneView>>;

pub struct Resolver {
    zone: Zone,
    view: SharedView,
    forwarder: Forwarder,
    metrics: Rc<Metrics>,
}

/// How far a query got without waiting.
pub enum Step {
    Done(Vec<u8>),
    /// There is nothing to say.
    Ignore,
    /// The rest is [`Resolver::finish`]'s.
    Upstream(Pending),
}

/// A query whose answer, or the rest of it, is upstream's.
pub struct Pending {
    query: Box<Message>,
    transport: Transport,
    ask: Ask,
    started: Instant,
    size: usize,
}

enum Ask {
    /// The client's own bytes.
    AsIs(Vec<u8>),
    Target {
        chain: Vec<Record>,
        target: Name,
    },
}

impl Resolver {
    pub fn new(zone: Zone, view: SharedView, forwarder: Forwarder, metrics: Rc<Metrics>) -> Self {
        Resolver { zone, view, forwarder, metrics }
    }

    pub fn forwarder(&self) -> &Forwarder {
        &self.forwarder
    }

    /// Answers what can be answered at once.
    ///
    /// A bug that panics costs its own query only: the query stays in the socket until it is answered,
    /// and would kill every worker to come.
    pub fn start(&self, bytes: &[u8], transport: Transport) -> Step {
        let step = catch_unwind(AssertUnwindSafe(|| self.try_start(bytes, transport)));
        step.unwrap_or_else(|_| {
            self.metrics.panicked();
            wire::refuse(bytes, ResponseCode::ServFail).map_or(Step::Ignore, Step::Done)
        })
    }

    fn try_start(&self, bytes: &[u8], transport: Transport) -> Step {
        let started = Instant::now();
        let query = match wire::decode(bytes) {
            Incoming::Query(query) => query,
            Incoming::Ignore => return Step::Ignore,
            Incoming::Error(answer) => {
                self.metrics.malformed();
                return Step::Done(answer);
            }
        };
        let reply = match self.outcome(&query) {
            Outcome::Reply(reply) => reply,
            Outcome::Forward => {
                if let Some(answer) = self.forwarder.cached(bytes, transport) {
                    self.observe(&query, transport, false, bytes.len(), &answer, started);
                    return Step::Done(answer);
                }
                let ask = Ask::AsIs(bytes.to_vec());
                let size = bytes.len();
                return Step::Upstream(Pending { query, transport, ask, started, size });
            }
            Outcome::Follow { chain, target } => {
                let ask = Ask::Target { chain, target };
                let size = bytes.len();
                return Step::Upstream(Pending { query, transport, ask, started, size });
            }
        };
        let answer = wire::encode(&query, reply, transport);
        self.observe(&query, transport, true, bytes.len(), &answer, started);
        Step::Done(answer)
    }

    fn observe(
        &self,
        query: &Message,
        transport: Transport,
        in_zone: bool,
        request_size: usize,
        answer: &[u8],
        started: Instant,
    ) {
        self.metrics.observe(&Observed {
            transport,
            record_type: query.queries[0].query_type(),
            in_zone,
            code: answer.get(3).map_or(0, |byte| byte & 0x0f),
            request_size,
            response_size: answer.len(),
            duration: started.elapsed(),
        });
    }

    fn outcome(&self, query: &Message) -> Outcome {
        let asked = &query.queries[0];
        let error = |code| {
            Outcome::Reply(Reply {
                code,
                answers: vec![],
                additionals: vec![],
                authorities: vec![],
            })
        };
        if !matches!(asked.query_class(), DNSClass::IN | DNSClass::ANY) {
            return error(ResponseCode::Refused);
        }
        let question = Question { name: asked.name(), record_type: asked.query_type() };
        match self.view.load().as_deref() {
            Some(view) => answer::answer(&self.zone, view, question, query.id),
            // Nothing is known yet. What isn't the cluster's can be answered all the same.
            None => match answer::answer(&self.zone, &ZoneView::default(), question, query.id) {
                Outcome::Forward => Outcome::Forward,
                _ => error(ResponseCode::ServFail),
            },
        }
    }

    /// Asks upstream. Always comes to an answer, if only to SERVFAIL.
    pub async fn finish(&self, pending: Pending) -> Vec<u8> {
        let Pending { query, transport, ask, started, size } = pending;
        let answer = match ask {
            Ask::AsIs(bytes) => match self.forwarder.resolve(&bytes, transport).await {
                Ok(answer) => answer,
                Err(error) => {
                    self.metrics.forward_failed(&error);
                    wire::failed(&query, ResponseCode::ServFail)
                }
            },
            Ask::Target { chain, target } => {
                let reply = self.follow(&query, chain, target).await;
                wire::encode(&query, reply, transport)
            }
        };
        self.observe(&query, transport, false, size, &answer, started);
        answer
    }

    /// The records of an external name's target, behind the chain that leads to it.
    async fn follow(&self, query: &Message, chain: Vec<Record>, target: Name) -> Reply {
        let mut reply = Reply {
            code: ResponseCode::NoError,
            answers: chain,
            additionals: vec![],
            authorities: vec![],
        };
        let mut ask = Message::query();
        ask.metadata.recursion_desired = true;
        ask.add_query(Query::query(target, query.queries[0].query_type()));
        let Ok(bytes) = ask.to_vec() else {
            reply.code = ResponseCode::ServFail;
            return reply;
        };
        let mut upstream = self.forwarder.resolve(&bytes, Transport::Udp).await;
        if upstream.as_ref().is_ok_and(|answer| answer[2] & 0x02 != 0) {
            upstream = self.forwarder.resolve(&bytes, Transport::Tcp).await;
        }
        match upstream.map(|answer| Message::from_vec(&answer)) {
            Ok(Ok(answer)) => {
                reply.code = answer.response_code;
                reply.answers.extend(answer.answers);
                reply.authorities = answer.authorities;
            }
            Ok(Err(_)) => reply.code = ResponseCode::ServFail,
            Err(error) => {
                self.metrics.forward_failed(&error);
                reply.code = ResponseCode::ServFail;
            }
        }
        reply
    }
}
