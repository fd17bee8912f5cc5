//! Decimal numbers of any size, compared by value.

use std::cmp::Ordering;
use std::fmt;

use super::NotJson;

/// Maximum digits of a number's exponent.
const EXPONENT_DIGITS_MAX: usize = 15;

/// A decimal number of any size: the sign, and `0.<digits>` times ten to the power of `exponent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number {
    is_negative: bool,
    /// Without leading and trailing zeros; empty for zero.
    digits: Box<[u8]>,
    exponent: i64,
}

impl Number {
    /// Parses a JSON number.
    ///
    /// # Errors
    /// [`NotJson`] if the text is not a number, or its exponent is too long.
    pub fn parse(text: &str) -> Result<Self, NotJson> {
        let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let well_formed =
            |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let has_leading_zero = whole.len() > 1 && whole.starts_with('0');
        if !well_formed(whole)
            || has_leading_zero
            || !well_formed(unsigned)
            || (mantissa.contains('.') && !well_formed(fraction))
        {
            return Err(NotJson::Malformed);
        }
        if unsigned.trim_start_matches('0').len() > EXPONENT_DIGITS_MAX {
            return Err(NotJson::ExponentOutOfRange);
        }
        let exponent: i64 = exponent.parse().map_err(|_| NotJson::ExponentOutOfRange)?;
        let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        let end = digits.iter().rposition(|digit| *digit != b'0').map_or(zeros, |last| last + 1);
        if zeros == digits.len() {
            return Ok(Self { is_negative: false, digits: Box::default(), exponent: 0 });
        }
        let exponent = exponent + whole.len() as i64 - zeros as i64;
        Ok(Self { is_negative, digits: digits[zeros..end].into(), exponent })
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    /// Whether it is less than zero.
    pub fn is_negative(&self) -> bool {
        self.is_negative
    }

    /// Whether it has no fractional part.
    pub fn is_integer(&self) -> bool {
        self.exponent >= self.digits.len() as i64
    }

    /// Its value if it is a non-negative integer; larger values are clamped to `usize::MAX`.
    pub fn to_count(&self) -> Option<usize> {
        if self.is_negative || !self.is_integer() {
            return None;
        }
        let zeros = self.exponent - self.digits.len() as i64;
        if self.exponent > 19 {
            return Some(usize::MAX);
        }
        let digits = self.digits.iter().copied().chain((0..zeros).map(|_| b'0'));
        Some(
            digits.fold(0usize, |value, digit| {
                value.saturating_mul(10).saturating_add(usize::from(digit - b'0'))
            }),
        )
    }

    /// Number of significant digits.
    pub fn digits(&self) -> usize {
        self.digits.len()
    }

    /// Whether it is an integral multiple of the divisor, which must be positive with at most 18 significant digits.
    pub fn is_multiple_of(&self, divisor: &Number) -> bool {
        if self.is_zero() {
            return true;
        }
        let scale = |number: &Number| number.exponent - number.digits.len() as i64;
        // Neither number has trailing zeros. So if its scale is below the divisor's, it is not a multiple, unless it is
        // zero.
        let Ok(mut shift) = u64::try_from(scale(self) - scale(divisor)) else { return false };
        let modulus = divisor.digits.iter().fold(0u128, |value, digit| value * 10 + u128::from(digit - b'0'));
        if modulus == 0 {
            return false;
        }
        let mut rest =
            self.digits.iter().fold(0u128, |value, digit| (value * 10 + u128::from(digit - b'0')) % modulus);
        // Multiplies by 10^shift with repeated squaring.
        let mut power = 10 % modulus;
        while shift > 0 {
            if shift % 2 == 1 {
                rest = rest * power % modulus;
            }
            power = power * power % modulus;
            shift /= 2;
        }
        rest == 0
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Number| match (number.is_zero(), number.is_negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let size = || self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits));
        match sign(self).cmp(&sign(other)) {
            Ordering::Equal if self.is_zero() => Ordering::Equal,
            Ordering::Equal if self.is_negative => size().reverse(),
            Ordering::Equal => size(),
            different => different,
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = std::str::from_utf8(&self.digits).map_err(|_| fmt::Error)?;
        let sign = if self.is_negative { "-" } else { "" };
        let length = digits.len() as i64;
        match self.exponent {
            _ if digits.is_empty() => f.write_str("0"),
            exponent if exponent >= length && exponent <= 40 => {
                write!(f, "{sign}{digits}{}", "0".repeat((exponent - length) as usize))
            }
            exponent if exponent > 0 && exponent < length => {
                let (whole, fraction) = digits.split_at(exponent as usize);
                write!(f, "{sign}{whole}.{fraction}")
            }
            exponent if (-20..=0).contains(&exponent) => {
                write!(f, "{sign}0.{}{digits}", "0".repeat(-exponent as usize))
            }
            exponent => write!(f, "{sign}0.{digits}e{exponent}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        Number::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn numbers_compare_by_value_however_they_are_written() {
        let rising = [
            "-1e400",
            "-100000000000000000002",
            "-100000000000000000001",
            "-2.5",
            "-2",
            "-1e-400",
            "0",
            "1e-400",
            "0.1",
            "0.10000000000000000000001",
            "1",
            "9007199254740992.5",
            "9007199254740993",
            "100000000000000000001",
            "100000000000000000002",
            "1e400",
            "1.0000001e400",
        ];
        for (index, one) in rising.iter().enumerate() {
            for (other_index, other) in rising.iter().enumerate() {
                assert_eq!(number(one).cmp(&number(other)), index.cmp(&other_index), "{one} and {other}");
            }
        }
        for same in ["10", "10.0", "1e1", "1E+1", "100e-1", "0.01e3", "10.000"] {
            assert_eq!(number(same), number("10"), "{same}");
        }
        assert_eq!(number("-0"), number("0e9"));
    }

    #[test]
    fn multiples_are_exact() {
        for (value, divisor) in [("19.99", "0.01"), ("1e308", "3e0"), ("0", "7"), ("-6", "3"), ("1.1", "0.1")]
        {
            let expected = value != "1e308";
            assert_eq!(number(value).is_multiple_of(&number(divisor)), expected, "{value} of {divisor}");
        }
        assert!(number("9007199254740994").is_multiple_of(&number("2")));
        assert!(!number("9007199254740993").is_multiple_of(&number("2")));
        assert!(number("1e400").is_multiple_of(&number("125")));
        assert!(!number("0.5").is_multiple_of(&number("1")));
        assert!(!number("15").is_multiple_of(&number("10")));
    }

    #[test]
    fn whole_numbers_and_counts() {
        assert!(["1.0", "1e2", "-5", "0", "1e400"].iter().all(|text| number(text).is_integer()));
        assert!(["1.5", "1e-1", "9007199254740992.5"].iter().all(|text| !number(text).is_integer()));
        let counts = ["0", "12.0", "3e3", "1e400", "-1", "1.5"].map(|text| number(text).to_count());
        assert_eq!(counts, [Some(0), Some(12), Some(3000), Some(usize::MAX), None, None]);
    }
}
