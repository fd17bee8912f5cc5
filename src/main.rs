//! The binary `annals`: the memory allocator, the runtime, and a call of the command line (crate `cli`).

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// The memory allocator. It returns memory to the system after a burst and is faster than the system's (docs/adr/0030).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let arguments = cli::Arguments::from_command_line();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let exit = runtime.block_on(cli::run(arguments));
    // All tasks got the stop signal. Tasks that ignore it are not awaited.
    runtime.shutdown_background();
    exit
}
