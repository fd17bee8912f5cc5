//! Registries: what the product consists of. Every layer reads them, and names nothing a second time.

use std::fmt;
use std::ops::Deref;
use std::sync::OnceLock;

/// A list of the product's own parts, as a slice. A program that is built from the product's crates may add its own parts
/// before it reads the list.
///
/// It is a `static`, because a constant would be instantiated in every crate that names it.
pub struct Registry<T: 'static> {
    own: &'static [T],
    all: OnceLock<&'static [T]>,
}

impl<T: Copy> Registry<T> {
    /// The list of the product.
    pub const fn of(own: &'static [T]) -> Self {
        Self { own, all: OnceLock::new() }
    }

    /// Adds parts, once and before the list is read. The memory stays in use until the process ends.
    ///
    /// # Errors
    /// [`RegistryInUse`] if the list was read or extended before.
    pub fn extend(&self, more: &[T]) -> Result<(), RegistryInUse> {
        self.all.set([self.own, more].concat().leak()).map_err(|_| RegistryInUse)
    }
}

impl<T> Deref for Registry<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.all.get_or_init(|| self.own)
    }
}

/// The registry was read or extended before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryInUse;

impl fmt::Display for RegistryInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a registry is extended once, and before it is read")
    }
}

impl std::error::Error for RegistryInUse {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_extended_once_and_before_it_is_read() {
        let numbers = Registry::of(&[1, 2]);
        assert_eq!(numbers.extend(&[3]), Ok(()));
        assert_eq!(*numbers, [1, 2, 3]);
        assert_eq!(numbers.extend(&[4]), Err(RegistryInUse));
        let numbers = Registry::of(&[1, 2]);
        assert_eq!(numbers.len(), 2);
        assert_eq!(numbers.extend(&[3]), Err(RegistryInUse));
        assert_eq!(*numbers, [1, 2]);
    }
}
