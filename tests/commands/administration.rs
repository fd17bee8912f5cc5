//! Administrators who take each other's role at the same moment, from two processes.

use access::Principal;
use bytes::Bytes;
use commands::{CommandContext, ExecuteError, Executor, User, change_roles, deactivate, register_user};
use schemas::engine::TenantId;
use schemas::identity::role::Role;
use schemas::identity::user::UserStatus;
use uuid::Uuid;

use crate::support::commands::{email, name};
use crate::support::postgres::{Database, open_tenant};

/// Rounds of the race.
const ROUNDS: usize = 12;

fn by(tenant: TenantId, user: Uuid) -> CommandContext {
    CommandContext::new(tenant, Principal::user(user, vec![Role::TenantAdmin]))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_administrators_who_remove_each_other_one_remains() {
    let database = Database::create().await;
    let (store, other) = (database.store().await, database.store().await);
    let tenant = open_tenant(&store, "acme").await.id();
    // Two processes, each with its own memory of aggregates.
    let processes = [Executor::new(store, 1024 * 1024), Executor::new(other, 1024 * 1024)];
    let by_cli = CommandContext::new(tenant, Principal::system("cli"));
    for round in 0..ROUNDS {
        let mut admins = Vec::new();
        for number in 0..2 {
            let address = email(&format!("admin{round}-{number}@example.com"));
            let hash = Bytes::from_static(b"x");
            let roles = vec![Role::TenantAdmin];
            let admin = register_user(&processes[0], &by_cli, address, name("Ada"), roles, hash).await;
            admins.push(admin.expect("added").id);
        }
        let remove = |process: usize, by_whom: Uuid, whom: Uuid| {
            let (executor, context) = (processes[process].clone(), by(tenant, by_whom));
            async move {
                if round % 2 == 0 {
                    change_roles(&executor, &context, whom, vec![Role::Member]).await.map(|_done| ())
                } else {
                    deactivate(&executor, &context, whom, None).await.map(|_done| ())
                }
            }
        };
        let done = futures::join!(remove(0, admins[0], admins[1]), remove(1, admins[1], admins[0]));
        let refused = [&done.0, &done.1].map(|done| matches!(done, Err(ExecuteError::Forbidden)));
        assert_eq!(refused.iter().filter(|refused| **refused).count(), 1, "{done:?}");
        let mut left = 0;
        for id in &admins {
            let (user, _) = processes[0].load::<User>(tenant, *id).await.expect("reads").expect("is there");
            let runs = user.roles.contains(&Role::TenantAdmin) && user.status != UserStatus::Deactivated;
            left += usize::from(runs);
        }
        assert_eq!(left, 1, "round {round}");
    }
}
