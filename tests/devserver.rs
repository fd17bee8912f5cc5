//! `annals dev`, as a user meets it: starting, stopping, crashing, coming back.

mod lifecycle;
mod ordinary_user;
mod refusals;
