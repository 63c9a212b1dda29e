//! Deployments, sets, jobs, autoscalers.

use serde_json::Value;

use super::Cells;
use super::age;
use super::cell::{NONE, Row, UNKNOWN, labels, scalar, selector, text_of};

pub(super) fn layout(kind: &str) -> Option<(&'static str, Cells)> {
    Some(match kind {
        "Deployment" => {
            ("Name|Ready|Up-to-date#|Available#|Age|Containers+|Images+|Selector+", deployment)
        }
        "ReplicaSet" => {
            ("Name|Desired#|Current#|Ready#|Age|Containers+|Images+|Selector+", replica_set)
        }
        "ReplicationController" => {
            ("Name|Desired#|Current#|Ready#|Age|Containers+|Images+|Selector+", controller)
        }
        "DaemonSet" => (
            "Name|Desired#|Current#|Ready#|Up-to-date#|Available#|Node Selector|Age|Containers+\
             |Images+|Selector+",
            daemon_set,
        ),
        "StatefulSet" => ("Name|Ready|Age|Containers+|Images+", stateful_set),
        "Job" => ("Name|Status|Completions|Duration|Age|Containers+|Images+|Selector+", job),
        "CronJob" => (
            "Name|Schedule|Timezone|Suspend|Active#|Last Schedule|Age|Containers+|Images+|Selector+",
            cron_job,
        ),
        "HorizontalPodAutoscaler" => {
            ("Name|Reference|Targets|MinPods|MaxPods#|Replicas#|Age", autoscaler)
        }
        "ControllerRevision" => ("Name|Controller|Revision#|Age", revision),
        "PodTemplate" => ("Name|Containers|Images|Pod Labels", pod_template),
        "Scale" => ("Name|Desired#|Available#|Age", |row| {
            vec![
                row.name(),
                row.number("/spec/replicas").into(),
                row.number("/status/replicas").into(),
                row.age(),
            ]
        }),
        _ => return None,
    })
}

/// Names and images of the containers under a pod spec.
fn containers(row: &Row<'_>, spec: &str) -> [Value; 2] {
    let list = row.list(&format!("{spec}/containers"));
    let all = |key: &str| list.iter().map(|c| text_of(c, key)).collect::<Vec<_>>().join(",").into();
    [all("name"), all("image")]
}

const TEMPLATE: &str = "/spec/template/spec";

fn with_containers(row: &Row<'_>, mut cells: Vec<Value>) -> Vec<Value> {
    cells.extend(containers(row, TEMPLATE));
    cells
}

fn with_selector(row: &Row<'_>, cells: Vec<Value>) -> Vec<Value> {
    let mut cells = with_containers(row, cells);
    cells.push(selector(row.at("/spec/selector")).into());
    cells
}

fn deployment(row: &Row<'_>) -> Vec<Value> {
    let ready = format!("{}/{}", row.number("/status/readyReplicas"), row.number("/spec/replicas"));
    let cells = vec![
        row.name(),
        ready.into(),
        row.number("/status/updatedReplicas").into(),
        row.number("/status/availableReplicas").into(),
        row.age(),
    ];
    with_selector(row, cells)
}

fn replicas(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        row.number("/spec/replicas").into(),
        row.number("/status/replicas").into(),
        row.number("/status/readyReplicas").into(),
        row.age(),
    ]
}

fn replica_set(row: &Row<'_>) -> Vec<Value> {
    with_selector(row, replicas(row))
}

fn controller(row: &Row<'_>) -> Vec<Value> {
    let mut cells = with_containers(row, replicas(row));
    cells.push(labels(row.at("/spec/selector").as_object()).into());
    cells
}

fn daemon_set(row: &Row<'_>) -> Vec<Value> {
    let cells = vec![
        row.name(),
        row.number("/status/desiredNumberScheduled").into(),
        row.number("/status/currentNumberScheduled").into(),
        row.number("/status/numberReady").into(),
        row.number("/status/updatedNumberScheduled").into(),
        row.number("/status/numberAvailable").into(),
        labels(row.at("/spec/template/spec/nodeSelector").as_object()).into(),
        row.age(),
    ];
    with_selector(row, cells)
}

fn stateful_set(row: &Row<'_>) -> Vec<Value> {
    let ready = format!("{}/{}", row.number("/status/readyReplicas"), row.number("/spec/replicas"));
    with_containers(row, vec![row.name(), ready.into(), row.age()])
}

fn job(row: &Row<'_>) -> Vec<Value> {
    let is = |condition: &str| row.condition(condition) == "True";
    let status = if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if !row.at("/metadata/deletionTimestamp").is_null() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    let succeeded = row.number("/status/succeeded");
    let parallelism = row.number("/spec/parallelism");
    let completions = match row.at("/spec/completions").as_i64() {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let started = age::seconds(row.text("/status/startTime"));
    let ended = age::seconds(row.text("/status/completionTime")).unwrap_or(row.now);
    let duration = started.map(|s| age::human(ended - s)).unwrap_or_default();
    let cells = vec![row.name(), status.into(), completions.into(), duration.into(), row.age()];
    with_selector(row, cells)
}

fn cron_job(row: &Row<'_>) -> Vec<Value> {
    let suspend = if row.at("/spec/suspend") == true { "True" } else { "False" };
    let mut cells = vec![
        row.name(),
        row.text("/spec/schedule").into(),
        row.or("/spec/timeZone", NONE),
        suspend.into(),
        row.list("/status/active").len().into(),
        row.since("/status/lastScheduleTime", NONE).into(),
        row.age(),
    ];
    cells.extend(containers(row, "/spec/jobTemplate/spec/template/spec"));
    cells.push(selector(row.at("/spec/jobTemplate/spec/selector")).into());
    cells
}

fn autoscaler(row: &Row<'_>) -> Vec<Value> {
    let reference = row.at("/spec/scaleTargetRef");
    let minimum = row.at("/spec/minReplicas");
    vec![
        row.name(),
        format!("{}/{}", text_of(reference, "kind"), text_of(reference, "name")).into(),
        targets(row).into(),
        if minimum.is_null() { "<unset>".into() } else { scalar(minimum).into() },
        row.number("/spec/maxReplicas").into(),
        row.number("/status/currentReplicas").into(),
        row.age(),
    ]
}

/// `cpu: 20%/80%, ...`: the current value of each metric against its target.
fn targets(row: &Row<'_>) -> String {
    if !row.at("/spec/targetCPUUtilizationPercentage").is_null() {
        let current = row.at("/status/currentCPUUtilizationPercentage");
        let current =
            if current.is_null() { UNKNOWN.to_owned() } else { format!("{}%", scalar(current)) };
        return format!(
            "cpu: {current}/{}%",
            scalar(row.at("/spec/targetCPUUtilizationPercentage"))
        );
    }
    const SHOWN: usize = 2;
    let metrics = row.list("/spec/metrics");
    if metrics.is_empty() {
        return NONE.to_owned();
    }
    let statuses = row.list("/status/currentMetrics");
    let texts: Vec<String> =
        metrics.iter().enumerate().map(|(i, m)| metric(m, statuses.get(i))).collect();
    let shown = texts.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if texts.len() > SHOWN { format!("{shown} + {} more...", texts.len() - SHOWN) } else { shown }
}

fn metric(spec: &Value, status: Option<&Value>) -> String {
    let kind = text_of(spec, "type");
    let mut chars = kind.chars();
    let field: String =
        chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default();
    let source = &spec[&field];
    let current = status.and_then(|s| s[&field].get("current"));
    let value = |of: Option<&Value>| -> Option<String> {
        let of = of?;
        if let Some(percent) = of.get("averageUtilization").and_then(Value::as_i64) {
            return Some(format!("{percent}%"));
        }
        ["averageValue", "value"].iter().find_map(|k| of.get(*k)).map(scalar)
    };
    let target = source.get("target");
    let average = if field == "external" && target.is_some_and(|t| t.get("averageValue").is_some())
    {
        " (avg)"
    } else {
        ""
    };
    let text = format!(
        "{}/{}{average}",
        value(current).unwrap_or_else(|| UNKNOWN.to_owned()),
        value(target).unwrap_or_else(|| "<auto>".to_owned())
    );
    match field.as_str() {
        "resource" | "containerResource" => format!("{}: {text}", text_of(source, "name")),
        _ => text,
    }
}

fn revision(row: &Row<'_>) -> Vec<Value> {
    let owners = row.list("/metadata/ownerReferences");
    let owner = owners.iter().find(|o| o["controller"] == true);
    let controller = owner.map_or(NONE.to_owned(), |o| {
        let group = text_of(o, "apiVersion").rsplit_once('/').map(|(g, _)| format!(".{g}"));
        let kind = text_of(o, "kind").to_lowercase();
        format!("{kind}{}/{}", group.unwrap_or_default(), text_of(o, "name"))
    });
    vec![row.name(), controller.into(), row.number("/revision").into(), row.age()]
}

fn pod_template(row: &Row<'_>) -> Vec<Value> {
    let [names, images] = containers(row, "/template/spec");
    let labels = labels(row.at("/template/metadata/labels").as_object());
    vec![row.name(), names, images, labels.into()]
}
