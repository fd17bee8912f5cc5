//! Text of people: its visible characters, and a key under which equivalent spellings are equal.

use caseless::default_case_fold_str;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// Letters and symbols that fonts draw as blank: fillers of Hangul, and the blank pattern of Braille.
const BLANK_CHARS: [char; 5] = ['\u{115f}', '\u{1160}', '\u{2800}', '\u{3164}', '\u{ffa0}'];

/// Whether the character is visible to a reader.
pub fn is_visible(character: char) -> bool {
    let group = character.general_category_group();
    let drawn = matches!(
        group,
        GeneralCategoryGroup::Letter
            | GeneralCategoryGroup::Number
            | GeneralCategoryGroup::Punctuation
            | GeneralCategoryGroup::Symbol
    );
    drawn && !BLANK_CHARS.contains(&character)
}

/// The key under which text is looked up. Compatibility forms and case are ignored (Unicode Standard, section 3.13,
/// toNFKC_Casefold, but invisible characters are kept, because callers reject them).
pub fn lookup_key(text: &str) -> String {
    let compatible: String = text.nfkc().collect();
    default_case_fold_str(&compatible).nfkc().collect()
}

/// The key of an e-mail address. Its domain is mapped by UTS 46, so that punycode and letters are equal.
pub fn email_key(text: &str) -> String {
    let text = text.trim();
    let Some((local, domain)) = text.rsplit_once('@') else { return lookup_key(text) };
    let domain = idna::domain_to_ascii(domain).unwrap_or_else(|_| lookup_key(domain));
    format!("{}@{domain}", lookup_key(local))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_address_have_one_key() {
        for (one, other) in [
            ("Ada@Example.com", "ada@example.com"),
            ("ada@b\u{fc}cher.example", "ada@xn--bcher-kva.example"),
            ("ada@BU\u{308}CHER.example", "ada@b\u{fc}cher.example"),
            ("\u{ff41}\u{ff44}\u{ff41}@example.com", "ada@example.com"),
            ("ada@\u{ff45}xample.com", "ada@example.com"),
            ("jos\u{e9}@example.com", "jose\u{301}@example.com"),
            ("\u{3a3}\u{3a3}@example.com", "\u{3c3}\u{3c2}@example.com"),
            ("stra\u{df}e@example.com", "STRASSE@example.com"),
            (" ada@example.com ", "ada@example.com"),
        ] {
            assert_eq!(email_key(one), email_key(other), "{one} {other}");
        }
        assert_ne!(email_key("ada@example.com"), email_key("ada@example.org"));
    }

    #[test]
    fn what_fonts_draw_as_nothing_is_not_visible() {
        for character in [
            '\u{200b}',
            '\u{2060}',
            '\u{feff}',
            '\u{3164}',
            '\u{2800}',
            '\u{ad}',
            ' ',
            '\u{301}',
            '\u{e0041}',
        ] {
            assert!(!is_visible(character), "{}", character.escape_unicode());
        }
        for character in ['a', '\u{5d0}', '\u{4e2d}', '7', '\u{1f980}', '-'] {
            assert!(is_visible(character), "{character}");
        }
    }
}
