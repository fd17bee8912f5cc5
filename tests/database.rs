//! Connections to PostgreSQL: TLS, how many there are, what becomes of a dropped request, reads in one round trip, and what each role may do.

mod connections;
mod dropped;
mod reads;
mod rights;
mod tls;
