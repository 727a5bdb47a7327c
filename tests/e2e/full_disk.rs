//! A disk that runs full: clear errors, reads go on, nothing acknowledged is lost, and room heals it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kvnode_tests::words::*;
use kvnode_tests::{Client, Options, Server, code, run};

/// A file system of its own for the data; unmounted on drop.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path, mebibytes: u32) -> Result<SmallDisk, String> {
        std::fs::create_dir_all(path).map_err(|error| error.to_string())?;
        let output = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={mebibytes}m"),
                "kvnode-test",
            ])
            .arg(path)
            .output()
            .map_err(|error| format!("mount: {error}"))?;
        if output.status.success() {
            Ok(SmallDisk(path.to_owned()))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    /// Fills the disk but for so many bytes.
    fn fill_but(&self, left: u64) -> std::io::Result<()> {
        let stat = rustix::fs::statvfs(&self.0)?;
        let free = stat.f_bavail * stat.f_frsize;
        let mut file = std::fs::File::create(self.0.join("ballast"))?;
        let chunk = vec![0xa5; 1 << 20];
        for _ in 0..free.saturating_sub(left) >> 20 {
            file.write_all(&chunk)?;
        }
        Ok(())
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("ballast")).expect("the ballast is ours");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_loses_nothing() {
    let place = kvnode_tests::build::scratch().join("small-disk");
    let disk = match SmallDisk::mount(&place, 512) {
        Ok(disk) => disk,
        Err(why) => {
            println!("skipped: cannot mount a small file system ({why})");
            return;
        }
    };
    let kind = kvnode_tests::build::subject().kind;
    let mut options = Options::default().fsync().data_dir(disk.0.join("data"));
    if kind.is_kvnode() {
        options = options.arg("--min-free-bytes=64MiB");
    }
    let mut server = Server::start(options);
    run(async {
        let client = Client::connect(server.address()).await;
        let mut acknowledged = Vec::new();
        for number in 0..200 {
            acknowledged.push((number, client.write(key(number), value(number)).await));
        }
        disk.fill_but(80 << 20).expect("the disk can be filled");
        // At most 256 MB more, into 80 MB: it must be said at some time.
        let patient = client.clone().with_patience(Duration::from_secs(10));
        let mut refusals = 0;
        for number in 200..4200 {
            match patient.put(put(key(number), value(number))).await {
                Ok(answer) => acknowledged.push((number, revision_of(&answer.header))),
                Err(status) => {
                    println!("after {} writes: {status}", acknowledged.len());
                    refusals += 1;
                    if !kind.is_kvnode() {
                        break;
                    }
                    assert_eq!(status, refusal::no_space(), "write {number}");
                    if refusals == 20 {
                        break;
                    }
                }
            }
        }
        assert!(refusals > 0, "256 MB went into a disk with 80 MB");
        if kind.is_kvnode() {
            assert!(server.ended().is_none(), "the server goes on");
            verify(&client, &acknowledged).await;
            let status = client
                .txn(then(vec![put("k", "v").op()]))
                .await
                .expect_err("full");
            assert_eq!(status.code, code::RESOURCE_EXHAUSTED, "{status}");
            client
                .delete_range(delete(key(0)))
                .await
                .expect("deletes make room, not need it");
            acknowledged.remove(0);
        } else if server.ended().is_none() {
            // etcd ends itself on a failed write; give it the time.
            tokio::time::sleep(Duration::from_millis(500)).await;
            server.ended();
        }
        disk.make_room();
        if server.is_running() {
            server.stop();
        }
        server.restart();
        let client = Client::connect(server.address()).await;
        verify(&client, &acknowledged).await;
        disarm(&client).await;
        client.write("room", "again").await;
    });
}

fn key(number: u32) -> String {
    format!("key {number:05}")
}

fn value(number: u32) -> Vec<u8> {
    let mut value = vec![b'v'; 64 << 10];
    value[..4].copy_from_slice(&number.to_be_bytes());
    value
}

/// Every acknowledged write is there, as it was acknowledged.
async fn verify(client: &Client, acknowledged: &[(u32, i64)]) {
    for (number, revision) in acknowledged {
        let kv = client
            .read(key(*number))
            .await
            .unwrap_or_else(|| panic!("{number} is lost"));
        assert_eq!(
            (kv.mod_revision, kv.value == value(*number)),
            (*revision, true),
            "{number}"
        );
    }
}

/// Takes back every alarm that is raised.
async fn disarm(client: &Client) {
    use kvnode_api as api;
    let listed = client
        .alarm(api::AlarmRequest::default())
        .await
        .expect("alarms are listed");
    for raised in listed.alarms {
        let request = api::AlarmRequest {
            action: number::ALARM_DEACTIVATE,
            member_id: raised.member_id,
            alarm: raised.alarm,
        };
        client
            .alarm(request)
            .await
            .expect("an alarm can be disarmed");
    }
}
