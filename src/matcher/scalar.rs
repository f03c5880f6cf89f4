//! Values that compare: of documents and of filters, numbers by value whatever their form.

use std::cmp::Ordering;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

use super::expression::Literal;

const TWO_POW_63: f64 = 9_223_372_036_854_775_808.0;
const TWO_POW_64: f64 = 18_446_744_073_709_551_616.0;

/// A value that is neither null nor has parts. Every number has one form only, so that equal numbers are equal scalars:
/// `Double` never holds what `Int` or `Large` can.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    Bool(bool),
    Int(i64),
    /// Above every `Int`.
    Large(u64),
    /// With a fraction, or beyond `Int` and `Large`; never NaN.
    Double(f64),
    Text(&'a [u8]),
}

impl<'a> Scalar<'a> {
    pub(super) fn of(literal: &'a Literal) -> Self {
        match literal {
            Literal::Bool(value) => Self::Bool(*value),
            Literal::Int(value) => Self::Int(*value),
            Literal::Double(value) => Self::double(*value),
            Literal::Text(value) => Self::Text(value.as_bytes()),
        }
    }

    pub(super) fn double(value: f64) -> Self {
        if value.trunc() != value {
            Self::Double(value)
        } else if (-TWO_POW_63..TWO_POW_63).contains(&value) {
            Self::Int(value as i64)
        } else if (TWO_POW_63..TWO_POW_64).contains(&value) {
            Self::Large(value as u64)
        } else {
            Self::Double(value)
        }
    }

    /// The number that the JSON text `digits` says; `None` where it says none.
    pub(super) fn number(digits: &str) -> Option<Self> {
        if !digits.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
            if let Ok(value) = digits.parse::<i64>() {
                return Some(Self::Int(value));
            }
            if let Ok(value) = digits.parse::<u64>() {
                return Some(Self::Large(value));
            }
        }
        digits.parse::<f64>().ok().map(Self::double)
    }

    /// How it compares with a value of its kind; `None` for two kinds.
    pub(super) fn order(self, other: Scalar<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Text(one), Scalar::Text(other)) => Some(one.cmp(other)),
            (Self::Bool(one), Scalar::Bool(other)) => Some(one.cmp(&other)),
            (Self::Double(one), Scalar::Double(other)) => one.partial_cmp(&other),
            (Self::Double(one), other) => Some(order_double(one, other.integer()?)),
            (one, Scalar::Double(other)) => Some(order_double(other, one.integer()?).reverse()),
            (one, other) => Some(one.integer()?.cmp(&other.integer()?)),
        }
    }

    fn integer(self) -> Option<i128> {
        match self {
            Self::Int(value) => Some(value.into()),
            Self::Large(value) => Some(value.into()),
            Self::Bool(_) | Self::Double(_) | Self::Text(_) => None,
        }
    }

    /// A number that sorts like this number, though numbers that are very near share one; `None` where this is no
    /// number.
    pub(super) fn rank(self) -> Option<u64> {
        let value = match self {
            Self::Int(value) => value as f64,
            Self::Large(value) => value as f64,
            Self::Double(value) => value,
            Self::Bool(_) | Self::Text(_) => return None,
        };
        let bits = value.to_bits();
        Some(if bits >> 63 == 1 { !bits } else { bits | (1 << 63) })
    }

    /// Under which `place` is looked up when it holds, or has among its elements, this value.
    pub(super) fn key(self, hashing: &FixedState, place: u64) -> u64 {
        let mut hasher = hashing.build_hasher();
        let tagged = |tag: u64| place << 3 | tag;
        match self {
            Self::Bool(value) => hasher.write_u64(tagged(u64::from(value))),
            Self::Int(value) => {
                hasher.write_u64(tagged(2));
                hasher.write_u64(value as u64);
            }
            Self::Large(value) => {
                hasher.write_u64(tagged(3));
                hasher.write_u64(value);
            }
            Self::Double(value) => {
                hasher.write_u64(tagged(4));
                hasher.write_u64(value.to_bits());
            }
            Self::Text(value) => {
                hasher.write_u64(tagged(5));
                hasher.write(value);
            }
        }
        hasher.finish()
    }
}

/// How a number that is no integer, or too large for one of 64 bits, compares with such an integer.
fn order_double(double: f64, integer: i128) -> Ordering {
    if double >= TWO_POW_64 {
        Ordering::Greater
    } else if double < -TWO_POW_63 {
        Ordering::Less
    } else if double.floor() as i128 >= integer {
        Ordering::Greater
    } else {
        Ordering::Less
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASCENDING: [&str; 17] = [
        "-1e300",
        "-9223372036854775809.0e3",
        "-9223372036854775808",
        "-9223372036854775807",
        "-1.5",
        "-1",
        "0",
        "0.5",
        "9007199254740992",
        "9007199254740993",
        "9007199254740994.0",
        "9223372036854775807",
        "9223372036854775808",
        "9223372036854775809",
        "18446744073709549568.0",
        "18446744073709551615",
        "18446744073709551616",
    ];

    #[test]
    fn numbers_compare_by_value_without_loss() {
        let numbers = ASCENDING.map(|digits| Scalar::number(digits).expect(digits));
        for (at, one) in numbers.iter().enumerate() {
            for (other_at, other) in numbers.iter().enumerate() {
                assert_eq!(one.order(*other), Some(at.cmp(&other_at)), "{one:?} {other:?}");
                assert_eq!(one == other, at == other_at, "{one:?} {other:?}");
                assert!(at > other_at || one.rank() <= other.rank(), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_number_has_one_form() {
        for same in [["5", "5.0"], ["0", "-0.0"], ["-0", "0e9"], ["9223372036854775808", "9223372036854775808.0"]] {
            assert_eq!(Scalar::number(same[0]), Scalar::number(same[1]));
        }
        assert_eq!(Scalar::number("-"), None);
        assert_eq!(Scalar::Text(b"a").order(Scalar::Int(1)), None);
        assert_eq!(Scalar::Double(1e300).order(Scalar::Bool(true)), None);
    }
}
