//! Connections to PostgreSQL: TLS, how many there are, what becomes of a dropped request, and what each role may do.

mod connections;
mod dropped;
mod rights;
mod tls;
