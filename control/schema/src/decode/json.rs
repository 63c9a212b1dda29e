//! JSON to a value, remembering fields that were given twice.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// What [`parse`] found.
#[derive(Debug)]
pub struct Parsed {
    pub value: Value,
    /// Paths of fields given twice in one object (`spec.replicas`), in document order; the last value
    /// won. At most [`MAX_DUPLICATES`].
    pub duplicates: Vec<String>,
}

pub const MAX_DUPLICATES: usize = 100;

#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("couldn't get version/kind; json parse error: {0}")]
    Json(#[from] serde_json::Error),
}

/// Reads one JSON document. Nesting is limited to 128 levels.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let duplicates = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = Seed { path: Path::Root, duplicates: &duplicates };
    let value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(Parsed { value, duplicates: duplicates.into_inner() })
}

/// Where the reader is; a linked list on the stack, so that nothing is allocated on the good path.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

struct Seed<'a> {
    path: Path<'a>,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = Path::Index(&self.path, items.len());
            match access.next_element_seed(Seed { path, duplicates: self.duplicates })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let path = Path::Key(&self.path, &key);
            if map.contains_key(&key) {
                let mut duplicates = self.duplicates.borrow_mut();
                if duplicates.len() < MAX_DUPLICATES {
                    duplicates.push(path.to_string());
                }
            }
            let value = access.next_value_seed(Seed { path, duplicates: self.duplicates })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_fields_are_reported_with_their_path_and_the_last_wins() {
        let text = br#"{"spec":{"replicas":1,"a":[{"x":1,"x":2}],"replicas":3},"n":null,"f":1.5}"#;
        let parsed = parse(text).unwrap();
        assert_eq!(parsed.duplicates, ["spec.a[0].x", "spec.replicas"]);
        assert_eq!(parsed.value["spec"]["replicas"], 3);
        assert_eq!(parsed.value["f"], 1.5);
    }

    #[test]
    fn broken_documents_are_refused() {
        for text in ["", "{", "{}x", "{\"a\":}", "[1,]", "nul", &"[".repeat(1000)] {
            assert!(parse(text.as_bytes()).is_err(), "{text:.20} must be refused");
        }
    }

    #[test]
    fn a_value_reads_back_as_itself() {
        let value = serde_json::json!({"a": [1, -2, 3.5, "x", true, null], "b": {"": {}}});
        assert_eq!(parse(value.to_string().as_bytes()).unwrap().value, value);
    }
}
