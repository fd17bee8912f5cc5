//! The saga engine on real servers: log, relay, JetStream, follower, saga, commands.

mod compensation;
mod crash_points;
mod fairness;
mod invariants;
mod onboarding;
mod recorded;
mod rejected;
mod timers;
