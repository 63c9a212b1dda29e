//! Kubernetes quantities (`500m`, `1.5Gi`, `2e3`), exact.
//!
//! A quantity is a whole number of nano-units and the form in which it was written. Parsing, rounding
//! (away from zero, to nano) and the canonical text follow the API's documentation of
//! `io.k8s.apimachinery.pkg.api.resource.Quantity`.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
/// Larger magnitudes are capped here, as the API documents: 2^63 - 1.
const MAX: i128 = (i64::MAX as i128) * NANO;
/// A number with more digits than this is refused instead of read; no legal quantity comes near.
const MAX_LENGTH: usize = 128;

/// The family of suffixes that a quantity is printed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `n u m "" k M G T P E`
    #[default]
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySi,
    /// `e3`, `E-6`
    DecimalExponent,
}

/// An exact amount of some resource. Comparison and equality are by amount, not by form.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// Why a text is no quantity; the texts are those that the API's clients know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error(
        "quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    pub const ZERO: Self = Self { nano: 0, format: Format::DecimalSi };

    pub const fn from_units(units: i64) -> Self {
        Self { nano: units as i128 * NANO, format: Format::DecimalSi }
    }

    pub const fn from_millis(millis: i64) -> Self {
        Self { nano: millis as i128 * (NANO / 1000), format: Format::DecimalSi }
    }

    /// An amount of bytes, printed with binary suffixes.
    pub const fn from_bytes(bytes: i64) -> Self {
        Self { nano: bytes as i128 * NANO, format: Format::BinarySi }
    }

    /// In whole units (bytes, cores, pods), rounded up; capped to `i64`.
    pub fn units(self) -> i64 {
        to_i64(div_away(self.nano, NANO))
    }

    /// In thousandths (millicores), rounded up; capped to `i64`.
    pub fn millis(self) -> i64 {
        to_i64(div_away(self.nano, NANO / 1000))
    }

    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// Whether the amount is a whole number of units.
    pub fn is_whole(self) -> bool {
        self.nano % NANO == 0
    }

    pub fn format(self) -> Format {
        self.format
    }

    fn with(self, nano: i128, other: Self) -> Self {
        // A sum keeps the left side's form, unless that side is an untyped zero.
        let format = if self.nano == 0 { other.format } else { self.format };
        Self { nano: nano.clamp(-MAX, MAX), format }
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.is_empty() || text.len() > MAX_LENGTH || !text.is_ascii() {
            return Err(ParseError::Format);
        }
        let (negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(ParseError::Format);
        }
        let (format, base, exponent) = scale(suffix)?;
        let nano = nano_units(whole, fraction, base, exponent);
        Ok(Self { nano: if negative { -nano } else { nano }, format })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BELOW_KI: i128 = 1024 * NANO;
        match self.format {
            Format::BinarySi if self.nano.abs() >= BELOW_KI => {
                let mut units = div_away(self.nano, NANO);
                let mut suffix = 0;
                while suffix < 6 && units % 1024 == 0 {
                    units /= 1024;
                    suffix += 1;
                }
                write!(f, "{units}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][suffix])
            }
            Format::DecimalExponent => {
                let (mantissa, exponent) = decimal(self.nano);
                match exponent {
                    0 => write!(f, "{mantissa}"),
                    e => write!(f, "{mantissa}e{e}"),
                }
            }
            Format::BinarySi | Format::DecimalSi => {
                let (mantissa, exponent) = decimal(self.nano);
                let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
                let index = usize::try_from((exponent + 9) / 3).unwrap_or(3).min(9);
                write!(f, "{mantissa}{}", suffix[index])
            }
        }
    }
}

/// Form, base and exponent that a suffix stands for.
fn scale(suffix: &str) -> Result<(Format, i128, i32), ParseError> {
    let decimal = |exponent| Ok((Format::DecimalSi, 10, exponent));
    let binary = |exponent| Ok((Format::BinarySi, 1024, exponent));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        other => exponent(other),
    }
}

fn exponent(suffix: &str) -> Result<(Format, i128, i32), ParseError> {
    let malformed = || {
        let legal = |c: char| c.is_ascii_digit() || "eEinumkKMGTP+-".contains(c);
        if suffix.chars().all(legal) { ParseError::Suffix } else { ParseError::Format }
    };
    let digits = suffix.strip_prefix(['e', 'E']).ok_or_else(malformed)?;
    let exponent = digits.parse::<i32>().map_err(|_| malformed())?;
    Ok((Format::DecimalExponent, 10, exponent.clamp(-1000, 1000)))
}

/// `whole.fraction * base^exponent` in nano-units, rounded up, capped at [`MAX`].
fn nano_units(whole: &str, fraction: &str, base: i128, exponent: i32) -> i128 {
    let digits: String = [whole, fraction].concat();
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return 0;
    }
    // The value is `significant * 10^shift * 1024^binary` nano-units.
    let decimal = if base == 10 { exponent } else { 0 };
    let binary = if base == 1024 { u32::try_from(exponent).unwrap_or(0) } else { 0 };
    let mut shift = 9 + decimal - i32::try_from(fraction.len()).unwrap_or(i32::MAX / 2);
    let factor = 1024_i128.pow(binary);
    // 18 digits times 1024^6 stay within i128; what is cut off rounds up.
    let keep = significant.len().min(18);
    let (head, tail) = significant.split_at(keep);
    let Ok(mut amount) = head.parse::<i128>() else { return MAX };
    let mut inexact = tail.bytes().any(|b| b != b'0');
    shift += i32::try_from(tail.len()).unwrap_or(i32::MAX / 2);
    amount *= factor;
    while shift > 0 && amount <= MAX {
        amount *= 10;
        shift -= 1;
    }
    while shift < 0 && amount > 0 {
        inexact |= amount % 10 != 0;
        amount /= 10;
        shift += 1;
    }
    (amount + i128::from(inexact)).min(MAX)
}

/// Mantissa and exponent (a multiple of three from -9 to 18) with the largest exponent that is exact.
fn decimal(nano: i128) -> (i128, i32) {
    if nano == 0 {
        return (0, 0);
    }
    let (mut mantissa, mut exponent) = (nano, -9);
    while exponent < 18 && mantissa % 1000 == 0 {
        mantissa /= 1000;
        exponent += 3;
    }
    (mantissa, exponent)
}

fn div_away(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by == 0 { quotient } else { quotient + value.signum() }
}

fn to_i64(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.with(self.nano + other.nano, other)
    }
}

impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.with(self.nano - other.nano, other)
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Neg for Quantity {
    type Output = Self;
    fn neg(self) -> Self {
        Self { nano: -self.nano, format: self.format }
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl From<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> for Quantity {
    /// A malformed text counts as zero: objects from the API have been validated.
    fn from(value: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Self {
        value.0.parse().unwrap_or(Self::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn canonical_form_has_the_largest_exact_suffix() {
        for (given, canonical) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("0.5Ki", "512"),
            ("1000k", "1M"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("1e3", "1e3"),
            ("1000e0", "1e3"),
            ("1E", "1E"),
            ("1e0", "1"),
            ("-1.5", "-1500m"),
            ("+2", "2"),
            ("0.1n", "1n"),
            ("1.0001Ki", "1025"),
            ("100Ei", "9223372036854775807"),
            ("9e30", "9223372036854775807"),
        ] {
            assert_eq!(q(given).to_string(), canonical, "canonical form of {given}");
        }
    }

    #[test]
    fn texts_that_are_no_quantities_are_refused() {
        for text in ["", "abc", "1.2.3", "1 ", "1Kib", "1ki", "--1", "e3", "1x", ".", "ä"] {
            assert!(text.parse::<Quantity>().is_err(), "{text:?} must be refused");
        }
        assert_eq!("1KiM".parse::<Quantity>(), Err(ParseError::Suffix));
        assert_eq!("1$".parse::<Quantity>(), Err(ParseError::Format));
    }

    #[test]
    fn readings_round_up_and_sums_keep_the_form() {
        assert_eq!(q("1500m").units(), 2);
        assert_eq!(q("100m").millis(), 100);
        assert_eq!(q("1u").millis(), 1);
        assert_eq!(q("-1500m").units(), -2);
        assert_eq!(q("64Mi").units(), 64 << 20);
        assert_eq!((q("64Mi") + q("64Mi")).to_string(), "128Mi");
        assert_eq!((Quantity::ZERO + q("64Mi")).to_string(), "64Mi");
        assert_eq!([q("100m"), q("0.9")].into_iter().sum::<Quantity>(), q("1"));
        assert!(q("1Gi") > q("1G"));
    }

    #[test]
    fn a_canonical_text_reads_back_as_the_same_amount() {
        for mantissa in [1_i64, 7, 10, 999, 1000, 1024, 123_456] {
            for suffix in ["n", "u", "m", "", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "e-3"] {
                let value = q(&format!("{mantissa}{suffix}"));
                assert_eq!(q(&value.to_string()), value, "{mantissa}{suffix} -> {value}");
            }
        }
    }
}
