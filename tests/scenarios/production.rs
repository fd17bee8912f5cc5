//! A deployment of one's own, as the README and `annals init` set it up: from an empty PostgreSQL and a NATS with
//! credentials to a registration that is read.

mod init;
mod walkthrough;
