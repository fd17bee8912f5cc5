//! `annals` with plants: this test binary as a process, which adds plants to the registries and runs the command line.

use std::process::{Command, ExitCode, Stdio};

use access::policy::{self, Owner, Permission};
use commands::{AGGREGATES, AnyAggregate};
use projections::{READ_MODELS, ReadModel};
use schemas::contracts::{self, EVENTS};
use schemas::engine::{AnyEvents, RegistryInUse};
use schemas::identity::role::Role;
use schemas::identity::scope::Scope;
use serde_json::Value;

use super::{earlier, read_model, rules, vocabulary};
use crate::support::process;

/// Which release of plants the program has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    Earlier,
    Later,
}

/// The setting of the process that names the release.
const RELEASE: &str = "ANNALS_TEST_PLANTS";
/// The argument that prints the contracts of events.
const CONTRACTS: &str = "contracts";

/// A command of the program in a clean environment. Its arguments follow.
pub fn command(release: Release) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    process::clean(&mut command);
    let (_, path) = module_path!().split_once("::").expect("a module of the crate");
    // With one thread the name of the test would stand before what the program prints.
    let harness = ["--exact", "--nocapture", "--test-threads=2"];
    command.arg(format!("{path}::a_process_with_plants_prints_their_contracts")).args(harness).arg("--");
    command.env(RELEASE, format!("{release:?}"));
    command
}

/// What a command prints as lines of JSON.
pub fn rows(release: Release, arguments: &[&str]) -> Vec<Value> {
    let mut command = command(release);
    let output = command.args(arguments).stdin(Stdio::null()).output().expect("this binary runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} failed: {errors}");
    let text = String::from_utf8(output.stdout).expect("standard output is text");
    text.lines()
        .filter(|line| line.starts_with('{'))
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// The AsyncAPI document of the program.
pub fn asyncapi(release: Release) -> Value {
    rows(release, &[CONTRACTS]).pop().expect("the document")
}

const fn permission(name: &'static str, roles: &'static [Role], scopes: &'static [Scope]) -> Permission {
    Permission { name, roles, scopes, owner: Owner::None }
}

/// All that the product is told of plants, beside the three files.
fn register(release: Release) -> Result<(), RegistryInUse> {
    policy::COMMANDS.extend(&[
        permission("SowPlant", &[Role::TenantAdmin], &[Scope::CrmWrite]),
        permission("MovePlant", &[Role::TenantAdmin], &[Scope::CrmWrite]),
        permission("ErasePlant", &[], &[]),
    ])?;
    match release {
        Release::Earlier => {
            EVENTS.extend(&[AnyEvents::of::<earlier::PlantEvent>()])?;
            AGGREGATES.extend(&[AnyAggregate::of::<earlier::Plant>()])?;
            READ_MODELS.extend(&[ReadModel::of::<earlier::PlantRow>()])
        }
        Release::Later => {
            EVENTS.extend(&[AnyEvents::of::<vocabulary::PlantEvent>()])?;
            AGGREGATES.extend(&[AnyAggregate::of::<rules::Plant>()])?;
            READ_MODELS.extend(&[ReadModel::of::<read_model::PlantRow>()])
        }
    }
}

/// It is also the process that [`command`] starts: with a release in its environment it runs the command line.
#[test]
fn a_process_with_plants_prints_their_contracts() -> ExitCode {
    let Some(release) = std::env::var_os(RELEASE) else {
        let document = asyncapi(Release::Later).to_string();
        assert!(document.contains("garden.plant.") && document.contains("crm.customer.registered.v1"));
        return ExitCode::SUCCESS;
    };
    let release = if release == "Earlier" { Release::Earlier } else { Release::Later };
    register(release).expect("nothing has read the registries");
    let words: Vec<String> = std::env::args().skip_while(|word| word != "--").skip(1).collect();
    if words == [CONTRACTS] {
        println!("{}", contracts::document());
        return ExitCode::SUCCESS;
    }
    let arguments = cli::Arguments::of(["annals".to_owned()].into_iter().chain(words));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let exit = runtime.block_on(cli::run(arguments));
    runtime.shutdown_background();
    exit
}
