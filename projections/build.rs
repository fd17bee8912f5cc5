//! Writes the fingerprints of the read models.

#[path = "../schemas/fingerprints.rs"]
mod fingerprints;

fn main() -> std::io::Result<()> {
    fingerprints::write()
}
