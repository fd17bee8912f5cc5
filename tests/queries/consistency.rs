//! Reading one's own writes: a read waits for the position in its token, and not for ever.

use std::time::Duration;

use commands::{CommandSideEffects, Customer, Executor};
use projections::{CUSTOMERS, checkpoints};
use queries::engine::wait::wait_at_most;
use queries::{WaitError, wait_for};
use schemas::crm::customer::{CustomerCommand, CustomerDetails};
use schemas::engine::{Email, LogId, Name, ids};
use store::{ConsistencyToken, TenantStore};

use crate::support::postgres::{Database, open_tenant};
use crate::support::rows::{Setup, keep_all, system};

const SHORT: Duration = Duration::from_millis(100);

fn command() -> CustomerCommand {
    CustomerCommand::RegisterCustomer {
        user_id: None,
        details: CustomerDetails {
            name: Name::parse("Ada").expect("a valid name"),
            email: Email::parse("ada@example.com").expect("a valid address"),
            company: None,
            notes: None,
        },
    }
}

#[tokio::test]
async fn a_write_is_read_behind_its_token() {
    let setup = Setup::new().await;
    for _ in 0..20 {
        let context = system(&setup.tenant);
        let written = setup
            .executor
            .execute::<Customer>(&context, ids::new_id(), command(), CommandSideEffects::default())
            .await
            .expect("registered");
        wait_for(&setup.tenant, &written.consistency_token, &checkpoints()).await.expect("is reached");
        assert!(
            crate::support::lists::get::<projections::CustomerRow>(&setup.tenant, written.id).await.is_some()
        );
    }
}

#[tokio::test]
async fn a_read_waits_for_a_while_and_then_says_so() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let written = executor
        .execute::<Customer>(&system(&tenant), ids::new_id(), command(), CommandSideEffects::default())
        .await
        .expect("registered");
    let token = &written.consistency_token;
    let nobody_works = wait_at_most(&tenant, token, &[CUSTOMERS], SHORT).await;
    assert!(matches!(nobody_works, Err(WaitError::Timeout)));
    wait_for(&tenant, token, &[]).await.expect("nothing to wait for");

    let _kept = keep_all(&store);
    wait_at_most(&tenant, token, &checkpoints(), Duration::from_secs(20)).await.expect("is reached");
}

#[tokio::test]
async fn a_token_that_can_never_be_reached_fails_at_once() {
    let setup = Setup::new().await;
    setup.register("Ada", "ada@example.com", None).await;
    let (tenant, key) = (&setup.tenant, setup.store.key());
    let head = tenant.head().await.expect("reads");
    let token = |of: &TenantStore, log_id: LogId, position: u64| {
        ConsistencyToken { tenant: of.id(), log_id, position }.encode(key)
    };
    let other = open_tenant(&setup.store, "other").await;
    let tokens = [
        token(tenant, head.log_id, head.position + 1),
        token(tenant, LogId(ids::random_id()), 1),
        token(&other, head.log_id, 1),
        "forged".to_owned(),
        String::new(),
        token(tenant, head.log_id, 1).to_uppercase(),
    ];
    for token in tokens {
        // Far more patience than the test has.
        let refused = wait_at_most(tenant, &token, &checkpoints(), Duration::from_hours(1)).await;
        assert!(matches!(refused, Err(WaitError::Invalid)), "{token}");
    }
    wait_for(tenant, &token(tenant, head.log_id, head.position), &checkpoints())
        .await
        .expect("this one is fine");
}
