//! What the product's command lines share: the formats of output, the exit codes, and messages of errors on one line.

mod exit;
mod message;
mod output;

pub use exit::Exit;
pub use message::OneLine;
pub use output::{Output, ignore_broken_pipe, json_line, table};
