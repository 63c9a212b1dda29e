//! The gRPC health check (grpc.health.v1), over plain HTTP/2.

use std::net::{IpAddr, SocketAddr};

use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use bowline_api::chain::chain;

const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Answer {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks the server on `port` whether `service` is being served.
pub(super) async fn check(ip: Option<IpAddr>, port: i32, service: &str) -> Result<(), String> {
    let ip = ip.ok_or("the pod has no address yet")?;
    let port = u16::try_from(port).map_err(|e| e.to_string())?;
    let address = format!("http://{}", SocketAddr::new(ip, port));
    let endpoint = Endpoint::from_shared(address).map_err(|e| chain(&e))?;
    let channel = endpoint.connect().await.map_err(|e| chain(&e))?;
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|e| chain(&e))?;
    let codec: ProstCodec<Request, Answer> = ProstCodec::default();
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let request = tonic::Request::new(Request { service: service.to_owned() });
    let answer = grpc.unary(request, path, codec).await;
    match answer.map_err(|s| format!("{}: {}", s.code(), s.message()))?.into_inner().status {
        SERVING => Ok(()),
        other => Err(format!("service {service:?} is in state {other}, not SERVING")),
    }
}
