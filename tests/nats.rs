//! The relay and the follower, on a real PostgreSQL and a real nats-server, read by a stock NATS client.

mod cluster;
mod connection;
mod crash_points;
mod credentials;
mod forgery;
mod invariants;
mod relay;
mod republish;
mod stream_consumer;
mod upgrade;
