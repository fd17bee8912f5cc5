//! `annals dev` and the command line, as a user meets them: starting, stopping, crashing, coming back.

mod command_line;
mod lifecycle;
mod refusals;
mod serving;
mod users;
