//! The binary `annals`: command line, configuration, private servers for development, and the wiring of all crates.

mod cli;
mod config;
mod demo;
mod limits;
mod logging;
mod signals;
mod supervise;
mod wiring;

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;

/// Gives memory back to the system when a burst is over, and is quicker than the system's (docs/adr/0030).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let exit = runtime.block_on(cli::run(arguments));
    // What still runs has been told to stop; nobody waits for what did not listen.
    runtime.shutdown_background();
    exit
}
