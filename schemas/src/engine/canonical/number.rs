//! Canonical numbers, by their exact value.

/// Maximum digits of a number that is written out. Longer numbers and fractions are written as digits with a power of
/// ten.
const PLAIN_DIGITS_MAX: usize = 40;
/// Maximum digits of an exponent that is normalised. A longer exponent is kept as written: two spellings of such a
/// number are different, which is harmless, because no program can use it.
const EXPONENT_DIGITS_MAX: usize = 17;

/// Writes the canonical form of a valid JSON number: its digits without leading and trailing zeros, and a power of ten.
pub(super) fn write(number: &str, out: &mut Vec<u8>) {
    let (sign, unsigned) = match number.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", number),
    };
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return out.push(b'0');
    }
    let Some(exponent) = parse(exponent) else {
        return out.extend_from_slice(number.to_ascii_lowercase().as_bytes());
    };
    let dropped = (digits.len() - significant.len()) as i64;
    let power = exponent + dropped - fraction.len() as i64;
    let plain = usize::try_from(power).ok().filter(|power| significant.len() + power <= PLAIN_DIGITS_MAX);
    let text = match plain {
        Some(zeros) => format!("{sign}{significant}{}", "0".repeat(zeros)),
        None => format!("{sign}{significant}e{power}"),
    };
    out.extend_from_slice(text.as_bytes());
}

fn parse(exponent: &str) -> Option<i64> {
    let (negative, digits) = match exponent.as_bytes().first() {
        Some(b'-') => (true, &exponent[1..]),
        Some(b'+') => (false, &exponent[1..]),
        _ => (false, exponent),
    };
    let digits = digits.trim_start_matches('0');
    if digits.len() > EXPONENT_DIGITS_MAX {
        return None;
    }
    let value: i64 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    Some(if negative { -value } else { value })
}
