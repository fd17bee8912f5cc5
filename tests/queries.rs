//! Reads on a real PostgreSQL: pages, filters, indexes, the wait for a position.

mod consistency;
mod filters;
mod indexes;
mod pages;
