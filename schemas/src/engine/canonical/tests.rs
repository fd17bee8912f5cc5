//! One form for one content, another for another.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;

fn text(json: &str) -> String {
    String::from_utf8(of_text(json.as_bytes()).expect("JSON")).expect("UTF-8")
}

fn value(value: &impl Serialize) -> String {
    String::from_utf8(of_value(value).expect("serialises")).expect("UTF-8")
}

#[test]
fn order_space_and_escapes_do_not_count() {
    assert_eq!(text(r#" { "b" : [ 1 , {} , [ ] ] , "a" : null } "#), r#"{"a":null,"b":[1,{},[]]}"#);
    assert_eq!(text(r#"{"\u0061":"\u00e9\/\n"}"#), text("{\"a\":\"é/\\n\"}"));
    assert_eq!(text(r#"{"é":1,"z":2,"Z":3}"#), r#"{"Z":3,"z":2,"é":1}"#);
    assert_eq!(text(r#""\ud83d\ude00""#), text("\"\u{1f600}\""));
    assert_ne!(text("[1,2]"), text("[2,1]"));
}

#[test]
fn numbers_are_compared_by_their_exact_value() {
    for same in [
        ["1", "1.0", "10e-1", "0.1E+1"],
        ["0", "-0", "0.000", "-0e9"],
        ["1500", "1.5e3", "15e2", "1500.00"],
        ["-0.25", "-25e-2", "-2.5e-1", "-0.250"],
        ["1e400", "10e399", "100000e395", "0.1e401"],
        [
            "100000000000000000001",
            "100000000000000000001.0",
            "1.00000000000000000001e20",
            "100000000000000000001e0",
        ],
    ] {
        assert!(same.iter().all(|number| text(number) == text(same[0])), "{same:?}");
    }
    for (one, other) in [
        ("100000000000000000001", "100000000000000000002"),
        ("0.1", "0.1000000000000000055511151231257827"),
        ("9007199254740992", "9007199254740993"),
        ("1e400", "1e401"),
        ("1e-400", "0"),
        ("1", "-1"),
        ("1e99999999999999999999", "1e99999999999999999998"),
    ] {
        assert_ne!(text(one), text(other));
    }
    for integer in ["0", "7", "-12", "18446744073709551615", "1200"] {
        assert_eq!(text(integer), integer);
    }
}

#[test]
fn nulls_in_data_count() {
    assert_ne!(text(r#"{"a":null}"#), text("{}"));
    assert_ne!(text("[null]"), text("[]"));
}

#[test]
fn a_member_that_occurs_twice_is_refused() {
    for twice in [r#"{"a":1,"a":1}"#, r#"{"a":1,"b":2,"\u0061":1}"#, r#"[{"x":{"a":1,"a":2}}]"#] {
        assert_eq!(of_text(twice.as_bytes()), Err(CanonicalError::DuplicateMember("a".to_owned())));
    }
}

#[test]
fn what_is_not_json_has_no_canonical_form() {
    for wrong in [
        "",
        " ",
        "{",
        "[",
        "[1,]",
        "{,}",
        r#"{"a"}"#,
        r#"{"a":}"#,
        "{a:1}",
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "-",
        "tru",
        "nul",
        "NaN",
        "1 2",
        "[1}",
        r#""\ud800""#,
        r#""\x""#,
        "\"\n\"",
        r#"""#,
        r#""\"#,
        r#""\""#,
    ] {
        assert!(matches!(of_text(wrong.as_bytes()), Err(CanonicalError::Invalid(_))), "{wrong}");
    }
    assert!(of_text(b"\"\xff\"").is_err());
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(of_text(nested(DEPTH_MAX).as_bytes()).is_ok());
    assert_eq!(of_text(nested(DEPTH_MAX + 1).as_bytes()), Err(CanonicalError::TooDeep));
    assert_eq!(of_text(nested(200_000).as_bytes()), Err(CanonicalError::TooDeep));
}

#[derive(Serialize)]
struct Command {
    name: &'static str,
    notes: Option<&'static str>,
    lines: Vec<Option<u32>>,
    data: Value,
    raw: Box<RawValue>,
    #[serde(flatten)]
    details: Details,
}

#[derive(Serialize)]
struct Details {
    city: Option<&'static str>,
    zip: &'static str,
}

#[derive(Serialize)]
enum Commands {
    Register(Command),
    Move { to: Option<&'static str>, by: (u8, char) },
    Close,
}

#[test]
fn an_absent_field_does_not_count_and_a_null_in_data_does() {
    let raw = |text: &str| RawValue::from_string(text.to_owned()).expect("JSON");
    let command = |notes, data, text: &str| Command {
        name: "Ada",
        notes,
        lines: vec![Some(1), None],
        data,
        raw: raw(text),
        details: Details { city: None, zip: "1" },
    };
    let plain = command(None, json!({"b": null, "a": 1}), r#"{"n": 100000000000000000001.0}"#);
    assert_eq!(
        value(&plain),
        r#"{"data":{"a":1,"b":null},"lines":[1,null],"name":"Ada","raw":{"n":100000000000000000001},"zip":"1"}"#
    );
    assert_ne!(value(&plain), value(&command(Some("x"), json!({"b": null, "a": 1}), "{}")));
    assert_eq!(
        of_value(&command(None, Value::Null, r#"{"a":1,"a":2}"#)),
        Err(CanonicalError::DuplicateMember("a".to_owned()))
    );
    assert_eq!(value(&Commands::Move { to: None, by: (7, 'x') }), r#"{"Move":{"by":[7,"x"]}}"#);
    assert_eq!(value(&Commands::Close), r#""Close""#);
    let registered = value(&Commands::Register(plain));
    assert!(registered.starts_with(r#"{"Register":{"data":"#) && registered.ends_with("}}"));
    assert_eq!(value(&1.5), "15e-1");
    assert_eq!(value(&None::<u8>), "null");
    assert!(of_value(&f64::NAN).is_err());
}

#[test]
fn a_value_and_its_text_have_one_form() {
    for json in [json!({"z": [1, 2.5, -3], "a": {"k": "é\n\""}}), json!([]), json!("x"), json!(null)] {
        assert_eq!(value(&json), text(&json.to_string()));
    }
}
