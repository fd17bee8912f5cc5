//! Records an operator's access over the database in the activity log of each tenant, before the access.

use activity::{Activity, ActivityKind};
use nix::unistd::{Uid, User, getuid};
use schemas::engine::{Actor, TenantId, clock, ids};
use store::Store;

use crate::failure::Failure;

/// Maximum length of a recorded command line in bytes.
const ACTION_BYTES_MAX: usize = 300;

/// Records this command line for the tenants. On an error the caller must not access their data.
pub async fn record_access(
    store: &Store,
    tenants: impl IntoIterator<Item = TenantId>,
) -> Result<(), Failure> {
    let (actor, action) = (format!("operator:{}", operator()), command_line(std::env::args().skip(1)));
    let mut audited: Vec<TenantId> = tenants.into_iter().collect();
    audited.sort_unstable();
    audited.dedup();
    for tenant in audited {
        let activity = Activity {
            id: ids::new_id(),
            at: clock::now(),
            kind: ActivityKind::OperatorAccess,
            actor: Actor::recorded(actor.clone()).to_string(),
            action: action.clone(),
            outcome: "accepted".to_owned(),
            count: 1,
            request_id: None,
            address: None,
        };
        activity::record(&store.tenant(tenant), &[activity]).await?;
    }
    Ok(())
}

/// The user that runs the program, as the operating system knows it.
fn operator() -> String {
    let uid: Uid = getuid();
    User::from_uid(uid).ok().flatten().map_or_else(|| format!("uid-{uid}"), |user| user.name)
}

/// Arguments whose values are personal data. Their values are not recorded, because the activity log outlives an
/// erasure.
const PERSONAL_ARGUMENTS: [&str; 3] = ["--email", "--admin", "--admin-name"];

/// The command line to record. It contains no secrets, because they are passed in files.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let mut line = "annals".to_owned();
    let arguments: Vec<String> = arguments.collect();
    // With `annals admin` it is a person's name, otherwise the name of a thing.
    let names_person = arguments.iter().any(|argument| argument == "admin");
    let is_personal = |name: &str| PERSONAL_ARGUMENTS.contains(&name) || (names_person && name == "--name");
    let mut personal = false;
    for argument in arguments {
        line.push(' ');
        let name = argument.split('=').next().unwrap_or_default();
        let argument = match (personal, is_personal(name)) {
            (true, _) => "…".to_owned(),
            (false, true) if name.len() < argument.len() => format!("{name}=…"),
            _ => argument.clone(),
        };
        personal = !personal && is_personal(&argument);
        // Control characters would break a list of entries.
        line.extend(argument.chars().map(|letter| if letter.is_control() { ' ' } else { letter }));
    }
    line.truncate(line.floor_char_boundary(ACTION_BYTES_MAX));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_one_line_and_bounded() {
        let line = |arguments: &[&str]| command_line(arguments.iter().map(ToString::to_string));
        assert_eq!(line(&["log", "replace", "--reason", "a\nb\0"]), "annals log replace --reason a b ");
        assert!(line(&[&"é".repeat(500)]).len() <= ACTION_BYTES_MAX);
        let personal = ["admin", "create", "--email", "a@b.example", "--name=Ada", "--tenant", "acme"];
        assert_eq!(line(&personal), "annals admin create --email … --name=… --tenant acme");
        let thing = ["credential", "create", "--name", "erp"];
        assert_eq!(line(&thing), "annals credential create --name erp");
        assert!(!operator().is_empty());
    }
}
