//! Writes the fingerprints of the rules.

#[path = "../schemas/fingerprints.rs"]
mod fingerprints;

fn main() -> std::io::Result<()> {
    fingerprints::write()
}
