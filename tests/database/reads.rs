//! Reads in one round trip: values, snapshots, errors, outdated plans, and connections that break.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use database::{
    ConnectError, Connector, DatabaseConfig, RawRows, Read, ReadError, ReadPool, ReadPoolConfig, TlsConfig,
    Value,
};
use futures::future::join_all;
use futures::poll;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::eventually;
use crate::support::postgres::{Database, password_of};
use crate::support::wire::{Moment, Wire};

const ROLE: &str = "annals_tenant";
const KEY: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);
const PID: Read<'static> = Read { sql: "select pg_backend_pid()", values: &[] };
const ANSWERS_PER_GROUP: usize = 3;

fn connector(database: &Database, port: u16, password: &str, options: &str) -> Connector {
    let config = DatabaseConfig {
        host: "127.0.0.1".to_owned(),
        port,
        name: database.name.clone(),
        user: ROLE.to_owned(),
        password: password.into(),
        application_name: "reads".to_owned(),
        options: options.to_owned(),
        tls: TlsConfig::default(),
    };
    Connector::new(&config).expect("no files to read")
}

fn pool_with(connector: &Connector, connections: usize) -> ReadPool {
    let idle_timeout = Duration::from_mins(1);
    ReadPool::new(connector, ReadPoolConfig { connections, connections_per_key: connections, idle_timeout })
}

fn pool(database: &Database, connections: usize) -> ReadPool {
    pool_with(&connector(database, database.port, &password_of(ROLE), ""), connections)
}

async fn one(pool: &ReadPool, sql: &str, values: &[Value<'_>]) -> Result<RawRows, ReadError> {
    pool.read(KEY, &[Read { sql, values }]).await.map(|mut rows| rows.remove(0))
}

fn number(rows: &RawRows) -> i64 {
    rows.row(0).get(0).expect("a number")
}

async fn pid(pool: &ReadPool) -> i32 {
    let rows = pool.read(KEY, &[PID]).await.expect("reads");
    rows[0].row(0).get(0).expect("a number")
}

fn state(error: &ReadError) -> &str {
    error.state().map_or("none", |state| state.code())
}

/// Waits until sessions of the role run a statement like this, and returns how many there are.
async fn busy(observer: &Client, like: &str, expected: i64) {
    let sql = "select count(*) from pg_stat_activity
               where datname = current_database() and usename = $1 and state = 'active' and query like $2";
    eventually("that many statements run", || async {
        let row = observer.query_one(sql, &[&ROLE, &like]).await.expect("counts");
        (row.get::<_, i64>(0) == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_back_as_they_were_sent() {
    let database = Database::create().await;
    let pool = pool(&database, 1);
    let time = DateTime::from_timestamp_micros(-1_700_000_000_123_456).expect("a time");
    let date = NaiveDate::from_ymd_opt(1999, 2, 28).expect("a date");
    let uuids = [Uuid::from_u128(5), Uuid::from_u128(u128::MAX)];
    let values = [
        Value::Bool(true),
        Value::Int4(i32::MIN),
        Value::Int8(i64::MAX),
        Value::Text("Grüße 'q' \\"),
        Value::Bytea(&[0, 255]),
        Value::Uuid(uuids[0]),
        Value::Timestamptz(time),
        Value::Date(date),
        Value::TextArray(&["a", "", "b,\"c"]),
        Value::UuidArray(&uuids),
        Value::TextArray(&[]),
    ];
    let sql = "select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, null::text, ($7 at time zone 'UTC')::text, $8::text";
    let rows = one(&pool, sql, &values).await.expect("reads");
    let row = rows.row(0);
    assert!(row.get::<bool>(0).expect("reads"));
    assert_eq!(row.get::<i32>(1).expect("reads"), i32::MIN);
    assert_eq!(row.get::<i64>(2).expect("reads"), i64::MAX);
    assert_eq!(row.get::<&str>(3).expect("reads"), "Grüße 'q' \\");
    assert_eq!(row.get::<&[u8]>(4).expect("reads"), [0, 255]);
    assert_eq!(row.get::<Uuid>(5).expect("reads"), uuids[0]);
    assert_eq!(row.get::<DateTime<Utc>>(6).expect("reads"), time);
    assert_eq!(row.get::<NaiveDate>(7).expect("reads"), date);
    assert_eq!(row.get::<Vec<&str>>(8).expect("reads"), ["a", "", "b,\"c"]);
    assert_eq!(row.get::<Vec<Uuid>>(9).expect("reads"), uuids);
    assert_eq!(row.get::<Vec<&str>>(10).expect("reads"), [""; 0]);
    assert_eq!(row.get::<Option<&str>>(11).expect("reads"), None);
    // What PostgreSQL has understood.
    assert_eq!(row.get::<&str>(12).expect("reads"), time.format("%Y-%m-%d %H:%M:%S%.6f").to_string());
    assert_eq!(row.get::<&str>(13).expect("reads"), "1999-02-28");
    assert_eq!((row.field(1), row.field(11)), (Some(&i32::MIN.to_be_bytes()[..]), None));

    let many =
        one(&pool, "select repeat('x', 1000) from generate_series(1, 20000)", &[]).await.expect("reads");
    assert_eq!(many.len(), 20_000);
    assert!(many.iter().all(|row| row.field(0).is_some_and(|field| field.len() == 1_000)));
    let none = one(&pool, "select 1 where false", &[]).await.expect("reads");
    assert!(none.is_empty() && none.columns().len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_has_one_snapshot_and_writes_nothing() {
    let database = Database::create().await;
    let writer = database.connect("postgres").await;
    writer
        .batch_execute(
            "create table notes (id int); grant all on notes to public; select pg_advisory_lock(7)",
        )
        .await
        .expect("prepared");
    let pool = pool(&database, 1);
    let count = Read { sql: "select count(*) from notes", values: &[] };
    let wait = Read { sql: "select pg_advisory_xact_lock(7)", values: &[] };
    let group = [count, wait, count];
    let read = pool.read(KEY, &group);
    let write = async {
        busy(&writer, "select pg_advisory_xact_lock%", 1).await;
        writer
            .batch_execute("insert into notes values (1); select pg_advisory_unlock(7)")
            .await
            .expect("writes");
    };
    let (rows, ()) = tokio::join!(read, write);
    let rows = rows.expect("reads");
    assert_eq!((number(&rows[0]), number(&rows[2])), (0, 0));
    let rows = pool.read(KEY, &group).await.expect("reads");
    assert_eq!((number(&rows[0]), number(&rows[2])), (1, 1), "the next group has another snapshot");

    let refused =
        one(&pool, "insert into notes values (2) returning 1::int8", &[]).await.expect_err("read-only");
    assert_eq!(state(&refused), "25006");
    let settings = "select current_setting('transaction_isolation'), current_setting('application_name')";
    let rows = one(&pool, settings, &[]).await.expect("reads");
    assert_eq!(rows.row(0).get::<&str>(0).expect("text"), "repeatable read");
    assert_eq!(rows.row(0).get::<&str>(1).expect("text"), "reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_ends_its_group_and_the_connection_goes_on() {
    let database = Database::create().await;
    let pool = pool(&database, 1);
    let session = pid(&pool).await;
    let divide = "select 1 / $1";
    for _ in 0..3 {
        for (sql, values, code) in [
            ("selec 1", &[][..], "42601"),
            ("select * from nowhere", &[], "42P01"),
            ("select * from events where tenant_id = $1", &[Value::Int4(1)], "42883"),
            (divide, &[Value::Int4(0)], "22012"),
            ("select $1", &[Value::Text("a\0b")], "22021"),
            ("select password from activities", &[], "42703"),
        ] {
            let group = [PID, Read { sql, values }, PID];
            let error = pool.read(KEY, &group).await.expect_err("refused");
            assert_eq!(state(&error), code, "{sql}");
            assert!(!error.is_transient());
        }
        let rows =
            one(&pool, divide, &[Value::Int4(1)]).await.expect("the statement is prepared all the same");
        assert_eq!(rows.row(0).get::<i32>(0).expect("a number"), 1);
    }
    assert!(matches!(one(&pool, "select '\0'", &[]).await, Err(ReadError::Broken(_))));
    assert_eq!(pid(&pool).await, session, "it is the same connection all the while");

    // More than the maximum of one answer, in rows that are small.
    let large = "select repeat('x', 1000000) from generate_series(1, 80)";
    assert!(matches!(one(&pool, large, &[]).await, Err(ReadError::TooLarge)));
    assert_eq!(pid(&pool).await, session);
    // One message beyond the maximum: the connection is given up.
    let huge = "select repeat('x', 70000000)";
    assert!(matches!(one(&pool, huge, &[]).await, Err(ReadError::Broken(_))));
    assert_ne!(pid(&pool).await, session);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_groups_get_their_own_answers_whatever_the_others_do() {
    let database = Database::create().await;
    let pool = pool(&database, 3);
    let texts = ["select $1::int8, 'a'", "select $1::int8, 'b'", "select $1::int8, 'c' where $1 > 0"];
    let ask = async |index: i64| {
        let key = if index % 2 == 0 { KEY } else { OTHER };
        let values = [Value::Int8(index)];
        let read = |text: usize| Read { sql: texts[text % texts.len()], values: &values };
        let failing = Read { sql: "select 1 / ($1 - $1)", values: &values };
        match index % 5 {
            // Dropped on the way, in the queue or on the connection.
            0 => {
                let group = [read(0), read(1)];
                let mut dropped = Box::pin(pool.read(key, &group));
                for _ in 0..index % 7 {
                    if poll!(&mut dropped).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            1 => {
                let error = pool.read(key, &[read(0), failing]).await.expect_err("divides by zero");
                assert_eq!(state(&error), "22012");
            }
            _ => {
                let group = [read(index as usize), read(index as usize + 1)];
                let rows = pool.read(key, &group).await.expect("reads");
                assert_eq!(rows.len(), 2);
                assert!(rows.iter().all(|rows| rows.is_empty() || number(rows) == index));
                assert_eq!(rows[0].len(), 1, "{index}");
            }
        }
    };
    for round in 0..20 {
        join_all((1..60).map(|index| ask(round * 100 + index))).await;
    }
    // At rest, nothing is left over.
    let rows = pool.read(KEY, &[PID; ANSWERS_PER_GROUP]).await.expect("reads");
    assert_eq!(rows.len(), ANSWERS_PER_GROUP);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outdated_plan_is_prepared_anew() {
    let database = Database::create().await;
    let owner = database.connect("postgres").await;
    owner
        .batch_execute(
            "create table notes (id int); insert into notes values (1); grant select on notes to public",
        )
        .await
        .expect("prepared");
    let pool = pool(&database, 1);
    let all = "select * from notes";
    let session = pid(&pool).await;
    assert_eq!(one(&pool, all, &[]).await.expect("reads").columns().len(), 1);
    owner.batch_execute("alter table notes add column text text default 'new'").await.expect("changes");
    let rows = one(&pool, all, &[]).await.expect("it is prepared anew");
    assert_eq!((rows.columns().len(), rows.row(0).get::<&str>(1).expect("text")), (2, "new"));
    // Several groups at once find the same plan outdated.
    owner.batch_execute("alter table notes drop column text").await.expect("changes");
    let group = [Read { sql: all, values: &[] }];
    for rows in join_all((0..20).map(|_| pool.read(KEY, &group))).await {
        assert_eq!(rows.expect("it is prepared anew")[0].columns().len(), 1);
    }
    owner.batch_execute("drop table notes").await.expect("drops");
    assert_eq!(state(&one(&pool, all, &[]).await.expect_err("it is gone")), "42P01");
    // A statement that the server has lost is prepared again as well.
    one(&pool, "select 5", &[]).await.expect("reads");
    one(&pool, "deallocate all", &[]).await.expect("runs");
    one(&pool, "select 5", &[]).await.expect("reads");
    assert_eq!(pid(&pool).await, session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_keeps_a_bounded_number_of_statements() {
    let database = Database::create().await;
    let pool = pool(&database, 1);
    for number in 0..300 {
        let text = format!("select {number}::int8");
        assert_eq!(self::number(&one(&pool, &text, &[]).await.expect("reads")), number);
    }
    let rows = one(&pool, "select count(*) from pg_prepared_statements", &[]).await.expect("reads");
    // The statement that was evicted last is closed with the next group.
    assert!((120..=129).contains(&number(&rows)), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_broke_is_replaced_and_the_group_runs_again() {
    let database = Database::create().await;
    let owner = database.connect("postgres").await;
    let pool = pool(&database, 1);
    let first = pid(&pool).await;
    let kill = async |pid: i32| {
        owner.query_one("select pg_terminate_backend($1)", &[&pid]).await.expect("ends");
    };
    // At rest.
    kill(first).await;
    let second = eventually("another connection", || async {
        let pid = pid(&pool).await;
        (pid != first).then_some(pid)
    })
    .await;
    // With a group on it, and others behind it.
    owner.batch_execute("select pg_advisory_lock(7)").await.expect("locks");
    let waits = [PID, Read { sql: "select pg_advisory_xact_lock_shared(7)", values: &[] }];
    let reads = join_all((0..4).map(|_| pool.read(KEY, &waits)));
    let killing = async {
        busy(&owner, "select pg_advisory_xact_lock%", 1).await;
        kill(second).await;
        busy(&owner, "select pg_advisory_xact_lock%", 1).await;
        owner.batch_execute("select pg_advisory_unlock(7)").await.expect("unlocks");
    };
    let (answers, ()) = tokio::join!(reads, killing);
    for rows in answers {
        assert_ne!(rows.expect("it runs again")[0].row(0).get::<i32>(0).expect("a number"), second);
    }
}

/// Each message of a group is a place where the connection may break.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_may_break_at_any_message() {
    let database = Database::create().await;
    let wire = Wire::start(database.port).await;
    let pool = pool_with(&connector(&database, wire.port(), &password_of(ROLE), ""), 1);
    let mut cuts = 0;
    for moment in [Moment::Before, Moment::After] {
        for message in 1..=14 {
            one(&pool, "select 1", &[]).await.expect("reads");
            wire.arm(ROLE, message, moment);
            let text = format!("select {message}::int8 + $1");
            let values = [Value::Int8(1)];
            let group = [Read { sql: "select 1", values: &[] }, Read { sql: &text, values: &values }];
            let rows = pool.read(KEY, &group).await.expect("it runs again on another connection");
            assert_eq!(number(&rows[1]), i64::from(message) + 1);
            cuts += u32::from(wire.disarm());
        }
    }
    // Parse, Describe, two times Bind and Execute, and Sync.
    assert!(cuts >= 14, "{cuts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_group_is_cancelled_and_those_behind_it_are_answered() {
    let database = Database::create().await;
    let observer = database.connect("postgres").await;
    let pool = pool(&database, 1);
    let session = pid(&pool).await;
    observer.batch_execute("select pg_advisory_lock(7)").await.expect("locks");
    let waits = [Read { sql: "select pg_advisory_xact_lock_shared(7)", values: &[] }];
    let mut slow = Box::pin(pool.read(KEY, &waits));
    assert!(poll!(&mut slow).is_pending());
    busy(&observer, "select pg_advisory_xact_lock%", 1).await;
    let behind: Vec<_> = (0..3).map(|_| Box::pin(pool.read(KEY, &[PID]))).collect();
    let mut behind = std::pin::pin!(join_all(behind));
    assert!(poll!(&mut behind).is_pending());
    let mut other = std::pin::pin!(pool.read(OTHER, &[PID]));
    assert!(poll!(&mut other).is_pending());
    drop(slow);
    for rows in behind.await {
        assert_eq!(rows.expect("is answered")[0].row(0).get::<i32>(0).expect("a number"), session);
    }
    let rows = other.await.expect("the other key has its turn");
    assert_eq!(rows[0].row(0).get::<i32>(0).expect("a number"), session, "the connection goes on");
    busy(&observer, "select pg_advisory_xact_lock%", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timeouts_and_full_pools_and_refused_logins_have_their_errors() {
    let database = Database::create().await;
    let password = password_of(ROLE);
    let short = pool_with(&connector(&database, database.port, &password, "-c statement_timeout=50ms"), 1);
    let owner = database.connect("postgres").await;
    owner.batch_execute("select pg_advisory_lock(7)").await.expect("locks");
    let ended = one(&short, "select pg_advisory_xact_lock_shared(7)", &[]).await;
    let ended = ended.expect_err("the server ends it");
    assert_eq!((state(&ended), ended.is_transient()), ("57014", true));

    let full = pool(&database, 1);
    let waits = [Read { sql: "select pg_advisory_xact_lock_shared(7)", values: &[] }];
    let mut first = Box::pin(full.read(KEY, &waits));
    assert!(poll!(&mut first).is_pending());
    busy(&owner, "select pg_advisory_xact_lock%", 1).await;
    let late = full.read(OTHER, &[PID]).await.expect_err("no connection comes up");
    assert!(matches!(late, ReadError::Exhausted) && late.is_transient());
    owner.batch_execute("select pg_advisory_unlock(7)").await.expect("unlocks");
    first.await.expect("it had its connection");
    full.read(OTHER, &[PID]).await.expect("it is free again");

    let wrong = pool_with(&connector(&database, database.port, "wrong", ""), 2);
    for answer in join_all((0..5).map(|_| wrong.read(KEY, &[PID]))).await {
        let refused = answer.expect_err("the password is wrong");
        assert!(
            matches!(&refused, ReadError::Connect(error) if matches!(**error, ConnectError::Postgres(_)))
        );
        assert!(!refused.is_transient());
    }
    let nowhere = pool_with(&connector(&database, 1, &password, ""), 1);
    let refused = nowhere.read(KEY, &[PID]).await.expect_err("nothing listens there");
    assert!(refused.is_transient());
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_and_opened_again() {
    let database = Database::create().await;
    let observer = database.connect("postgres").await;
    let config =
        ReadPoolConfig { connections: 4, connections_per_key: 3, idle_timeout: Duration::from_millis(100) };
    let pool = ReadPool::new(&connector(&database, database.port, &password_of(ROLE), ""), config);
    let open = async |expected: i64| {
        eventually("that many connections are open", || async {
            let sql =
                "select count(*) from pg_stat_activity where datname = current_database() and usename = $1";
            let row = observer.query_one(sql, &[&ROLE]).await.expect("counts");
            (row.get::<_, i64>(0) == expected).then_some(())
        })
        .await;
    };
    for _ in 0..3 {
        join_all((0..40).map(|_| pool.read(KEY, &[PID])))
            .await
            .into_iter()
            .for_each(|rows| drop(rows.expect("reads")));
        open(0).await;
    }
    pid(&pool).await;
    drop(pool);
    open(0).await;
}
