//! The limits of a schema.

/// Maximum bytes of a schema, as compact JSON.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// Maximum bytes of a schema after its references are resolved.
pub const EXPANDED_BYTES_MAX: usize = 256 * 1024;
/// Maximum subschemas after references are resolved.
pub(super) const SUBSCHEMAS_MAX: usize = 2_000;
/// Maximum patterns; each one becomes an automaton.
pub(super) const PATTERNS_MAX: usize = 50;
pub(super) const PATTERN_CHARS_MAX: usize = 500;
/// Maximum bytes of the automaton of a pattern, and of all patterns of a schema, counted once for each use.
pub(super) const PATTERN_BYTES_MAX: usize = 256 * 1024;
pub(super) const PATTERNS_BYTES_MAX: usize = 1024 * 1024;
pub(super) const DEPTH_MAX: usize = 32;
pub(super) const MESSAGE_CHARS_MAX: usize = 200;
