//! The kernel's routes of ours: those with our protocol number, in the main table.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{NextHop, Route};

/// Marks our routes (`ip route show proto 196`); not one of the kernel's or a routing daemon's.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(196);

/// The metric of a route that counts only where there is no other.
const LAST_RESORT: u32 = 1 << 30;

#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    #[error("can't open a netlink socket")]
    Open { source: io::Error },
    #[error("can't list the routes")]
    List { source: rtnetlink::Error },
    #[error("can't add the route to {range} ({via:?}); the nodes must share a layer 2 network")]
    Add { range: IpNetwork, via: NextHop, source: rtnetlink::Error },
    #[error("can't delete the route to {range}")]
    Delete { range: IpNetwork, source: rtnetlink::Error },
}

/// Makes our routes equal to `wanted`; without `prune` nothing is deleted. Goes on after a failure
/// and returns the first.
pub(super) async fn sync(wanted: &BTreeSet<Route>, prune: bool) -> Result<(), RouteError> {
    with_handle(async |handle| {
        let present = list(&handle).await?;
        let mut result = Ok(());
        for route in wanted.iter().filter(|route| !present.iter().any(|(r, _)| r == *route)) {
            match handle.route().add(message(*route)).replace().execute().await {
                Ok(()) => tracing::info!(range = %route.range, via = ?route.via, "route added"),
                Err(source) => {
                    let Route { range, via } = *route;
                    result = result.and(Err(RouteError::Add { range, via, source }));
                }
            }
        }
        // Replaced routes are gone already; only ranges that nobody wants are deleted.
        let unwanted = |range: &IpNetwork| !wanted.iter().any(|route| route.range == *range);
        for (route, message) in present.into_iter().filter(|(r, _)| prune && unwanted(&r.range)) {
            let range = route.range;
            match handle.route().del(message).execute().await {
                Ok(()) => tracing::info!(%range, "route removed; its node is gone"),
                Err(source) => result = result.and(Err(RouteError::Delete { range, source })),
            }
        }
        result
    })
    .await
}

/// Deletes all of our routes.
pub async fn remove_all() -> Result<(), RouteError> {
    sync(&BTreeSet::new(), true).await
}

async fn with_handle<T>(
    act: impl AsyncFnOnce(Handle) -> Result<T, RouteError>,
) -> Result<T, RouteError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|source| RouteError::Open { source })?;
    let connection = tokio::spawn(connection);
    let result = act(handle).await;
    connection.abort();
    result
}

async fn list(handle: &Handle) -> Result<Vec<(Route, RouteMessage)>, RouteError> {
    let mut found = Vec::new();
    let all = [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ];
    for filter in all {
        let mut routes = handle.route().get(filter).execute();
        loop {
            let next = routes.try_next().await.map_err(|source| RouteError::List { source })?;
            let Some(message) = next else { break };
            if message.header.protocol == PROTOCOL
                && let Some(route) = parse(&message)
            {
                found.push((route, message));
            }
        }
    }
    Ok(found)
}

fn parse(message: &RouteMessage) -> Option<Route> {
    let address = |address: &RouteAddress| match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    };
    let (mut destination, mut gateway) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => destination = address(a),
            RouteAttribute::Gateway(a) => gateway = address(a),
            _ => {}
        }
    }
    let range = IpNetwork::new(destination?, message.header.destination_prefix_length).ok()?;
    let via = match message.header.kind {
        RouteType::Unreachable => NextHop::Nowhere,
        _ => NextHop::Node(gateway?),
    };
    Some(Route { range, via })
}

fn message(route: Route) -> RouteMessage {
    let mut message = match (route.range, route.via) {
        (IpNetwork::V4(range), NextHop::Node(IpAddr::V4(gateway))) => {
            v4(range.network(), range.prefix()).gateway(gateway).build()
        }
        (IpNetwork::V6(range), NextHop::Node(IpAddr::V6(gateway))) => {
            v6(range.network(), range.prefix()).gateway(gateway).build()
        }
        (IpNetwork::V4(range), _) => v4(range.network(), range.prefix()).build(),
        (IpNetwork::V6(range), _) => v6(range.network(), range.prefix()).build(),
    };
    if route.via == NextHop::Nowhere {
        message.header.kind = RouteType::Unreachable;
        // Behind any other route to the same range, such as that of another network's bridge.
        message.attributes.push(RouteAttribute::Priority(LAST_RESORT));
    }
    message
}

fn v4(network: Ipv4Addr, prefix: u8) -> RouteMessageBuilder<Ipv4Addr> {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(network, prefix)
        .protocol(PROTOCOL)
        .scope(RouteScope::Universe)
}

fn v6(network: Ipv6Addr, prefix: u8) -> RouteMessageBuilder<Ipv6Addr> {
    RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(network, prefix)
        .protocol(PROTOCOL)
        .scope(RouteScope::Universe)
}
