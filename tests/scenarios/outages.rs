//! What clients see while PostgreSQL or NATS is away, and that everything goes on afterwards in the same process.

mod disk;
mod nats;
mod postgres;
