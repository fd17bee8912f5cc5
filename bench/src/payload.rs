//! The event that every system writes.

/// 400 bytes of JSON, the same for everybody.
pub fn payload() -> String {
    let frame =
        serde_json::json!({"name": "Ada Lovelace", "email": "ada@example.com", "notes": ""}).to_string();
    let filling = "x".repeat(400 - frame.len());
    serde_json::json!({"name": "Ada Lovelace", "email": "ada@example.com", "notes": filling}).to_string()
}
