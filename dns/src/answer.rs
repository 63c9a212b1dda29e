//! The pure heart: a question and a view give an answer. Nothing here waits, locks or sends.
//!
//! Clauses are those of "Kubernetes DNS-Based Service Discovery" 1.1.0. Where it leaves a choice
//! (or real clients need another than its own), [`Zone`] has the option.

use std::net::IpAddr;

use hickory_proto::{
    op::ResponseCode,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, NS, PTR, SRV, TXT},
    },
};

use crate::{
    name::{self, ServiceName, Subject},
    view::{Endpoint, Port, Service, ZoneView},
    zone::{EmptyHeadless, PodRecords, Zone},
};

/// The version of the specification, as `dns-version` tells it.
pub const SPECIFICATION: &str = "1.1.0";

/// What the cluster's own servers say to the name of its loop check.
pub const LOOPED: &str = "this is the cluster that asks";

/// Names of our own that an external name may lead on to before the chain is given up.
const CHAIN_MAX: usize = 8;

/// What is asked, in the caller's spelling (answers keep its case).
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub name: &'a Name,
    pub record_type: RecordType,
}

/// An answer of the zone.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub additionals: Vec<Record>,
    /// The SOA, where the answer is negative.
    pub authorities: Vec<Record>,
}

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Reply(Reply),
    /// The name is not the cluster's: ask upstream, as it is.
    Forward,
    /// The cluster's part is `chain`, the rest of the answer is upstream's for `target`.
    Follow {
        chain: Vec<Record>,
        target: Name,
    },
}

/// Answers `question` from `view`. `seed` chooses where a list of several addresses begins, so
/// that clients that take the first spread over all.
pub fn answer(zone: &Zone, view: &ZoneView, question: Question<'_>, seed: u16) -> Outcome {
    let mut chain: Vec<Record> = vec![];
    let mut name = question.name.clone();
    for _ in 0..CHAIN_MAX {
        let asked = Question { name: &name, record_type: question.record_type };
        let found = match find(zone, view, asked) {
            Some(found) => found,
            None if chain.is_empty() => return Outcome::Forward,
            None => return Outcome::Follow { chain, target: name },
        };
        match found {
            Found::Alias(target) => {
                let data = RData::CNAME(CNAME(target.clone()));
                chain.push(Record::from_rdata(name, zone.ttl, data));
                if matches!(question.record_type, RecordType::CNAME | RecordType::ANY) {
                    return Outcome::Reply(positive(chain, vec![]));
                }
                name = target;
            }
            found => return Outcome::Reply(conclude(zone, view, chain, found, seed)),
        }
    }
    // A loop of external names within the cluster.
    Outcome::Reply(Reply {
        code: ResponseCode::ServFail,
        answers: chain,
        additionals: vec![],
        authorities: vec![],
    })
}

/// What one name holds of the type that is asked for.
enum Found {
    Records {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    Alias(Name),
    /// The name exists (it, or one below it, holds records), but has none of the type.
    NoData,
    NoName,
}

fn positive(answers: Vec<Record>, additionals: Vec<Record>) -> Reply {
    Reply { code: ResponseCode::NoError, answers, additionals, authorities: vec![] }
}

fn conclude(
    zone: &Zone,
    view: &ZoneView,
    mut chain: Vec<Record>,
    found: Found,
    seed: u16,
) -> Reply {
    let code = match found {
        Found::Records { mut answers, additionals } if !answers.is_empty() => {
            let start = usize::from(seed) % answers.len();
            answers.rotate_left(start);
            chain.append(&mut answers);
            return positive(chain, additionals);
        }
        Found::NoName => ResponseCode::NXDomain,
        _ => ResponseCode::NoError,
    };
    let authorities = vec![zone.soa(view.serial)];
    Reply { code, answers: chain, additionals: vec![], authorities }
}

/// `None`: the name is not ours to answer.
fn find(zone: &Zone, view: &ZoneView, question: Question<'_>) -> Option<Found> {
    let exists = |exists: bool| if exists { Found::NoData } else { Found::NoName };
    Some(match name::parse(zone, question.name) {
        Subject::Outside => return None,
        Subject::LoopCheck(id) if *id == *view.cluster_id => {
            let text = RData::TXT(TXT::new(vec![LOOPED.into()]));
            of_type(zone, question, vec![(RecordType::TXT, text)])
        }
        Subject::LoopCheck(_) => return None,
        Subject::Reverse(address) => return reverse(zone, view, question, address),
        Subject::Nothing => Found::NoName,
        Subject::Branch => Found::NoData,
        Subject::Apex => apex(zone, view, question),
        Subject::DnsVersion => {
            let text = RData::TXT(TXT::new(vec![SPECIFICATION.into()]));
            of_type(zone, question, vec![(RecordType::TXT, text)])
        }
        Subject::NameServer => {
            let (namespace, name) = &zone.dns_service;
            match view.service(namespace, name) {
                Some(service) => addresses(zone, question, &host_addresses(service)),
                None => Found::NoData,
            }
        }
        Subject::Namespace(namespace) => exists(view.has_namespace(&namespace)),
        Subject::PodNamespace(namespace) => {
            exists(zone.pod_records != PodRecords::Disabled && view.has_namespace(&namespace))
        }
        Subject::Pod(_, address) => match zone.pod_records {
            PodRecords::Disabled => Found::NoName,
            PodRecords::Insecure => addresses(zone, question, &[address]),
        },
        Subject::Service(name) => match view.service(&name.namespace, &name.name) {
            Some(service) => of_service(zone, question, &name, service),
            None => Found::NoName,
        },
        Subject::Endpoint(name, hostname) => match view.service(&name.namespace, &name.name) {
            Some(service) => of_endpoint(zone, question, service, &hostname),
            None => Found::NoName,
        },
        Subject::Protocol(name, protocol) => {
            let service = view.service(&name.namespace, &name.name);
            exists(service.is_some_and(|service| {
                ports(service).any(|port| *port.protocol == *protocol && !port.name.is_empty())
            }))
        }
        Subject::Port(name, port, protocol) => match view.service(&name.namespace, &name.name) {
            Some(service) => srv(zone, question, &name, service, |p| {
                *p.name == *port && *p.protocol == *protocol && !p.name.is_empty()
            }),
            None => Found::NoName,
        },
    })
}

fn apex(zone: &Zone, view: &ZoneView, question: Question<'_>) -> Found {
    let name_server = RData::NS(NS(zone.name_of(&["ns", "dns"])));
    let soa = zone.soa(view.serial).data;
    of_type(zone, question, vec![(RecordType::SOA, soa), (RecordType::NS, name_server)])
}

fn reverse(zone: &Zone, view: &ZoneView, question: Question<'_>, address: IpAddr) -> Option<Found> {
    let owners = view.owners(address);
    if owners.is_empty() {
        return zone.owns(address).then_some(Found::NoName);
    }
    let names = owners.iter().map(|owner| {
        let mut labels: Vec<&str> = vec![&owner.service, &owner.namespace, "svc"];
        labels.splice(0..0, owner.hostname.as_deref());
        (RecordType::PTR, RData::PTR(PTR(zone.name_of(&labels))))
    });
    Some(of_type(zone, question, names.collect()))
}

fn of_service(zone: &Zone, question: Question<'_>, name: &ServiceName, service: &Service) -> Found {
    match service {
        Service::External { target } => Found::Alias(target.clone()),
        Service::Headless { endpoints }
            if endpoints.is_empty() && zone.empty_headless == EmptyHeadless::Nxdomain =>
        {
            Found::NoName
        }
        // As CoreDNS does, beyond the specification: all ports under the service's own name.
        _ if question.record_type == RecordType::SRV => {
            match srv(zone, question, name, service, |_| true) {
                Found::NoName => Found::NoData,
                found => found,
            }
        }
        _ => addresses(zone, question, &host_addresses(service)),
    }
}

fn of_endpoint(zone: &Zone, question: Question<'_>, service: &Service, hostname: &str) -> Found {
    let Service::Headless { endpoints } = service else { return Found::NoName };
    let own: Vec<IpAddr> = endpoints
        .iter()
        .filter(|endpoint| *endpoint.hostname == *hostname)
        .map(|endpoint| endpoint.address)
        .collect();
    if own.is_empty() { Found::NoName } else { addresses(zone, question, &own) }
}

fn host_addresses(service: &Service) -> Vec<IpAddr> {
    match service {
        Service::ClusterIp { addresses, .. } => addresses.clone(),
        Service::Headless { endpoints } => {
            endpoints.iter().map(|endpoint| endpoint.address).collect()
        }
        Service::External { .. } => vec![],
    }
}

fn ports(service: &Service) -> Box<dyn Iterator<Item = &Port> + '_> {
    match service {
        Service::ClusterIp { ports, .. } => Box::new(ports.iter()),
        Service::Headless { endpoints } => {
            Box::new(endpoints.iter().flat_map(|endpoint| endpoint.ports.iter()))
        }
        Service::External { .. } => Box::new(std::iter::empty()),
    }
}

/// SRV records of the ports that `wanted` takes, with their targets' addresses beside them.
fn srv(
    zone: &Zone,
    question: Question<'_>,
    name: &ServiceName,
    service: &Service,
    wanted: impl Fn(&Port) -> bool,
) -> Found {
    let own = [name.name.as_str(), name.namespace.as_str(), "svc"];
    // Each target with its port and addresses.
    let mut targets: Vec<(Name, u16, Vec<IpAddr>)> = vec![];
    match service {
        Service::External { target } => return Found::Alias(target.clone()),
        Service::ClusterIp { addresses, ports } => {
            let target = zone.name_of(&own);
            let ports = ports.iter().filter(|port| wanted(port));
            targets.extend(ports.map(|port| (target.clone(), port.number, addresses.clone())));
        }
        Service::Headless { endpoints } => {
            for Endpoint { hostname, address, ports } in endpoints {
                let target = || zone.name_of(&[hostname, own[0], own[1], own[2]]);
                let ports = ports.iter().filter(|port| wanted(port));
                targets.extend(ports.map(|port| (target(), port.number, vec![*address])));
            }
        }
    }
    if targets.is_empty() {
        return Found::NoName;
    }
    if !matches!(question.record_type, RecordType::SRV | RecordType::ANY) {
        return Found::NoData;
    }
    let weight = u16::try_from(100 / targets.len().min(100)).unwrap_or(1);
    let (mut answers, mut additionals) = (vec![], vec![]);
    for (target, port, addresses) in targets {
        let record = |data| Record::from_rdata(question.name.clone(), zone.ttl, data);
        let data = RData::SRV(SRV::new(0, weight, port, target.clone()));
        // One hostname may have an address of each family, in two slices.
        if !answers.iter().any(|record: &Record| record.data == data) {
            answers.push(record(data));
        }
        for address in addresses {
            let record = Record::from_rdata(target.clone(), zone.ttl, host(address));
            if !additionals.contains(&record) {
                additionals.push(record);
            }
        }
    }
    Found::Records { answers, additionals }
}

fn host(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

fn addresses(zone: &Zone, question: Question<'_>, addresses: &[IpAddr]) -> Found {
    let typed = addresses.iter().map(|address| {
        let record_type = if address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
        (record_type, host(*address))
    });
    of_type(zone, question, typed.collect())
}

/// Of the records that a name has, those of the type that is asked for.
fn of_type(zone: &Zone, question: Question<'_>, all: Vec<(RecordType, RData)>) -> Found {
    let mut answers: Vec<Record> = vec![];
    for (record_type, data) in all {
        let wanted = [record_type, RecordType::ANY].contains(&question.record_type);
        if wanted && !answers.iter().any(|record| record.data == data) {
            answers.push(Record::from_rdata(question.name.clone(), zone.ttl, data));
        }
    }
    if answers.is_empty() { Found::NoData } else { Found::Records { answers, additionals: vec![] } }
}

#[cfg(test)]
mod tests;
