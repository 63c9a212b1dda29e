//! A place in an object, and the list of what is wrong.

use std::collections::BTreeMap;

use bowline_api::quantity::Quantity;
use serde_json::Value;

use super::error::{FieldError, Reason};

/// A list of errors doesn't grow beyond this; a client has enough to read.
const MAX_ERRORS: usize = 200;

/// A value with its path; null where the field is absent.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'v> {
    pub path: String,
    pub value: &'v Value,
}

impl<'v> Cursor<'v> {
    pub(super) fn root(value: &'v Value) -> Self {
        Self { path: String::new(), value }
    }

    pub(super) fn field(&self, name: &str) -> Self {
        let path =
            if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { path, value: self.value.get(name).unwrap_or(&Value::Null) }
    }

    /// `limits[cpu]`: an entry of a map.
    pub(super) fn key(&self, name: &str) -> Self {
        let value = self.value.get(name).unwrap_or(&Value::Null);
        Self { path: format!("{}[{name}]", self.path), value }
    }

    pub(super) fn items(&self) -> impl Iterator<Item = Cursor<'v>> + use<'v> {
        let path = self.path.clone();
        let items = self.value.as_array().into_iter().flatten().enumerate();
        items.map(move |(index, value)| Cursor { path: format!("{path}[{index}]"), value })
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&'v str, &'v Value)> + use<'v> {
        self.value.as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v))
    }

    pub(super) fn len(&self) -> usize {
        match self.value {
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        }
    }

    /// Neither absent nor an empty string.
    pub(super) fn is_set(&self) -> bool {
        !self.value.is_null() && *self.value != ""
    }

    pub(super) fn text(&self) -> &'v str {
        self.value.as_str().unwrap_or_default()
    }

    pub(super) fn number(&self) -> Option<i64> {
        self.value.as_i64()
    }

    pub(super) fn is(&self, text: &str) -> bool {
        self.value.as_str() == Some(text)
    }

    pub(super) fn is_true(&self) -> bool {
        *self.value == true
    }

    /// A map of strings, as labels are.
    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        self.entries().map(|(k, v)| (k.into(), v.as_str().unwrap_or_default().into())).collect()
    }
}

#[derive(Debug, Default)]
pub(super) struct Errors {
    list: Vec<FieldError>,
}

impl Errors {
    pub(super) fn into_list(self) -> Vec<FieldError> {
        self.list
    }

    fn push(&mut self, at: &Cursor<'_>, reason: Reason, value: bool, detail: String) {
        if self.list.len() < MAX_ERRORS {
            let bad_value = value.then(|| at.value.clone());
            self.list.push(FieldError { reason, field: at.path.clone(), bad_value, detail });
        }
    }

    pub(super) fn required(&mut self, at: &Cursor<'_>, detail: &str) {
        self.push(at, Reason::Required, false, detail.to_owned());
    }

    pub(super) fn invalid(&mut self, at: &Cursor<'_>, detail: impl Into<String>) {
        self.push(at, Reason::Invalid, true, detail.into());
    }

    /// As [`Self::invalid`], showing another value than the one in the field.
    pub(super) fn invalid_value(&mut self, at: &Cursor<'_>, value: &str, detail: &str) {
        let shown = Value::String(value.to_owned());
        let shown = Cursor { path: at.path.clone(), value: &shown };
        self.push(&shown, Reason::Invalid, true, detail.to_owned());
    }

    pub(super) fn forbidden(&mut self, at: &Cursor<'_>, detail: &str) {
        self.push(at, Reason::Forbidden, false, detail.to_owned());
    }

    pub(super) fn duplicate(&mut self, at: &Cursor<'_>) {
        self.push(at, Reason::Duplicate, true, String::new());
    }

    pub(super) fn not_found(&mut self, at: &Cursor<'_>) {
        self.push(at, Reason::NotFound, true, String::new());
    }

    pub(super) fn too_long(&mut self, at: &Cursor<'_>, max: usize) {
        self.push(at, Reason::TooLong, false, format!("may not be more than {max} bytes"));
    }

    pub(super) fn too_many(&mut self, at: &Cursor<'_>, max: usize) {
        let detail = format!("{}: must have at most {max} items", at.len());
        self.push(at, Reason::TooMany, false, detail);
    }

    /// The field must be set; whether it is.
    pub(super) fn require(&mut self, at: &Cursor<'_>) -> bool {
        if !at.is_set() {
            self.required(at, "");
        }
        at.is_set()
    }

    /// The field, if set, must have one of these values.
    pub(super) fn one_of(&mut self, at: &Cursor<'_>, supported: &[&str]) {
        if at.is_set() && !supported.contains(&at.text()) {
            let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
            let detail = format!("supported values: {}", list.join(", "));
            self.push(at, Reason::NotSupported, true, detail);
        }
    }

    /// The field must be set to one of these values.
    pub(super) fn require_one_of(&mut self, at: &Cursor<'_>, supported: &[&str]) {
        if self.require(at) {
            self.one_of(at, supported);
        }
    }

    /// One error for each problem that a grammar found.
    pub(super) fn problems(&mut self, at: &Cursor<'_>, problems: Vec<String>) {
        for problem in problems {
            self.invalid(at, problem);
        }
    }

    /// The field, if set, must follow a grammar.
    pub(super) fn follows(&mut self, at: &Cursor<'_>, grammar: fn(&str) -> Vec<String>) {
        if at.is_set() {
            self.problems(at, grammar(at.text()));
        }
    }

    /// The field must be set and follow a grammar.
    pub(super) fn require_follows(&mut self, at: &Cursor<'_>, grammar: fn(&str) -> Vec<String>) {
        if self.require(at) {
            self.problems(at, grammar(at.text()));
        }
    }

    pub(super) fn not_negative(&mut self, at: &Cursor<'_>) {
        if at.number().is_some_and(|n| n < 0) {
            self.invalid(at, "must be greater than or equal to 0");
        }
    }

    pub(super) fn positive(&mut self, at: &Cursor<'_>) {
        if at.number().is_some_and(|n| n <= 0) {
            self.invalid(at, "must be greater than 0");
        }
    }

    pub(super) fn between(&mut self, at: &Cursor<'_>, low: i64, high: i64) {
        if at.number().is_some_and(|n| !(low..=high).contains(&n)) {
            self.invalid(at, format!("must be between {low} and {high}, inclusive"));
        }
    }

    /// The quantity in a field; an error if it is negative.
    pub(super) fn amount(&mut self, at: &Cursor<'_>) -> Option<Quantity> {
        let amount: Quantity = at.value.as_str()?.parse().ok()?;
        if amount.is_negative() {
            self.invalid(at, "must be greater than or equal to 0");
        }
        Some(amount)
    }

    /// The values under `name` of a list's items must differ.
    pub(super) fn unique(&mut self, list: &Cursor<'_>, name: &str) {
        let mut seen: Vec<&Value> = Vec::new();
        for item in list.items() {
            let at = item.field(name);
            if !at.is_set() {
                continue;
            }
            if seen.contains(&at.value) {
                self.duplicate(&at);
            } else {
                seen.push(at.value);
            }
        }
    }

    /// `new` must equal `old`.
    pub(super) fn immutable(&mut self, new: &Cursor<'_>, old: &Cursor<'_>) {
        if new.value != old.value {
            self.invalid(new, "field is immutable");
        }
    }
}
