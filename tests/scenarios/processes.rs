//! Several processes over one PostgreSQL and one NATS: they share the work, and others take over from those that die.

mod sharing;
mod stopping;
mod takeover;
