//! Cron expressions: when a schedule fires next. Pure.
//!
//! Five fields (minute, hour, day of month, month, day of week) with `*`, lists, ranges, steps and
//! English names, or `@hourly` and its like. Where both days are restricted, either one matches.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// A schedule that never fires (31 February) is given up after so many years.
const HORIZON_YEARS: i16 = 5;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ScheduleError {
    #[error("a schedule has five fields, or is one of @hourly, @daily, @weekly, @monthly, @yearly")]
    Fields,
    #[error("{0:?} is not a valid part of a schedule")]
    Part(String),
    #[error("unknown time zone {0:?}")]
    TimeZone(String),
}

/// Each field as a set of bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// The day field was not `*`, and the weekday field was not.
    restricted: (bool, bool),
    zone: TimeZone,
}

impl Schedule {
    /// `zone` is an IANA name; without one the schedule is in UTC.
    pub(crate) fn parse(text: &str, zone: Option<&str>) -> Result<Self, ScheduleError> {
        let zone = match zone {
            None => TimeZone::UTC,
            Some(name) => {
                TimeZone::get(name).map_err(|_unknown| ScheduleError::TimeZone(name.to_owned()))?
            }
        };
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(ScheduleError::Fields);
        };
        let star = |field: &str| field.starts_with('*') || field == "?";
        let mut week = field(weekdays, 0, 7, &DAYS, 0)?;
        // Sunday is 0 and 7.
        if week & (1 << 7) != 0 {
            week |= 1;
        }
        Ok(Self {
            minutes: field(minutes, 0, 59, &[], 0)?,
            hours: field(hours, 0, 23, &[], 0)?,
            days: field(days, 1, 31, &[], 0)?,
            months: field(months, 1, 12, &MONTHS, 1)?,
            weekdays: week,
            restricted: (!star(days), !star(weekdays)),
            zone,
        })
    }

    /// The first time after `after` at which the schedule fires.
    pub(crate) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let mut at = self.zone.to_datetime(after);
        at = at.with().second(0).subsec_nanosecond(0).build().ok()?;
        at = at.checked_add(1.minute()).ok()?;
        let last = at.year().saturating_add(HORIZON_YEARS);
        while at.year() <= last {
            if !has(self.months, at.month()) {
                at = start_of_next_month(at)?;
            } else if !self.has_day(at) {
                at = midnight(at)?.checked_add(1.day()).ok()?;
            } else if !has(self.hours, at.hour()) {
                at = at.with().minute(0).build().ok()?.checked_add(1.hour()).ok()?;
            } else if !has(self.minutes, at.minute()) {
                at = at.checked_add(1.minute()).ok()?;
            } else {
                let found = self.zone.to_ambiguous_timestamp(at).compatible().ok()?;
                // Where the clock was set back, the hour was there before.
                if found > after {
                    return Some(found);
                }
                at = at.checked_add(1.minute()).ok()?;
            }
        }
        None
    }

    fn has_day(&self, at: DateTime) -> bool {
        let day = has(self.days, at.day());
        let weekday = has(self.weekdays, at.weekday().to_sunday_zero_offset());
        match self.restricted {
            (true, true) => day || weekday,
            _ => day && weekday,
        }
    }
}

fn has(bits: u64, number: i8) -> bool {
    u32::try_from(number).is_ok_and(|number| bits & (1 << number) != 0)
}

fn midnight(at: DateTime) -> Option<DateTime> {
    at.with().hour(0).minute(0).build().ok()
}

fn start_of_next_month(at: DateTime) -> Option<DateTime> {
    midnight(at.with().day(1).build().ok()?)?.checked_add(1.month()).ok()
}

fn field(
    text: &str,
    low: u32,
    high: u32,
    names: &[&str],
    first_name: u32,
) -> Result<u64, ScheduleError> {
    let wrong = || ScheduleError::Part(text.to_owned());
    let number = |part: &str| -> Result<u32, ScheduleError> {
        let lower = part.to_ascii_lowercase();
        if let Some(place) = names.iter().position(|name| *name == lower) {
            return u32::try_from(place).map(|place| place + first_name).map_err(|_| wrong());
        }
        part.parse().map_err(|_| wrong())
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u32>().map_err(|_| wrong())?)),
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (low, high),
            Some((from, to)) => (number(from)?, number(to)?),
            // `5/10`: from five on.
            None if step.is_some() => (number(range)?, high),
            None => (number(range)?, number(range)?),
        };
        let step = step.unwrap_or(1);
        if from < low || to > high || from > to || step == 0 {
            return Err(wrong());
        }
        let mut value = from;
        while value <= to {
            bits |= 1u64 << value;
            value += step;
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, zone: Option<&str>, after: &str) -> String {
        let schedule = Schedule::parse(schedule, zone).expect("a valid schedule");
        let after = after.parse().expect("a valid time");
        schedule.next(after).map(|at| at.to_string()).unwrap_or_default()
    }

    #[test]
    fn schedules_fire_when_they_say() {
        for (schedule, wanted) in [
            ("*/5 * * * *", "2026-01-31T23:35:00Z"),
            ("0 3 * * *", "2026-02-01T03:00:00Z"),
            ("@monthly", "2026-02-01T00:00:00Z"),
            ("30 12 29 2 *", "2028-02-29T12:30:00Z"),
            ("0 0 * * mon-fri", "2026-02-02T00:00:00Z"),
            ("0 0 13 * 5", "2026-02-06T00:00:00Z"),
            ("0 0 * * 7", "2026-02-01T00:00:00Z"),
            ("15,45 22-23 * jan *", "2026-01-31T23:45:00Z"),
            ("0 0 31 2 *", ""),
        ] {
            assert_eq!(next(schedule, None, "2026-01-31T23:32:10Z"), wanted, "{schedule}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in
            ["", "* * * *", "60 * * * *", "* * 0 * *", "*/0 * * * *", "5-1 * * * *", "a * * * *"]
        {
            assert!(Schedule::parse(text, None).is_err(), "{text:?}");
        }
        let unknown = ScheduleError::TimeZone("Mars/Base".into());
        assert_eq!(Schedule::parse("* * * * *", Some("Mars/Base")), Err(unknown));
    }
}
