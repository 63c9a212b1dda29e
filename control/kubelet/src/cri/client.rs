//! Calls of CRI over a unix socket.
//!
//! One HTTP/2 connection carries all calls at once; it is dialled on first use and again after it
//! broke, so a restart of the runtime shows only as failed calls meanwhile.

use std::path::Path;
use std::time::Duration;

use bowline_api::chain::chain;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// Answers larger than this are refused: a node's full container list fits several times.
const MAX_ANSWER: usize = 64 << 20;
/// How long a call that only reads or starts something may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// A connection to a gRPC server on a unix socket.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
}

/// The socket's path can't be put into an address.
#[derive(Debug, thiserror::Error)]
#[error("{path} can't be the address of a runtime's socket")]
pub struct BadSocket {
    path: String,
    source: tonic::transport::Error,
}

impl Client {
    /// Dials nothing yet.
    pub fn new(socket: &Path) -> Result<Self, BadSocket> {
        let path = socket.display().to_string();
        let endpoint = Endpoint::from_shared(format!("unix://{path}"))
            .map_err(|source| BadSocket { path, source })?;
        Ok(Self { channel: endpoint.connect_lazy() })
    }

    /// One call of `method` (`/package.Service/Method`), given up after `timeout`.
    pub async fn unary<Q, A>(
        &self,
        method: &'static str,
        request: Q,
        timeout: Duration,
    ) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let call = async {
            grpc.ready().await.map_err(|e| Status::unavailable(chain(&e)))?;
            let codec: ProstCodec<Q, A> = ProstCodec::default();
            grpc.unary(Request::new(request), PathAndQuery::from_static(method), codec).await
        };
        match tokio::time::timeout(timeout, call).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!("{method}: no answer in {timeout:?}"))),
        }
    }

    /// Opens the stream of answers of `method`.
    pub async fn stream<Q, A>(
        &self,
        method: &'static str,
        request: Q,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        grpc.ready().await.map_err(|e| Status::unavailable(chain(&e)))?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let path = PathAndQuery::from_static(method);
        Ok(grpc.server_streaming(Request::new(request), path, codec).await?.into_inner())
    }
}
