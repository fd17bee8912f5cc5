//! How many connections a process has, for each set of roles, at rest and under load, against the table in
//! `docs/operations.md`: counted by the server, by the metric, and told by `annals doctor`.

use std::collections::BTreeMap;

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::deployment::{Answer, Deployment, Process};
use crate::support::nats_server::NatsServer;
use crate::support::postgres_server::PostgresServer;
use crate::support::{eventually, process};

/// Requests at once of the load, well above all pools together.
const BURST: usize = 80;
/// Connections that PostgreSQL takes by default.
const MAX_CONNECTIONS: usize = 100;

/// The lines `| `roles` | at rest | at most |` of the documentation.
fn documented() -> BTreeMap<String, (usize, usize)> {
    let text = include_str!("../../docs/operations.md");
    let table = text.split("## Connections to PostgreSQL").nth(1).expect("the section is there");
    let lines =
        table.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        Some((cells[0].trim_matches('`').to_owned(), (cells[1].parse().ok()?, cells[2].parse().ok()?)))
    };
    lines.filter_map(row).collect()
}

/// The sum of the metric over the database roles.
async fn counted(process: &Process) -> usize {
    let (_, metrics) = process.operations("/metrics").await.expect("it answers");
    let lines = metrics.lines().filter(|line| line.starts_with("annals_database_connections{"));
    lines
        .map(|line| {
            line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number") as usize
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_set_of_roles_has_no_more_connections_than_documented() {
    let documented = documented();
    assert_eq!(documented.len(), 7, "each role, and all of them");
    let (database, broker) = tokio::join!(PostgresServer::start(&[]), NatsServer::start());
    let deployment = Deployment::new(database.port(), &broker.url());
    let settings = std::fs::read_to_string(deployment.settings()).expect("the settings are there");
    // The defaults, but for how long an idle connection is kept.
    let settings = settings.replace("pool_size = 6\n", "idle_timeout_seconds = 1\n");
    std::fs::write(deployment.settings(), settings).expect("written");
    let processes: Vec<Process> = documented.keys().map(|roles| deployment.serve(roles)).collect();
    join_all(processes.iter().map(Process::started)).await;
    let of = |roles: &str| processes.iter().find(|process| process.roles() == roles).expect("it was started");
    let all = of("gateway,relay,projections,sagas,sealer,webhooks");
    let tenant = deployment.tenant(all, "acme").await;

    let at_rest = async |process: &Process| {
        eventually("the connections that are not needed are closed", || async {
            (counted(process).await <= documented[process.roles()].0).then_some(())
        })
        .await;
    };
    join_all(processes.iter().map(at_rest)).await;
    let observer = database.connect().await;
    let by_server = async || {
        let statement = "select count(*) from pg_stat_activity where usename like 'annals%'";
        observer.query_one(statement, &[]).await.expect("counts").get::<_, i64>(0) as usize
    };
    eventually("the metric says what the server says", || async {
        let metric: usize = join_all(processes.iter().map(counted)).await.into_iter().sum();
        (metric == by_server().await).then_some(())
    })
    .await;

    let load = async |process: &Process| {
        let command = |number: usize| {
            let input =
                format!("{{name: \"C{number}\", email: \"c{number}-{}@example.com\"}}", process.pid());
            json!({"query": format!("mutation {{ registerCustomer(input: {input}) {{ outcome }} }}")})
        };
        let request = |body| process.request(Method::POST, "/graphql").bearer_auth(&tenant.token).json(&body);
        let answers = join_all((0..BURST).flat_map(|number| {
            let list = json!({"query": "{ customers(first: 50) { totalCount } }"});
            [Answer::of(request(command(number))), Answer::of(request(list))]
        }));
        answers.await.iter().filter(|answer| answer.status == StatusCode::OK).count()
    };
    let mut most = BTreeMap::new();
    let mut loading = std::pin::pin!(async { tokio::join!(load(all), load(of("gateway"))) });
    let done = loop {
        tokio::select! {
            done = &mut loading => break done,
            seen = join_all(processes.iter().map(counted)) => {
                for (process, seen) in processes.iter().zip(seen) {
                    let most: &mut usize = most.entry(process.roles()).or_default();
                    *most = (*most).max(seen);
                }
            }
        }
    };
    assert!(done.0 > BURST && done.1 > BURST, "the load is served: {done:?}");
    for (roles, most) in &most {
        assert!(*most <= documented[*roles].1, "{roles} had {most} connections");
    }
    assert!(most["gateway"] > documented["gateway"].0, "the load needs more than at rest: {most:?}");
    assert!(
        2 * documented[all.roles()].1 < MAX_CONNECTIONS * 3 / 4,
        "two processes of all roles fit comfortably"
    );

    let settings = deployment.settings().display().to_string();
    let doctor = process::run(&["--config", &settings, "--output", "jsonl", "doctor"]).stdout;
    let doctor = String::from_utf8(doctor).expect("text");
    for (roles, (_, limit)) in &documented {
        let name = if roles.contains(',') { "all roles" } else { roles };
        assert!(doctor.contains(&format!("{name} {limit}")), "{name} {limit}: {doctor}");
    }
}
