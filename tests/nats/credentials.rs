//! Integrators' credentials on NATS in operator mode: what a stock client can do with them, and everything it cannot.

mod attacks;
mod lifecycle;
mod recovery;
