//! What the agent says about itself: `/healthz`, `/livez`, `/readyz`; and to load balancers about
//! the Services that ask for a health check of their own.
//!
//! `/healthz` is what kube-proxy's is: 503 when a change stays unapplied for too long, or when the
//! node is about to go, so that load balancers drain it. `/livez` leaves the node out.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::dataplane::Report;
use crate::http::{self, Answer};
use crate::metrics::Metrics;
use crate::model::ObjectName;
use crate::writer::HealthCheck;

/// A change that is not in the maps after this long makes the node unhealthy (kube-proxy's time).
pub const UNAPPLIED_LIMIT: Duration = Duration::from_secs(60);

/// What the answers are made from.
#[derive(Clone)]
pub struct Health {
    pub report: watch::Receiver<Report>,
    /// Load balancers may send to this node.
    pub eligible: watch::Receiver<bool>,
    pub metrics: Arc<Metrics>,
}

impl Health {
    /// The answer to `path` on the health port.
    pub fn answer(&self, path: &str) -> Answer {
        let report = self.report.borrow().clone();
        let eligible = *self.eligible.borrow();
        let applied = is_applied(&report, Instant::now());
        match path {
            "/healthz" => {
                let status = if applied && eligible { 200 } else { 503 };
                self.metrics.healthz_answered(status);
                Answer::json(status, describe(&report, Some(eligible)))
            }
            "/livez" => {
                let status = if applied { 200 } else { 503 };
                self.metrics.livez_answered(status);
                Answer::json(status, describe(&report, None))
            }
            "/readyz" if report.synced => Answer::text(200, "ok\n"),
            "/readyz" => Answer::text(503, "not every source has synced yet\n"),
            _ => Answer::not_found(),
        }
    }

    /// The answer to `path` on the metrics port.
    pub fn metrics_answer(&self, path: &str) -> Answer {
        match path {
            "/metrics" => {}
            // kube-proxy has these two here; tools ask by them what a node's proxy is.
            "/proxyMode" => return Answer::text(200, "ebpf"),
            "/healthz" => return Answer::text(200, "ok"),
            _ => return Answer::not_found(),
        }
        let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        match self.metrics.encode() {
            Ok(body) => Answer { status: 200, content_type, body },
            Err(error) => Answer::text(500, format!("can't encode the metrics: {error}\n")),
        }
    }
}

/// Healthy while starting: the rules of the agent before us still stand.
fn is_applied(report: &Report, now: Instant) -> bool {
    report.pending_since.is_none_or(|since| {
        !report.synced || now.saturating_duration_since(since) < UNAPPLIED_LIMIT
    })
}

fn describe(report: &Report, eligible: Option<bool>) -> String {
    let mut body = serde_json::json!({
        "lastUpdated": report.updated.map(timestamp),
        "currentTime": timestamp(SystemTime::now()),
    });
    if let Some(eligible) = eligible {
        body["nodeEligible"] = eligible.into();
    }
    body.to_string()
}

/// RFC 3339 in UTC.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let days = (since.as_secs() / 86_400) as i64;
    // From days since 1970 to the proleptic Gregorian calendar, the year taken to begin in March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    let second = since.as_secs() % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
        since.subsec_micros()
    )
}

/// Serves the health checks of Services until it is dropped: 200 while an endpoint here is ready
/// and the agent is healthy.
pub async fn serve_checks(health: Health) {
    let mut report = health.report.clone();
    let mut running: BTreeMap<u16, Check> = BTreeMap::new();
    loop {
        let wanted = report.borrow_and_update().health_checks.clone();
        running.retain(|port, check| {
            let kept = wanted.iter().any(|w| w.port == *port && w.service == check.service);
            if !kept {
                check.task.abort();
            }
            kept
        });
        for check in wanted {
            match running.get(&check.port) {
                Some(present) => {
                    present.state.send_if_modified(|state| {
                        let changed = *state != check;
                        *state = check;
                        changed
                    });
                }
                None => {
                    let port = check.port;
                    running.extend(Check::start(check, &health).map(|new| (port, new)));
                }
            }
        }
        if report.changed().await.is_err() {
            return;
        }
    }
}

/// The server of one health check.
struct Check {
    service: ObjectName,
    state: watch::Sender<HealthCheck>,
    task: JoinHandle<()>,
}

impl Check {
    fn start(check: HealthCheck, health: &Health) -> Option<Self> {
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, check.port));
        let listener = http::listen(address)
            .or_else(|_| http::listen(SocketAddr::from(([0, 0, 0, 0], check.port))));
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(service = %check.service, %error, "no health check for a Service");
                return None;
            }
        };
        let service = check.service.clone();
        let (state, reader) = watch::channel(check);
        let health = health.clone();
        let task = tokio::spawn(http::serve(listener, move |_| {
            let healthy = is_applied(&health.report.borrow(), Instant::now());
            service_answer(&reader.borrow(), healthy)
        }));
        Some(Self { service, state, task })
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn service_answer(check: &HealthCheck, healthy: bool) -> Answer {
    let status = if check.local_ready > 0 && healthy { 200 } else { 503 };
    let body = serde_json::json!({
        "service": {"namespace": &*check.service.namespace, "name": &*check.service.name},
        "localEndpoints": check.local_ready,
        "serviceProxyHealthy": healthy,
    });
    Answer::json(status, body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_says() {
        let at = |seconds| timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000Z");
        assert_eq!(at(1_795_178_701), "2026-11-20T12:45:01.000000Z");
    }

    #[test]
    fn a_change_that_stays_unapplied_makes_the_node_unhealthy() {
        let start = Instant::now();
        let pending = Report { synced: true, pending_since: Some(start), ..Report::default() };
        assert!(is_applied(&pending, start + UNAPPLIED_LIMIT - Duration::from_millis(1)));
        assert!(!is_applied(&pending, start + UNAPPLIED_LIMIT));
        let starting = Report { synced: false, ..pending };
        assert!(is_applied(&starting, start + UNAPPLIED_LIMIT), "the old rules still stand");
    }

    #[test]
    fn a_leaving_node_is_alive_but_not_healthy() {
        let (_report, report) = watch::channel(Report::default());
        let (_eligible, eligible) = watch::channel(false);
        let health = Health { report, eligible, metrics: Arc::default() };
        assert_eq!(health.answer("/livez").status, 200);
        let answer = health.answer("/healthz");
        assert_eq!(answer.status, 503);
        assert!(answer.body.contains("\"nodeEligible\":false"), "{}", answer.body);
        assert_eq!(health.answer("/readyz").status, 503);
        assert_eq!(health.metrics_answer("/proxyMode").body, "ebpf");
        assert_eq!(health.metrics_answer("/metrics").status, 200);
        assert_eq!(health.metrics_answer("/").status, 404);
    }

    #[test]
    fn a_service_is_healthy_here_only_with_a_ready_endpoint_and_a_healthy_proxy() {
        let check = |local_ready| HealthCheck {
            service: ObjectName::new("default", "web"),
            port: 31000,
            local_ready,
        };
        assert_eq!(service_answer(&check(1), true).status, 200);
        assert_eq!(service_answer(&check(0), true).status, 503);
        assert_eq!(service_answer(&check(1), false).status, 503);
    }
}
