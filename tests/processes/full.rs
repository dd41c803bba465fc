//! The disk is full: while commands come in, and while tables are rebuilt.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::database::{Cluster, run_sql};
use crate::dice::Dice;
use crate::http::{Addresses, Answer, Caller, Tenant, external_ids};
use crate::place::{Place, Service};
use crate::wait::until;

/// Longest wait for being told that there is no room, on a busy machine.
const TOLD: Duration = Duration::from_secs(5);
/// By then a service writes again.
const RECOVERED: Duration = Duration::from_secs(15);
/// By then a rebuild has ended, and tables have what was appended.
const REBUILT: Duration = Duration::from_secs(45);
/// Of the file system that fills up. Less than the write-ahead log may grow to.
const DISK: &str = "8m";
const BALLAST_CHUNK: usize = 4096;
const BULKY: usize = 4000;

/// Notifications whose rows take up room, and how many come in one call.
const LARGE: usize = 600;
const CALL: usize = 40;
/// Their metadata: most that is allowed, so that few rows are many megabytes.
const ENTRIES: usize = 50;
const ENTRY_WORDS: usize = 31;
/// Room for the record, the live tables and the write-ahead log, but not for the same tables again.
const LARGE_DISK: &str = "160m";
/// What is left for the new tables: enough to begin with.
const LEFT: u64 = 3 * 1024 * 1024;
/// Of the file system that only holds new tables.
const TABLES_DISK: &str = "6m";

/// A file system of a few megabytes. Gone when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None` where this process may not make one.
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            // Not `eprintln!`, which a passing test keeps to itself.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: a full disk needs root, to mount a small one"
            );
        }
        mounted.then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut ballast = File::create(self.path().join("ballast")).unwrap();
        while ballast.write_all(&[0; BALLAST_CHUNK]).is_ok() {}
    }

    /// Takes all the room but for some.
    fn fill_but(&self, left: u64) {
        self.fill();
        let ballast = self.path().join("ballast");
        let ballast = File::options().write(true).open(ballast).unwrap();
        let taken = ballast.metadata().unwrap().len();
        ballast.set_len(taken.checked_sub(left).unwrap()).unwrap();
    }

    fn clear(&self) {
        fs::remove_file(self.path().join("ballast")).unwrap();
    }

    /// As if a larger disk had been put in.
    fn grow(&self, size: &str) {
        let grown = Command::new("mount")
            .args(["-o", &format!("remount,size={size}")])
            .arg(self.path())
            .status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.path().display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_and_is_survived() {
    let Some(disk) = SmallDisk::mount(DISK) else {
        return;
    };
    let place = Place::sqlite_in(disk.path());
    let service = place.start().await;
    let tenant = place.tenant("a", 0);
    let caller = Caller::new(&Addresses::of(&[&service]), &tenant);
    let mut answered = Vec::new();
    let mut calls = 0;
    let mut bulky = async |answered: &mut Vec<String>| -> Answer {
        calls += 1;
        let external_id = format!("call-{calls:04}");
        let body = json!({
            "workflow_id": "w",
            "subscriber": { "id": "s" },
            "external_id": external_id,
            "payload": { "text": "x".repeat(BULKY) },
        });
        let answer = caller
            .post("/v1/notifications", &[], &body.to_string())
            .await;
        if answer.status == 201 {
            answered.push(external_id);
        }
        answer
    };
    for _ in 0..50 {
        assert_eq!(bulky(&mut answered).await.status, 201);
    }

    disk.fill();
    let refused = until("the disk is full", TOLD, async || {
        let answer = bulky(&mut answered).await;
        (answer.status != 201).then_some(answer)
    })
    .await;
    refused.assert_says_later(&["unavailable"]);
    for _ in 0..10 {
        bulky(&mut answered)
            .await
            .assert_says_later(&["unavailable"]);
    }
    assert_eq!(external_ids(&caller.log().await), answered);

    disk.clear();
    until("the service writes again", RECOVERED, async || {
        (bulky(&mut answered).await.status == 201).then_some(())
    })
    .await;
    for _ in 0..50 {
        assert_eq!(bulky(&mut answered).await.status, 201);
    }
    assert_eq!(external_ids(&caller.log().await), answered);
    place.verify();
    service.kill();
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_fills_the_disk_harms_nothing_on_sqlite() {
    let Some(disk) = SmallDisk::mount(LARGE_DISK) else {
        return;
    };
    let place = Place::sqlite_in(disk.path());
    let full = Rebuilt::new(&place).await;
    disk.fill_but(LEFT);

    full.fails_and_harms_nothing().await;
    // What it had taken is free again, though the disk is as full as it was.
    full.appends().await;

    disk.clear();
    full.succeeds().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn a_rebuild_that_fills_the_disk_harms_nothing_on_postgres() {
    let Some(disk) = SmallDisk::mount(TABLES_DISK) else {
        return;
    };
    let cluster = Cluster::start();
    let place = Place::on(&cluster, "postgres", "postgres");
    place.answer_of(&["migrate"]);
    // Whatever is made from here on is kept there: the shadow tables.
    cluster.own(disk.path());
    let location = disk.path().display();
    let url = cluster.url("postgres", "postgres");
    run_sql(
        &url,
        &format!("CREATE TABLESPACE small LOCATION '{location}'"),
    )
    .await;
    run_sql(
        &url,
        "ALTER DATABASE postgres SET default_tablespace = small",
    )
    .await;
    let full = Rebuilt::new(&place).await;

    full.fails_and_harms_nothing().await;
    full.appends().await;

    disk.grow(LARGE_DISK);
    full.succeeds().await;
    drop(full);
    drop(cluster);
}

/// A service whose tables do not fit on the disk twice.
struct Rebuilt {
    caller: Caller,
    operator: Caller,
    service: Service,
}

impl Rebuilt {
    async fn new(place: &Place) -> Self {
        let service = place.start().await;
        let tenant = place.tenant("a", 0);
        let addresses = Addresses::of(&[&service]);
        let key = place.answer_of(&["keys", "create", "--operator"]);
        let id = "operator".to_owned();
        let made = Self {
            caller: Caller::new(&addresses, &tenant),
            operator: Caller::new(&addresses, &Tenant { id, key }),
            service,
        };
        let mut dice = Dice::of_test("rebuilt on a full disk");
        for call in 0..LARGE / CALL {
            let requests = (0..CALL).map(|number| large(&mut dice, call * CALL + number));
            let lines: Vec<String> = requests.map(|request| request.to_string()).collect();
            let lines = lines.join("\n");
            let answer = made.caller.try_post_lines("/v1/commands", &lines).await;
            let results = answer.unwrap().lines();
            assert!(
                results.iter().all(|result| result["status"] == 201),
                "{results:?}"
            );
        }
        made.has_all(LARGE).await;
        made
    }

    /// Waits until the list has so many.
    async fn has_all(&self, wanted: usize) {
        until("the list has all", REBUILT, async || {
            (self.listed().await.len() == wanted).then_some(())
        })
        .await;
    }

    /// Everything the list shows, which must always be shown.
    async fn listed(&self) -> Vec<Value> {
        let mut found = Vec::new();
        let mut query = "/v1/notifications?limit=200&workflow_id=w".to_owned();
        loop {
            let page = self.caller.get(&query).await;
            assert_eq!(page.status, 200, "{page:?}");
            found.extend(page.body["data"].as_array().unwrap().iter().cloned());
            let Some(cursor) = page.body["next_cursor"].as_str() else {
                return found;
            };
            query = format!("/v1/notifications?limit=200&workflow_id=w&cursor={cursor}");
        }
    }

    /// Rebuilds, and reads as long as that takes. Says how it ended.
    async fn rebuild(&self) -> Value {
        let path = "/v1/admin/projections/notifications/rebuild";
        let before = self.listed().await;
        let begun = self.operator.post(path, &[], "").await;
        assert_eq!(begun.status, 202, "{begun:?}");
        let ended = until("the rebuild has ended", REBUILT, async || {
            assert!(self.listed().await == before, "the list is another");
            let rebuild = self.operator.get(path).await;
            assert_eq!(rebuild.body["rebuild_id"], begun.body["rebuild_id"]);
            (rebuild.body["state"] != "running").then_some(rebuild.body)
        })
        .await;
        assert!(self.listed().await == before, "the list is another");
        ended
    }

    async fn fails_and_harms_nothing(&self) {
        let ended = self.rebuild().await;

        assert_eq!(ended["state"], "failed", "{ended}");
        assert_eq!(ended["checksum_equal"], Value::Null);
        let error = ended["error"].as_str().unwrap();
        assert!(error.contains("the disk is full"), "{error}");
        assert!(error.contains("live tables are untouched"), "{error}");
        // About as much as the metadata alone takes.
        let (_, needed) = error.split_once("Free at least ").unwrap();
        let needed: usize = needed.split_once(" MiB").unwrap().0.parse().unwrap();
        let least = LARGE * ENTRIES * ENTRY_WORDS * 16 / (1024 * 1024);
        assert!((least..6 * least).contains(&needed), "{error}");
        let log = self.service.log();
        assert!(log.contains("a rebuild failed"), "{log}");
        let progress = self.operator.get("/v1/admin/projections").await;
        for partition in progress.body["data"][0]["partitions"].as_array().unwrap() {
            assert_eq!(partition["state"], "running", "{partition}");
        }
    }

    /// More comes in, and into the list.
    async fn appends(&self) {
        let body = json!({
            "workflow_id": "w",
            "subscriber": { "id": "s" },
            "external_id": "late",
        });
        let body = body.to_string();
        until("the service writes", RECOVERED, async || {
            let answer = self.caller.post("/v1/notifications", &[], &body).await;
            (answer.status == 201).then_some(())
        })
        .await;
        self.has_all(LARGE + 1).await;
    }

    async fn succeeds(&self) {
        let ended = self.rebuild().await;

        assert_eq!(ended["state"], "done", "{ended}");
        assert_eq!(ended["checksum_equal"], true, "{ended}");
        assert_eq!(ended["error"], Value::Null);
    }
}

/// A request whose row is large, and of which nothing can be compressed away.
fn large(dice: &mut Dice, number: usize) -> Value {
    let metadata: serde_json::Map<String, Value> = (0..ENTRIES)
        .map(|entry| {
            let words = (0..ENTRY_WORDS).map(|_| format!("{:016x}", dice.number()));
            (format!("entry-{entry}"), words.collect::<String>().into())
        })
        .collect();
    json!({
        "type": "request",
        "workflow_id": "w",
        "subscriber": { "id": "s" },
        "external_id": format!("large-{number}"),
        "metadata": metadata,
    })
}
