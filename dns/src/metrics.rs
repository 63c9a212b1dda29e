//! Counters under the names that CoreDNS gives them, so that dashboards and alerts go on working.
//!
//! Plain cells: the worker has one thread, and a count costs it nothing.

use std::{cell::Cell, fmt::Write, time::Duration};

use hickory_proto::rr::RecordType;

use crate::{
    forward::{ForwardError, Forwarder},
    wire::Transport,
};

/// Types that are counted by name; any other counts as `other`, as in CoreDNS.
const TYPES: [(RecordType, &str); 10] = [
    (RecordType::A, "A"),
    (RecordType::AAAA, "AAAA"),
    (RecordType::SRV, "SRV"),
    (RecordType::PTR, "PTR"),
    (RecordType::TXT, "TXT"),
    (RecordType::CNAME, "CNAME"),
    (RecordType::MX, "MX"),
    (RecordType::NS, "NS"),
    (RecordType::SOA, "SOA"),
    (RecordType::HTTPS, "HTTPS"),
];
const CODES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
/// Upper bounds of the duration histogram in microseconds: CoreDNS's, less the longest.
const DURATIONS: [u64; 16] = [
    250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000,
    1_024_000, 2_048_000, 4_096_000, 8_192_000,
];

type Count = Cell<u64>;

/// Picks one pair of sums, by transport, out of the counts.
type Sums = fn(&ZoneCounts) -> &[Count; 2];

/// Counts of one part of the name space: the cluster's zone, or all else.
#[derive(Default)]
struct ZoneCounts {
    /// By transport and type; the last type is `other`.
    requests: [[Count; TYPES.len() + 1]; 2],
    codes: [Count; 16],
    durations: [Count; DURATIONS.len()],
    duration_sum: Cell<Duration>,
    request_bytes: [Count; 2],
    response_bytes: [Count; 2],
}

pub struct Metrics {
    zone: String,
    server: String,
    counts: [ZoneCounts; 2],
    malformed: Count,
    panics: Count,
    overload: Count,
    unanswered: Count,
}

/// What there is to count about one query.
pub struct Observed {
    pub transport: Transport,
    pub record_type: RecordType,
    pub in_zone: bool,
    pub code: u8,
    pub request_size: usize,
    pub response_size: usize,
    pub duration: Duration,
}

fn add(count: &Count, more: u64) {
    count.set(count.get() + more);
}

impl Metrics {
    /// `zone` as in `cluster.local.`, `server` as in `dns://:53`.
    pub fn new(zone: String, server: String) -> Self {
        Metrics {
            zone,
            server,
            counts: Default::default(),
            malformed: Cell::default(),
            panics: Cell::default(),
            overload: Cell::default(),
            unanswered: Cell::default(),
        }
    }

    pub fn malformed(&self) {
        add(&self.malformed, 1);
    }

    pub fn panicked(&self) {
        add(&self.panics, 1);
    }

    pub fn forward_failed(&self, error: &ForwardError) {
        let count = match error {
            ForwardError::Overload => &self.overload,
            ForwardError::NoUpstream | ForwardError::Unanswered => &self.unanswered,
        };
        add(count, 1);
    }

    pub fn observe(&self, observed: &Observed) {
        let counts = &self.counts[usize::from(!observed.in_zone)];
        let transport = observed.transport as usize;
        let record_type = TYPES
            .iter()
            .position(|(record_type, _)| *record_type == observed.record_type)
            .unwrap_or(TYPES.len());
        add(&counts.requests[transport][record_type], 1);
        add(&counts.codes[usize::from(observed.code & 0x0f)], 1);
        add(&counts.request_bytes[transport], observed.request_size as u64);
        add(&counts.response_bytes[transport], observed.response_size as u64);
        counts.duration_sum.set(counts.duration_sum.get() + observed.duration);
        let micros = observed.duration.as_micros();
        if let Some(bucket) = DURATIONS.iter().position(|bound| micros <= u128::from(*bound)) {
            add(&counts.durations[bucket], 1);
        }
    }

    /// The text exposition format. The forwarder keeps its own counts.
    pub fn render(&self, forwarder: &Forwarder) -> String {
        let mut text = String::new();
        head(&mut text, "coredns_build_info", "gauge", "Always 1; the label tells the version.");
        line(
            &mut text,
            "coredns_build_info",
            &format!("version=\"bowline-dns {}\"", env!("CARGO_PKG_VERSION")),
            1,
        );
        self.render_requests(&mut text);
        self.render_durations(&mut text);
        self.render_sizes(&mut text);
        let name = "coredns_forward_max_concurrent_rejects_total";
        head(&mut text, name, "counter", "Queries refused because too many were upstream.");
        line(&mut text, name, "", self.overload.get());
        let name = "bowline_dns_forward_unanswered_total";
        head(&mut text, name, "counter", "Queries that no upstream server answered.");
        line(&mut text, name, "", self.unanswered.get());
        let counts = &forwarder.counts;
        for (name, help, value) in [
            ("coredns_cache_hits_total", "Queries answered from the cache.", &counts.hits),
            ("coredns_cache_misses_total", "Queries that had to go upstream.", &counts.misses),
            ("coredns_cache_served_stale_total", "Answers past their time.", &counts.stale),
        ] {
            head(&mut text, name, "counter", help);
            line(&mut text, name, "", value.get());
        }
        let name = "coredns_cache_entries";
        head(&mut text, name, "gauge", "Answers in the cache.");
        line(&mut text, name, "", forwarder.cached_answers() as u64);
        let name = "coredns_panics_total";
        head(&mut text, name, "counter", "Queries that met a bug of this server.");
        line(&mut text, name, "", self.panics.get());
        let name = "bowline_dns_malformed_total";
        head(&mut text, name, "counter", "Queries that did not decode or are not served.");
        line(&mut text, name, "", self.malformed.get());
        text
    }

    /// The two parts with the labels that CoreDNS would give them.
    fn parts(&self) -> [(&ZoneCounts, String, &str); 2] {
        let labels = |zone: &str| format!("server=\"{}\",zone=\"{zone}\",view=\"\"", self.server);
        [
            (&self.counts[0], labels(&self.zone), "kubernetes"),
            (&self.counts[1], labels("."), "forward"),
        ]
    }

    fn render_requests(&self, text: &mut String) {
        let name = "coredns_dns_requests_total";
        head(text, name, "counter", "DNS queries per zone, transport and type.");
        for (counts, labels, _) in self.parts() {
            for (by_type, proto) in counts.requests.iter().zip(["udp", "tcp"]) {
                let names = TYPES.iter().map(|(_, name)| *name).chain(["other"]);
                for (count, record_type) in by_type.iter().zip(names).filter(|(c, _)| c.get() > 0) {
                    let labels =
                        format!("{labels},proto=\"{proto}\",family=\"1\",type=\"{record_type}\"");
                    line(text, name, &labels, count.get());
                }
            }
        }
        let name = "coredns_dns_responses_total";
        head(text, name, "counter", "DNS answers per zone and response code.");
        for (counts, labels, plugin) in self.parts() {
            for (code, count) in counts.codes.iter().enumerate().filter(|(_, c)| c.get() > 0) {
                let code = CODES.get(code).copied().unwrap_or("other");
                let labels = format!("{labels},rcode=\"{code}\",plugin=\"{plugin}\"");
                line(text, name, &labels, count.get());
            }
        }
    }

    fn render_durations(&self, text: &mut String) {
        let name = "coredns_dns_request_duration_seconds";
        head(text, name, "histogram", "Time that a query took.");
        for (counts, labels, _) in self.parts() {
            let mut so_far = 0;
            for (bound, count) in DURATIONS.iter().zip(&counts.durations) {
                so_far += count.get();
                let bound = Duration::from_micros(*bound).as_secs_f64();
                let labels = format!("{labels},le=\"{bound}\"");
                line(text, &format!("{name}_bucket"), &labels, so_far);
            }
            let total: u64 = counts.codes.iter().map(Cell::get).sum();
            line(text, &format!("{name}_bucket"), &format!("{labels},le=\"+Inf\""), total);
            let sum = counts.duration_sum.get().as_secs_f64();
            // Writing to a String can't fail.
            let _ = writeln!(text, "{name}_sum{{{labels}}} {sum}");
            line(text, &format!("{name}_count"), &labels, total);
        }
    }

    fn render_sizes(&self, text: &mut String) {
        let sizes: [(&str, Sums); 2] = [
            ("coredns_dns_request_size_bytes", |counts| &counts.request_bytes),
            ("coredns_dns_response_size_bytes", |counts| &counts.response_bytes),
        ];
        for (name, of) in sizes {
            head(text, name, "summary", "Bytes of queries or answers, per transport.");
            for (counts, labels, _) in self.parts() {
                for (at, proto) in ["udp", "tcp"].iter().enumerate() {
                    let labels = format!("{labels},proto=\"{proto}\"");
                    let count = counts.requests[at].iter().map(Cell::get).sum();
                    line(text, &format!("{name}_sum"), &labels, of(counts)[at].get());
                    line(text, &format!("{name}_count"), &labels, count);
                }
            }
        }
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String can't fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &str, value: u64) {
    // Writing to a String can't fail.
    let _ = if labels.is_empty() {
        writeln!(text, "{name} {value}")
    } else {
        writeln!(text, "{name}{{{labels}}} {value}")
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_counted_under_coredns_names() {
        let metrics = Metrics::new("cluster.local.".into(), "dns://:53".into());
        metrics.observe(&Observed {
            transport: Transport::Udp,
            record_type: RecordType::AAAA,
            in_zone: true,
            code: 3,
            request_size: 40,
            response_size: 100,
            duration: Duration::from_micros(300),
        });
        let forwarder = Forwarder::new(crate::upstream::Upstreams::new([])).expect("a forwarder");
        let text = metrics.render(&forwarder);
        let labels = "server=\"dns://:53\",zone=\"cluster.local.\",view=\"\"";
        for expected in [
            format!(
                "coredns_dns_requests_total{{{labels},proto=\"udp\",family=\"1\",type=\"AAAA\"}} 1"
            ),
            format!(
                "coredns_dns_responses_total{{{labels},rcode=\"NXDOMAIN\",plugin=\"kubernetes\"}} 1"
            ),
            format!("coredns_dns_request_duration_seconds_bucket{{{labels},le=\"0.00025\"}} 0"),
            format!("coredns_dns_request_duration_seconds_bucket{{{labels},le=\"0.0005\"}} 1"),
            format!("coredns_dns_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 1"),
            format!("coredns_dns_response_size_bytes_sum{{{labels},proto=\"udp\"}} 100"),
        ] {
            assert!(text.lines().any(|line| line == expected), "{expected}\nis not in\n{text}");
        }
    }
}
