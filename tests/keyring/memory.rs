//! The memory of a process that serves: the key of an erased person is nowhere in it.

use std::io::{Read, Seek, SeekFrom};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use memchr::memmem;
use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use crate::support::deployment::Process;
use crate::support::eventually;
use crate::support::key_stores::{KeyStoreKind, over_both_key_stores};
use crate::support::restore_site::Site;
use crate::support::restore_site::{erase, named, users};

over_both_key_stores!(the_key_of_an_erased_person_is_nowhere_in_the_memory_of_a_process);

/// The data key of a subject, unwrapped as `docs/personal-data.md` describes it.
async fn data_key(site: &Site, kind: KeyStoreKind, subject: Uuid) -> Vec<u8> {
    let (tenant, key, epoch, wrapped): (Uuid, Uuid, i64, Vec<u8>) = match kind {
        KeyStoreKind::Postgres => {
            let sql = "select tenant, id, epoch, wrapped from keys where subject = $1";
            let row =
                site.deployment.keys().connect().await.query_one(sql, &[&subject]).await.expect("a key");
            (row.get(0), row.get(1), row.get(2), row.get(3))
        }
        KeyStoreKind::File => {
            let file = site.deployment.settings().with_file_name("keys").join("keys.sqlite");
            let database = rusqlite::Connection::open(file).expect("opens");
            let sql =
                "select tenant, id, epoch, bytes from keys join wrapped using (slot) where subject = ?1";
            let row = database.query_row(sql, [subject.as_bytes()], |row| {
                let id = |column| row.get(column).map(Uuid::from_bytes);
                Ok((id(0)?, id(1)?, row.get(2)?, row.get(3)?))
            });
            row.expect("a key")
        }
    };
    let settings = std::fs::read_to_string(site.deployment.settings()).expect("settings");
    let root = settings.lines().find_map(|line| line.strip_prefix("root_key = ")).expect("a root key");
    let root = hmac::Key::new(hmac::HMAC_SHA256, &hex::decode(root.trim_matches('"')).expect("hexadecimal"));
    let label = [b"annals-wrap/v1\0", tenant.as_bytes().as_slice(), &epoch.to_be_bytes()].concat();
    let wrapping = hmac::sign(&root, &label);
    let wrapping = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, wrapping.as_ref()).expect("32 bytes"));
    let about =
        [b"annals-key/v1\0", tenant.as_bytes().as_slice(), subject.as_bytes(), key.as_bytes()].concat();
    let (nonce, sealed) = wrapped.split_at(12);
    let nonce = Nonce::try_assume_unique_for_key(nonce).expect("12 bytes");
    let mut sealed = sealed.to_vec();
    wrapping.open_in_place(nonce, Aad::from(about), &mut sealed).expect("unwraps").to_vec()
}

/// How often the bytes are in the memory of a process.
fn copies(process: &Process, needles: &[&[u8]]) -> Vec<usize> {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.pid())).expect("the maps");
    let mut memory = std::fs::File::open(format!("/proc/{}/mem", process.pid())).expect("the memory");
    let mut found = vec![0; needles.len()];
    for line in
        maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw")))
    {
        let (begin, end) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let address = |text: &str| u64::from_str_radix(text, 16).expect("an address");
        let (begin, end) = (address(begin), address(end));
        let mut bytes = vec![0; (end - begin) as usize];
        // It may have been given back since the maps were read.
        let read = memory.seek(SeekFrom::Start(begin)).and_then(|_| memory.read_exact(&mut bytes));
        if read.is_err() {
            continue;
        }
        for (needle, count) in needles.iter().zip(&mut found) {
            *count += memmem::find_iter(&bytes, needle).count();
        }
    }
    found
}

async fn the_key_of_an_erased_person_is_nowhere_in_the_memory_of_a_process(kind: KeyStoreKind) {
    let site = Site::with_keys(&["gateway,relay,projections,sagas,sealer"], kind).await;
    site.at_rest().await;
    let all = users(&site).await;
    let [ada, bob] = ["ada", "bob"].map(|name| named(&all, name).expect("is there")["id"].clone());
    let subject = |user: &Value| user.as_str().and_then(|id| id.parse().ok()).expect("an id");
    let key = data_key(&site, kind, subject(&ada)).await;
    let other = data_key(&site, kind, subject(&bob)).await;
    let texts = [base64::prelude::BASE64_STANDARD.encode(&key), hex::encode(&key)];
    let needles = [&key[..], texts[0].as_bytes(), texts[1].as_bytes()];

    // Read, written, exported with keys: whatever a process does with one.
    let process = site.gateway();
    eventually("the key is in memory while it is used", || async {
        site.log(&site.busy).await;
        (copies(process, &needles)[0] > 0).then_some(())
    })
    .await;
    let recipient = keyring::Identity::generate().recipient().to_string();
    let path = format!("/v1/audit/export?keys_to={recipient}");
    eventually("an export hands the key over", || async {
        let export = process.request(Method::GET, &path).bearer_auth(&site.busy.token).send().await.ok()?;
        let text = export.error_for_status().ok()?.text().await.ok()?;
        // In base64: an encrypted piece begins with the name of its format.
        let begins = base64::prelude::BASE64_STANDARD.encode("age-encryption.org/v1");
        text.contains(&begins).then_some(())
    })
    .await;

    erase(&site, &ada).await;
    let left = copies(process, &needles);
    assert_eq!(left, [0, 0, 0], "copies of the bytes, of base64 and of hexadecimal");
    // It works, and what is still used is still found.
    eventually("another key is in memory while it is used", || async {
        site.log(&site.busy).await;
        (copies(process, &[&other])[0] > 0).then_some(())
    })
    .await;
    // Without any use it leaves the memory when its lease ends.
    eventually("the key of a lease that has ended is gone", || async {
        (copies(process, &[&other])[0] == 0).then_some(())
    })
    .await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.pid())).expect("the limits");
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(cores.split_whitespace().nth(4), Some("0"), "{cores}");
}
