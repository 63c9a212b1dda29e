//! From bytes to a typed, normal object: JSON with duplicate detection, then a pass over the kind's
//! schema that checks types, finds unknown fields and brings values into canonical form.

mod json;
mod normalize;
mod time;

pub use json::{MAX_DUPLICATES, ParseError, Parsed, parse};
pub use normalize::{MAX_UNKNOWN, WrongType, normalize};
