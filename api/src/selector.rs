//! Label and field selectors in their text form, as query parameters carry them.
//!
//! Grammar of labels: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, `a>1`, `a<1`,
//! joined by commas. Of fields: `a=b`, `a==b`, `a!=b`, joined by commas, with `\` before `,`, `=` and
//! `\` in a value. All requirements must hold.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as LabelSelectorObject;

use crate::words;

/// More requirements than this in one selector are refused.
pub const MAX_REQUIREMENTS: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("unable to parse requirement: {0}")]
    Requirement(String),
    #[error("invalid selector: '{selector}'; can't understand '{part}'")]
    Field { selector: String, part: String },
    #[error("a selector may have at most {MAX_REQUIREMENTS} requirements")]
    TooMany,
}

/// How one label is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    In(Vec<String>),
    /// Holds for objects without the label too.
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
}

/// A conjunction of label requirements; the empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
}

impl LabelSelector {
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut lexer = Lexer { rest: text };
        let mut requirements = Vec::new();
        if lexer.peek() == Token::End {
            return Ok(Self::default());
        }
        loop {
            if requirements.len() == MAX_REQUIREMENTS {
                return Err(ParseError::TooMany);
            }
            requirements.push(lexer.requirement()?);
            match lexer.next() {
                Token::End => return Ok(Self { requirements }),
                Token::Symbol(",") => {}
                other => return Err(unexpected(other, "',' or 'end of string'")),
            }
        }
    }

    /// The selector of a `LabelSelector` object; `None` if an operator is unknown or a set is missing.
    pub fn from_object(object: &LabelSelectorObject) -> Option<Self> {
        let equal = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::In(vec![value.clone()]),
        };
        let mut requirements: Vec<_> = object.match_labels.iter().flatten().map(equal).collect();
        for expression in object.match_expressions.iter().flatten() {
            let values = expression.values.clone().unwrap_or_default();
            let operator = match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => Operator::In(values),
                ("NotIn", false) => Operator::NotIn(values),
                ("Exists", true) => Operator::Exists,
                ("DoesNotExist", true) => Operator::DoesNotExist,
                _ => return None,
            };
            requirements.push(Requirement { key: expression.key.clone(), operator });
        }
        Some(Self { requirements })
    }

    /// Equality on every pair, as `spec.selector` of a Service means it.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let equal = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::In(vec![value.clone()]),
        };
        Self { requirements: pairs.into_iter().map(equal).collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_by(|key| labels.get(key).map(String::as_str))
    }

    /// As [`Self::matches`], for labels in any container.
    pub fn matches_by<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| requirement.holds(get(&requirement.key)))
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.operator {
            Operator::In(set) => value.is_some_and(|v| set.iter().any(|s| s == v)),
            Operator::NotIn(set) => !value.is_some_and(|v| set.iter().any(|s| s == v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => number().is_some_and(|n| n > *bound),
            Operator::LessThan(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'a str),
    End,
}

struct Lexer<'a> {
    rest: &'a str,
}

const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", ",", "(", ")", ">", "<"];

impl<'a> Lexer<'a> {
    fn split(&self) -> (Token<'a>, &'a str) {
        let rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if rest.is_empty() {
            return (Token::End, rest);
        }
        if let Some(symbol) = SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
            return (Token::Symbol(symbol), &rest[symbol.len()..]);
        }
        let stop = |c: char| " \t\r\n=!,()<>".contains(c);
        let (word, rest) = rest.split_at(rest.find(stop).unwrap_or(rest.len()));
        (Token::Word(word), rest)
    }

    fn peek(&self) -> Token<'a> {
        self.split().0
    }

    fn next(&mut self) -> Token<'a> {
        let (token, rest) = self.split();
        self.rest = rest;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, ParseError> {
        let absent = self.peek() == Token::Symbol("!");
        if absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(unexpected(other, "identifier")),
        };
        if let Some(problem) = words::qualified_name(key).into_iter().next() {
            return Err(invalid(format!("<nil>: Invalid value: \"{key}\": {problem}")));
        }
        let operator = if absent { Operator::DoesNotExist } else { self.operator()? };
        let values: &[String] = match &operator {
            Operator::In(values) | Operator::NotIn(values) => values,
            _ => &[],
        };
        for value in values {
            if let Some(problem) = words::label_value(value).into_iter().next() {
                return Err(invalid(format!(
                    "values[0][{key}]: Invalid value: \"{value}\": {problem}"
                )));
            }
        }
        Ok(Requirement { key: key.to_owned(), operator })
    }

    fn operator(&mut self) -> Result<Operator, ParseError> {
        match self.peek() {
            Token::End | Token::Symbol(",") => return Ok(Operator::Exists),
            _ => {}
        }
        match self.next() {
            Token::Symbol("=" | "==") => Ok(Operator::In(vec![self.exact_value()?])),
            Token::Symbol("!=") => Ok(Operator::NotIn(vec![self.exact_value()?])),
            Token::Word("in") => Ok(Operator::In(self.set()?)),
            Token::Word("notin") => Ok(Operator::NotIn(self.set()?)),
            Token::Symbol(">") => Ok(Operator::GreaterThan(self.number()?)),
            Token::Symbol("<") => Ok(Operator::LessThan(self.number()?)),
            other => Err(unexpected(other, "in, notin, =, ==, !=, gt, lt")),
        }
    }

    /// The word after `=`; nothing at all means the empty value.
    fn exact_value(&mut self) -> Result<String, ParseError> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            Token::Word(value) => {
                self.next();
                Ok(value.to_owned())
            }
            other @ Token::Symbol(_) => Err(unexpected(other, "identifier")),
        }
    }

    fn number(&mut self) -> Result<i64, ParseError> {
        let value = self.exact_value()?;
        value.parse().map_err(|_| {
            invalid(format!(
                "for 'Gt', 'Lt' operators, the value must be an integer, not {value:?}"
            ))
        })
    }

    fn set(&mut self) -> Result<Vec<String>, ParseError> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return Err(unexpected(other, "'('")),
        }
        let mut values = Vec::new();
        loop {
            match self.peek() {
                Token::Symbol(",") => values.push(String::new()),
                Token::Symbol(")") => {
                    self.next();
                    values.push(String::new());
                    return Ok(values);
                }
                Token::Word(word) => {
                    self.next();
                    values.push(word.to_owned());
                }
                other => return Err(unexpected(other, "identifier")),
            }
            match self.next() {
                Token::Symbol(",") => {}
                Token::Symbol(")") => return Ok(values),
                other => return Err(unexpected(other, "',' or ')'")),
            }
        }
    }
}

fn invalid(text: String) -> ParseError {
    ParseError::Requirement(text)
}

fn unexpected(token: Token<'_>, expected: &str) -> ParseError {
    let found = match token {
        Token::Word(text) | Token::Symbol(text) => text,
        Token::End => "",
    };
    invalid(format!("found '{found}', expected: {expected}"))
}

/// One field compared with one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    pub field: String,
    pub value: String,
    /// `true` for `=` and `==`, `false` for `!=`.
    pub equal: bool,
}

/// A conjunction of field requirements; the empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut requirements = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let bad = || ParseError::Field { selector: text.to_owned(), part: part.to_owned() };
            let at = part.find('=').ok_or_else(bad)?;
            let (field, equal) = match part[..at].strip_suffix('!') {
                Some(field) => (field, false),
                None => (&part[..at], true),
            };
            let value = &part[at + 1..];
            let value = if equal { value.strip_prefix('=').unwrap_or(value) } else { value };
            let value = unescape(value).ok_or_else(bad)?;
            if requirements.len() == MAX_REQUIREMENTS {
                return Err(ParseError::TooMany);
            }
            requirements.push(FieldRequirement { field: field.to_owned(), value, equal });
        }
        Ok(Self { requirements })
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether all requirements hold; `get` gives a field's value, empty if it is absent.
    pub fn matches_by(&self, get: impl Fn(&str) -> String) -> bool {
        self.requirements.iter().all(|r| (get(&r.field) == r.value) == r.equal)
    }

    /// The value that `field` must equal, if the selector says so: lets a list go straight to an object.
    pub fn required(&self, field: &str) -> Option<&str> {
        let found = self.requirements.iter().find(|r| r.equal && r.field == field);
        found.map(|r| r.value.as_str())
    }
}

/// Splits at commas that have no backslash before them.
fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// `None` if a backslash is before anything but `\`, `,` and `=`, or a bare `=` or `,` is in the value.
fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                _ => return None,
            },
            '=' | ',' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests;
