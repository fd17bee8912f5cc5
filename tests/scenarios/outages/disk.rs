//! A full disk under PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::deployment::Answer;
use crate::support::eventually;
use crate::support::nats_server::NatsServer;
use crate::support::outage_site::Site;
use crate::support::postgres_server::PostgresServer;

/// A small file system of its own; it is unmounted with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(megabytes: u32) -> Option<Self> {
        if !nix::unistd::Uid::effective().is_root() {
            return None;
        }
        let disk = Self(crate::support::folder());
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=755"), "tmpfs"]).arg(disk.path());
        mount.output().is_ok_and(|output| output.status.success()).then_some(disk)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes until nothing fits any more.
    fn fill(&self) -> PathBuf {
        let file = self.path().join("filler");
        let mut full = std::fs::File::create(&file).expect("a file");
        while std::io::Write::write(&mut full, &[1; 4096]).is_ok_and(|written| written > 0) {}
        file
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, in case something still looks at it; a failure leaves an empty mount behind.
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}

#[tokio::test]
async fn full() {
    let Some(disk) = SmallDisk::mount(96) else {
        println!("skipped: mounting a small file system needs root and CAP_SYS_ADMIN");
        return;
    };
    let (mut postgres, nats) = (PostgresServer::start_in(disk.path(), &[]).await, NatsServer::start().await);
    let site = Site::start(postgres.port(), &nats.url()).await;
    site.registered("ada", 1_000).await;
    let filler = disk.fill();
    // What is allocated already still takes some events.
    let mut key = 2_000;
    eventually("the disk is full", || {
        key += 1;
        let (site, name) = (&site, format!("filling-{key}"));
        async move {
            let answer = Answer::of(site.register(&name, key)).await;
            answer.is_unavailable().then_some(())
        }
    })
    .await;
    assert_eq!(site.process.probe("/livez").await, Some(reqwest::StatusCode::OK));
    std::fs::remove_file(filler).expect("the disk is emptied");
    // A server that could not write its log has ended; whoever watches over it starts it again.
    if !postgres.is_running() || postgres.try_connect().await.is_none() {
        postgres.stop(nix::sys::signal::Signal::SIGQUIT);
        postgres.restart().await;
    }
    site.assert_resumed().await;
}
