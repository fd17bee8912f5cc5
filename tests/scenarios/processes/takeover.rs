//! Two more `annals serve` with every role beside a running product; one is killed and one is frozen in the middle of
//! registrations.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Stdio};
use std::time::Instant;

use futures::future::join_all;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::Product;
use crate::support::checker::check;
use crate::support::process::{command, send};

/// An `annals serve` that ends with the value.
struct Served {
    child: Child,
    _log: Lines<BufReader<ChildStderr>>,
}

impl Served {
    fn start(product: &Product) -> Self {
        let mut serve = command();
        serve.args(["--config", &product.annals.settings(), "serve"]);
        for listener in ["PUBLIC", "OPERATIONS", "ADMIN"] {
            serve.env(format!("ANNALS__GATEWAY__{listener}_ADDRESS"), "127.0.0.1:0");
        }
        serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = serve.spawn().expect("the binary runs");
        let mut log = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let running = log
            .by_ref()
            .map(|line| serde_json::from_str::<Value>(&line.expect("logs are text")).expect("logs are JSON"));
        running.into_iter().find(|line| line["message"] == "running").expect("it says that it runs");
        Self { child, _log: log }
    }

    fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by the test's own signal.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_killed_or_frozen_are_replaced_and_come_back_harmlessly() {
    let product = Product::start(&["--ephemeral"]);
    let (killed, frozen) = (Served::start(&product), Served::start(&product));
    let mut tenants = Vec::new();
    for _ in 0..6 {
        tenants.push(product.tenant().await);
    }
    let register = |round: usize| {
        join_all(tenants.iter().enumerate().map(move |(index, tenant)| async move {
            for n in 0..3 {
                let email = format!("user-{index}-{round}-{n}@processes.example");
                tenant.register(&email, "Ada").await;
            }
        }))
    };
    register(0).await;
    let (_, ()) = futures::join!(register(1), async {
        killed.signal(Signal::SIGKILL);
        frozen.signal(Signal::SIGSTOP);
    });
    let lost = Instant::now();
    for tenant in &tenants {
        check(tenant).await;
    }
    println!("everything was caught up with {} ms after two of three died", lost.elapsed().as_millis());
    frozen.signal(Signal::SIGCONT);
    register(2).await;
    for tenant in &tenants {
        let checked = check(tenant).await;
        assert_eq!(checked.users.len(), 10, "nine and the administrator");
    }
}
