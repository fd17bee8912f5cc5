//! Chooses between two media types by the header `Accept` (RFC 9110, section 12.5.1).

use axum::http::{HeaderMap, header};

/// Whether `Accept` lists `first` with a weight that is not below the weight of `second`. A type of weight 0 is not
/// acceptable.
pub fn prefers(headers: &HeaderMap, first: &str, second: &str) -> bool {
    let (first, second) = (weight(headers, first), weight(headers, second));
    first.is_some_and(|first| first > 0 && first >= second.unwrap_or(0))
}

/// The weight of `wanted` in thousandths. `None` when `Accept` does not list the type.
fn weight(headers: &HeaderMap, wanted: &str) -> Option<u32> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges = values.flat_map(|value| value.split(','));
    ranges
        .filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts.next().unwrap_or_default().eq_ignore_ascii_case(wanted);
            named.then(|| parts.find_map(quality).unwrap_or(1_000))
        })
        .max()
}

fn quality(parameter: &str) -> Option<u32> {
    let (name, value) = parameter.split_once('=')?;
    let weight = value.trim().parse::<f32>().ok().filter(|weight| (0.0..=1.0).contains(weight));
    name.trim().eq_ignore_ascii_case("q").then(|| weight.map_or(0, |weight| (weight * 1_000.0) as u32))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_type_is_preferred_by_name_and_weight() {
        let prefers = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            prefers(&headers, "application/a", "application/b")
        };
        for yes in
            ["application/a", "application/b, application/a", "Application/A;q=0.5, application/b;q=0.4"]
        {
            assert!(prefers(yes), "{yes}");
        }
        for no in [
            "application/b",
            "*/*",
            "application/a;q=0",
            "application/a; q=0.0, application/b",
            "application/a;q=0.3, application/b;q=0.9",
            "application/a;q=x",
            "",
        ] {
            assert!(!prefers(no), "{no}");
        }
    }
}
