//! `annals dev` and the command line, as a user meets them: starting, stopping, crashing, coming back.

mod administrators;
mod command_line;
mod known_password;
mod lifecycle;
mod refusals;
mod serving;
mod users;
