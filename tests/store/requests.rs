//! Requests that append no event, under a key: carried out once, answered the same way again.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use schemas::engine::ids;
use store::{
    AnswerRetention, AppendError, ExpectedVersion, IdempotencyClaim, KeyUse, OpenRequest, RequestAnswer,
    RequestEnd, RequestStart, StoreError, TenantStore,
};

use super::append::{append, stream};
use crate::support::postgres::{Database, open_tenant};

const WAIT: Duration = Duration::from_secs(10);

fn answer(body: &str) -> RequestAnswer {
    RequestAnswer { http_status: 201, body: Bytes::copy_from_slice(body.as_bytes()) }
}

async fn start(tenant: &TenantStore, claim: IdempotencyClaim) -> RequestStart {
    let guard = tenant.lock_request(claim.key, WAIT).await.expect("its turn");
    guard.begin(claim).await.expect("begins")
}

fn opened(start: RequestStart) -> Box<OpenRequest> {
    match start {
        RequestStart::New(open) => open,
        _ => panic!("the key is used"),
    }
}

/// A write of the request's own, in its transaction.
async fn write(open: &OpenRequest) {
    let sql =
        "insert into stream_tickets (tenant_id, ticket_id, expires_at) values ($1, gen_random_uuid(), now())";
    let transaction = open.transaction();
    transaction.execute(sql, &[&transaction.tenant().0]).await.expect("writes");
}

async fn writes(database: &Database) -> i64 {
    let superuser = database.connect("postgres").await;
    superuser.query_one("select count(*) from stream_tickets", &[]).await.expect("counts").get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_gets_the_first_answer_and_another_one_is_refused() {
    let database = Database::create().await;
    let tenant = open_tenant(&database.store().await, "acme").await;
    let claim = IdempotencyClaim::new(ids::new_id(), [1; 32]);
    let open = opened(start(&tenant, claim).await);
    write(&open).await;
    let end = open.complete(&answer("first"), AnswerRetention::Permanent).await.expect("commits");
    assert_eq!(end, RequestEnd::Completed);
    for _ in 0..2 {
        assert!(
            matches!(start(&tenant, claim).await, RequestStart::Repeat(again) if again == answer("first"))
        );
    }
    let other = IdempotencyClaim { digest: [2; 32], ..claim };
    assert!(matches!(start(&tenant, other).await, RequestStart::KeyReused));
    let neighbour = open_tenant(tenant.store(), "other").await;
    assert!(matches!(start(&neighbour, claim).await, RequestStart::New(_)), "a key is the tenant's");
    assert_eq!(writes(&database).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_serves_a_command_or_a_request_and_never_both() {
    let database = Database::create().await;
    let tenant = open_tenant(&database.store().await, "acme").await;
    let claim = IdempotencyClaim::new(ids::new_id(), [1; 32]);
    let command = |claim| {
        let mut command = append(&stream(), ExpectedVersion::NoStream, "{}");
        command.claim = Some(claim);
        command
    };
    tenant.append(command(claim)).await.expect("appends");
    assert!(matches!(start(&tenant, claim).await, RequestStart::KeyReused));

    let claim = IdempotencyClaim::new(ids::new_id(), [1; 32]);
    let open = opened(start(&tenant, claim).await);
    open.complete(&answer("first"), AnswerRetention::Permanent).await.expect("commits");
    assert!(matches!(tenant.append(command(claim)).await, Err(AppendError::CommandIdReused)));
    assert_eq!(tenant.key_use(&claim).await.expect("reads"), KeyUse::Other);

    // The command comes while the request is at work.
    let claim = IdempotencyClaim::new(ids::new_id(), [1; 32]);
    let open = opened(start(&tenant, claim).await);
    write(&open).await;
    tenant.append(command(claim)).await.expect("appends");
    let end = open.complete(&answer("late"), AnswerRetention::Permanent).await.expect("answered");
    assert_eq!(end, RequestEnd::KeyReused);
    assert_eq!((writes(&database).await, tenant.head().await.expect("reads").position), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_once_under_one_key_wait_for_the_first() {
    let database = Database::create().await;
    let (here, there) = (database.store().await, database.store().await);
    let id = open_tenant(&here, "acme").await.id();
    let processes = [here.tenant(id), there.tenant(id)];
    let claim = IdempotencyClaim::new(ids::new_id(), [1; 32]);
    let request = |n: usize| {
        let tenant = &processes[n % 2];
        async move {
            let guard = tenant.lock_request(claim.key, WAIT).await.expect("its turn");
            match guard.begin(claim).await.expect("begins") {
                RequestStart::New(open) => {
                    write(&open).await;
                    let own = answer(&n.to_string());
                    assert_eq!(
                        open.complete(&own, AnswerRetention::Permanent).await.expect("commits"),
                        RequestEnd::Completed
                    );
                    own
                }
                RequestStart::Repeat(first) => first,
                _ => panic!("no answer"),
            }
        }
    };
    let answers = join_all((0..40).map(request)).await;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(writes(&database).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_end_leaves_nothing_and_frees_its_key() {
    let database = Database::create().await;
    let (here, there) = (database.store().await, database.store().await);
    let id = open_tenant(&here, "acme").await.id();
    let claim = IdempotencyClaim::new(ids::new_id(), [1; 32]);
    let guard = here.tenant(id).lock_request(claim.key, WAIT).await.expect("its turn");
    let open = opened(guard.begin(claim).await.expect("begins"));
    write(&open).await;

    // Meanwhile nobody else has the key, in this process or in another, and waiting ends.
    let short = Duration::from_millis(100);
    let here_again = here.tenant(id).lock_request(claim.key, short).await;
    assert!(matches!(here_again, Err(StoreError::Unavailable(_))));
    let turn_there = there.tenant(id).lock_request(claim.key, short).await.expect("its turn there");
    assert!(matches!(turn_there.begin(claim).await, Err(StoreError::Unavailable(_))));
    drop(turn_there);

    // Its connection ends, as it does with its process.
    let superuser = database.connect("postgres").await;
    let end = "select pg_terminate_backend(pid) from pg_locks
               where locktype = 'advisory'
                 and database = (select oid from pg_database where datname = current_database())";
    superuser.query(end, &[]).await.expect("ends the connection");
    let next = opened(start(&there.tenant(id), claim).await);
    next.complete(&answer("second"), AnswerRetention::Permanent).await.expect("commits");
    assert!(open.complete(&answer("first"), AnswerRetention::Permanent).await.is_err());
    drop(guard);
    assert!(
        matches!(start(&here.tenant(id), claim).await, RequestStart::Repeat(kept) if kept == answer("second"))
    );
    assert_eq!(writes(&database).await, 0, "what the first wrote was rolled back");

    // Dropped in the middle, as a request whose client goes.
    let claim = IdempotencyClaim::new(ids::new_id(), [1; 32]);
    let open = opened(start(&here.tenant(id), claim).await);
    write(&open).await;
    drop(open);
    assert!(matches!(start(&there.tenant(id), claim).await, RequestStart::New(_)));
    assert_eq!(writes(&database).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_a_secret_is_sealed_and_ends_before_its_receipt() {
    let database = Database::create().await;
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let superuser = database.connect("postgres").await;
    let claim = IdempotencyClaim::new(ids::new_id(), [1; 32]);
    let secret = answer("whsec_a-very-secret-value");
    let open = opened(start(&tenant, claim).await);
    open.complete(&secret, AnswerRetention::Secret).await.expect("commits");
    assert!(!format!("{secret:?}").contains("whsec"));
    let row = superuser
        .query_one("select body, expires_at - now() between interval '23 hours' and interval '24 hours' from request_answers", &[])
        .await
        .expect("one answer");
    assert!(!row.get::<_, &[u8]>(0).windows(5).any(|part| part == b"whsec"));
    assert!(row.get::<_, bool>(1), "it is kept for 24 hours");
    assert!(matches!(start(&tenant, claim).await, RequestStart::Repeat(again) if again == secret));

    superuser
        .execute("update request_answers set expires_at = now() - interval '1 second'", &[])
        .await
        .expect("updates");
    assert!(matches!(start(&tenant, claim).await, RequestStart::AnswerExpired));
    assert_eq!(tenant.expire_receipts(10).await.expect("removes"), 1);
    assert!(
        matches!(start(&tenant, claim).await, RequestStart::AnswerExpired),
        "the request is not carried out again"
    );
    assert!(matches!(
        start(&tenant, IdempotencyClaim { digest: [2; 32], ..claim }).await,
        RequestStart::KeyReused
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passing_request_is_forgotten_with_its_answer() {
    let database = Database::create().await;
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let superuser = database.connect("postgres").await;
    let claim = IdempotencyClaim::new(ids::new_id(), [1; 32]);
    let open = opened(start(&tenant, claim).await);
    open.complete(&answer("ticket"), AnswerRetention::Temporary).await.expect("commits");
    assert!(matches!(start(&tenant, claim).await, RequestStart::Repeat(_)));
    let over = "update receipts set expires_at = now() - interval '1 second';
                update request_answers set expires_at = now() - interval '1 second'";
    superuser.batch_execute(over).await.expect("updates");
    store.expire_receipts().await.expect("removes");
    assert!(matches!(start(&tenant, claim).await, RequestStart::New(_)));
}
