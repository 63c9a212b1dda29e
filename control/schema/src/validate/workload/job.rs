//! Jobs and cron jobs.

use serde_json::Value;

use super::super::cursor::{Cursor, Errors};
use super::super::{meta, pod};

const MAX_INDEXED: i64 = 100_000;

/// A `JobSpec` of a job, whose selector has been generated.
pub(in super::super) fn job(spec: &Cursor<'_>, errors: &mut Errors) {
    job_spec(spec, errors);
    if spec.field("selector").value.is_null() {
        errors.required(&spec.field("selector"), "");
    } else {
        meta::selector(&spec.field("selector"), errors);
    }
}

fn job_spec(spec: &Cursor<'_>, errors: &mut Errors) {
    for name in [
        "parallelism",
        "completions",
        "backoffLimit",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
        "ttlSecondsAfterFinished",
    ] {
        errors.not_negative(&spec.field(name));
    }
    errors.not_negative(&spec.field("activeDeadlineSeconds"));
    let mode = spec.field("completionMode");
    errors.one_of(&mode, &["Indexed", "NonIndexed"]);
    if mode.is("Indexed") {
        let completions = spec.field("completions");
        if completions.value.is_null() {
            errors.required(&completions, "when completion mode is Indexed");
        }
        let parallelism = spec.field("parallelism");
        if parallelism.number().is_some_and(|n| n > MAX_INDEXED) {
            errors.invalid(
                &parallelism,
                format!(
                    "must be less than or equal to {MAX_INDEXED} when completion mode is Indexed"
                ),
            );
        }
    } else {
        for name in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if !spec.field(name).value.is_null() {
                errors.invalid(&spec.field(name), "requires indexed completion mode");
            }
        }
    }
    errors.one_of(&spec.field("podReplacementPolicy"), &["Failed", "TerminatingOrFailed"]);
    let template = spec.field("template");
    pod::template(&template, errors);
    let policy = template.field("spec").field("restartPolicy");
    if policy.is("Always") || !policy.is_set() {
        errors.required(&policy, "valid values: \"OnFailure\", \"Never\"");
    }
    let failure = spec.field("podFailurePolicy");
    if !failure.value.is_null() && !policy.is("Never") {
        errors.invalid(&policy, "only \"Never\" is supported when podFailurePolicy is specified");
    }
}

pub(in super::super) fn cron_job(root: &Cursor<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    let schedule = spec.field("schedule");
    if errors.require(&schedule) {
        if schedule.text().contains("TZ=") {
            errors.invalid(
                &schedule,
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            );
        } else if let Some(problem) = schedule_problem(schedule.text()) {
            errors.invalid(&schedule, problem);
        }
    }
    let zone = spec.field("timeZone");
    if zone.value == &Value::String(String::new()) {
        errors.invalid(&zone, "timeZone must be nil or non-empty string");
    } else if zone.is("Local") || zone.text().starts_with('/') || zone.text().contains("..") {
        errors.invalid(
            &zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    }
    for name in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"]
    {
        errors.not_negative(&spec.field(name));
    }
    errors.require_one_of(&spec.field("concurrencyPolicy"), &["Allow", "Forbid", "Replace"]);
    let job = spec.field("jobTemplate").field("spec");
    job_spec(&job, errors);
    if job.field("manualSelector").is_true() {
        errors.one_of(&job.field("manualSelector"), &[]);
    }
}

/// What is wrong with a cron schedule: five fields, or one of the `@` names.
fn schedule_problem(schedule: &str) -> Option<String> {
    if schedule.starts_with('@') {
        let known =
            ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
        let every = schedule.starts_with("@every ");
        return (!known.contains(&schedule) && !every)
            .then(|| format!("unrecognized descriptor: {schedule}"));
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Some(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    }
    let bounds = [(0, 59, ""), (0, 23, ""), (1, 31, ""), (1, 12, MONTHS), (0, 7, DAYS)];
    fields.iter().zip(bounds).find_map(|(field, (low, high, names))| {
        field.split(',').find_map(|part| field_problem(part, low, high, names))
    })
}

const MONTHS: &str = "jan feb mar apr may jun jul aug sep oct nov dec";
const DAYS: &str = "sun mon tue wed thu fri sat";

fn field_problem(part: &str, low: u32, high: u32, names: &str) -> Option<String> {
    let (range, step) = part.split_once('/').unwrap_or((part, "1"));
    if step.parse::<u32>().is_ok_and(|n| n == 0) {
        return Some(format!("step of range should be a positive number: {part}"));
    }
    if step.parse::<u32>().is_err() {
        return Some(format!("failed to parse int from {step}"));
    }
    if range == "*" || range == "?" {
        return None;
    }
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| {
        let named =
            names.split(' ').position(|n| n == text.to_lowercase()).filter(|_| !names.is_empty());
        named.and_then(|n| u32::try_from(n).ok()).map(|n| n + low).or_else(|| text.parse().ok())
    };
    match (number(from), number(to)) {
        (Some(from), _) if from < low => {
            Some(format!("beginning of range ({from}) below minimum ({low}): {part}"))
        }
        (_, Some(to)) if to > high => {
            Some(format!("end of range ({to}) above maximum ({high}): {part}"))
        }
        (Some(from), Some(to)) if from > to => {
            Some(format!("beginning of range ({from}) beyond end of range ({to}): {part}"))
        }
        (Some(_), Some(_)) => None,
        (None, _) => Some(format!("failed to parse int from {from}")),
        (_, None) => Some(format!("failed to parse int from {to}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_have_five_fields_within_bounds() {
        for good in ["* * * * *", "*/5 0-12/2 1,15 jan-mar MON-FRI", "@hourly", "0 0 * * 7"] {
            assert_eq!(schedule_problem(good), None, "{good}");
        }
        for bad in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "x * * * *",
            "@never",
        ] {
            assert!(schedule_problem(bad).is_some(), "{bad}");
        }
    }
}
