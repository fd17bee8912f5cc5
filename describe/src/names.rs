//! Names in the spellings of Rust, JSON and GraphQL.

/// Converts `user_id` and `RegisterCustomer` to `userId` and `registerCustomer`.
pub(crate) fn camel_case(name: &str) -> String {
    let mut converted = String::new();
    for (index, word) in name.split('_').enumerate() {
        let mut letters = word.chars();
        let first = letters.next();
        converted.extend(first.map(|letter| {
            if index == 0 { letter.to_ascii_lowercase() } else { letter.to_ascii_uppercase() }
        }));
        converted.extend(letters);
    }
    converted
}

/// Converts `PastDue` to `past_due`.
pub(crate) fn snake_case(name: &str) -> String {
    let mut converted = String::new();
    for (index, letter) in name.chars().enumerate() {
        if letter.is_ascii_uppercase() && index > 0 {
            converted.push('_');
        }
        converted.push(letter.to_ascii_lowercase());
    }
    converted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_converted_word_by_word() {
        assert_eq!(camel_case("user_id"), "userId");
        assert_eq!(camel_case("RegisterCustomer"), "registerCustomer");
        assert_eq!(snake_case("PastDue"), "past_due");
        assert_eq!(snake_case("Active"), "active");
    }
}
