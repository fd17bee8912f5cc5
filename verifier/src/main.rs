//! The program `annals-verify`: `annals audit verify` alone, for machines without the product.

use std::process::ExitCode;

use clap::Parser;
use terminal::{OneLine, Output};
use verifier::Verify;

/// Verify an export with nothing but the file and the key; exit code 9 when it is not the signed history
#[derive(Debug, Parser)]
#[command(name = "annals-verify", version, after_help = EXIT_CODES)]
struct Arguments {
    /// The format of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    verify: Verify,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 usage, 9 check found problems.";

fn main() -> ExitCode {
    let Arguments { output, verify } = Arguments::parse();
    match verify.run(output) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("error: {}", OneLine(&error));
            error.exit().into()
        }
    }
}
