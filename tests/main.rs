//! The integration tests: one binary, real servers. `support` starts them; each module below is an area of the product.

mod store;
mod support;
