//! Keys of a real etcd.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use etcd_client::{CompactionOptions, ConnectOptions, DeleteOptions, Permission, Txn, TxnOp};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::etcd_server::Etcd;
use crate::process::{Process, until};
use crate::service::Service;

crate::tests!(
    a_deleted_key_is_an_event_and_other_keys_are_none,
    a_key_written_anew_within_the_settle_time_is_none,
    values_name_frontends_and_wrong_ones_spare_everybody,
    a_backend_that_registers_lives_until_it_ends,
    a_lease_that_expires_is_a_deletion,
    a_deletion_at_a_compacted_revision_while_nobody_watched,
    a_server_that_is_killed_and_comes_back,
    a_server_that_falls_silent,
    more_than_one_answer_holds,
    a_transaction_of_several_keys,
    with_users_and_passwords,
    with_certificates,
    a_service_that_was_away_is_told_what_still_holds,
);

const A: &str = "/skreap/udp/10.0.0.1:53";
const B: &str = "/skreap/tcp/[fd00::1]:80";
const C: &str = "/skreap/udp/10.0.0.3:53";

/// A folder, an etcd, a service.
struct World {
    folder: TempDir,
    etcd: Etcd,
    service: Service,
}

impl World {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let etcd = Etcd::start(folder.path())?;
        let service = Service::start(&folder.path().join("skreap.sock"))?;
        Ok(Self { folder, etcd, service })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skreap-watch"));
        command.args(arguments).args(["--endpoints", &self.etcd.endpoint()]);
        command
    }

    /// Watches, and has listed what is there.
    fn watch(&self, arguments: &[&str]) -> anyhow::Result<Process> {
        let mut command = self.command(&["etcd"]);
        if !arguments.contains(&"--settle-ms") {
            command.args(["--settle-ms", "200"]);
        }
        command.args(arguments).arg("--socket").arg(self.folder.path().join("skreap.sock"));
        let log = self.folder.path().join("log");
        command.stderr(std::fs::File::create(&log)?);
        let process = Process::start(&mut command)?;
        self.service.connected()?;
        until("the keys are listed", || read(&log).contains("listed"))?;
        Ok(process)
    }

    fn log(&self) -> String {
        read(&self.folder.path().join("log"))
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn a_deleted_key_is_an_event_and_other_keys_are_none() -> anyhow::Result<()> {
    let world = World::new()?;
    world.etcd.put(&[A, B, C, "/skreap/udp/not-an-address", "/skreap2/udp/10.0.0.9:53"])?;
    let watch = world.watch(&[])?;
    let before = Instant::now();
    for key in [A, "/skreap2/udp/10.0.0.9:53", "/skreap/udp/not-an-address"] {
        world.etcd.delete(key)?;
    }
    world.service.wait(&["udp://10.0.0.1:53"])?;
    let after = world.service.events()[0].0 - before;
    ensure!(after >= Duration::from_millis(200), "it has to settle: {after:?}");
    world.etcd.delete(B)?;
    world.service.wait(&["tcp://[fd00::1]:80", "udp://10.0.0.1:53"])?;
    ensure!(world.log().contains("is left out"), "{}", world.log());
    ensure!(watch.end(Signal::SIGTERM)?, "it ends well");
    Ok(())
}

fn a_key_written_anew_within_the_settle_time_is_none() -> anyhow::Result<()> {
    let world = World::new()?;
    world.etcd.put(&[A, C])?;
    let _watch = world.watch(&["--settle-ms", "2000"])?;
    world.etcd.delete(A)?;
    world.etcd.put(&[A])?;
    world.etcd.delete(C)?;
    world.service.wait(&["udp://10.0.0.3:53"])
}

fn values_name_frontends_and_wrong_ones_spare_everybody() -> anyhow::Result<()> {
    let world = World::new()?;
    world.etcd.ask(async |mut client| {
        client.put(A, r#"{"frontends":["udp://10.96.0.10:53"]}"#, None).await?;
        client.put(B, r#"{"action":"none"}"#, None).await?;
        client.put(C, "up", None).await?;
        Ok(())
    })?;
    let _watch = world.watch(&[])?;
    for key in [A, B, C] {
        world.etcd.delete(key)?;
    }
    world.service.wait(&["udp://10.0.0.1:53 through udp://10.96.0.10:53"])?;
    // What a value said is forgotten with it.
    world.etcd.put(&[B])?;
    world.etcd.delete(B)?;
    world.service.wait(&["tcp://[fd00::1]:80", "udp://10.0.0.1:53 through udp://10.96.0.10:53"])
}

fn a_backend_that_registers_lives_until_it_ends() -> anyhow::Result<()> {
    let world = World::new()?;
    let _watch = world.watch(&[])?;
    let register = world.command(&["etcd", "register", "udp://10.0.0.1:53", "--ttl", "60"]).spawn_quiet()?;
    let there = || world.etcd.ask(async |mut client| Ok(client.get(A, None).await?.kvs().len()));
    until("the key", || there().is_ok_and(|n| n == 1))?;
    ensure!(register.end(Signal::SIGTERM)?, "it ends well");
    ensure!(there()? == 0, "the key is deleted at once");
    world.service.wait(&["udp://10.0.0.1:53"])
}

fn a_lease_that_expires_is_a_deletion() -> anyhow::Result<()> {
    let world = World::new()?;
    let _watch = world.watch(&[])?;
    let register = |backend| world.command(&["etcd", "register", backend, "--ttl", "2"]).spawn_quiet();
    let killed = register("udp://10.0.0.1:53")?;
    let _kept = register("udp://10.0.0.3:53")?;
    let there = || {
        let options = Some(etcd_client::GetOptions::new().with_prefix());
        world.etcd.ask(async |mut client| Ok(client.get("/skreap/", options.clone()).await?.kvs().len()))
    };
    until("two keys", || there().is_ok_and(|n| n == 2))?;
    killed.end(Signal::SIGKILL)?;
    world.service.wait(&["udp://10.0.0.1:53"])?;
    // Longer than a lease: the other one is renewed.
    thread::sleep(Duration::from_secs(4));
    world.service.wait(&["udp://10.0.0.1:53"])
}

fn a_deletion_at_a_compacted_revision_while_nobody_watched() -> anyhow::Result<()> {
    let mut world = World::new()?;
    world.etcd.put(&[A, B, C])?;
    let _watch = world.watch(&[])?;
    world.etcd.kill()?;
    world.etcd.elsewhere(|etcd| {
        let revision = etcd.delete(A)?;
        let physical = Some(CompactionOptions::new().with_physical());
        etcd.ask(async |mut client| Ok(client.compact(revision, physical).await?))?;
        Ok(())
    })?;
    world.etcd.start_again()?;
    world.service.wait(&["udp://10.0.0.1:53"])
}

fn a_server_that_is_killed_and_comes_back() -> anyhow::Result<()> {
    let mut world = World::new()?;
    world.etcd.put(&[A, B, C])?;
    let _watch = world.watch(&[])?;
    // What is deleted and not settled when the watch breaks is decided by the next list.
    world.etcd.delete(A)?;
    world.etcd.kill()?;
    world.etcd.elsewhere(|etcd| {
        etcd.put(&[A])?;
        etcd.delete(C).map(|_| ())
    })?;
    let before = world.service.events().len();
    ensure!(before == 0, "{before} events while the server was away");
    world.etcd.start_again()?;
    let back = Instant::now();
    world.service.wait(&["udp://10.0.0.3:53"])?;
    let after = world.service.events()[0].0.saturating_duration_since(back);
    ensure!(after < Duration::from_secs(5), "the first list comes soon after the server: {after:?}");
    Ok(())
}

fn a_server_that_falls_silent() -> anyhow::Result<()> {
    let world = World::new()?;
    world.etcd.put(&[A, C])?;
    let _watch = world.watch(&[])?;
    world.etcd.signal(Signal::SIGSTOP)?;
    let noticed = until("the silence is noticed", || world.log().contains("listing anew"));
    world.etcd.signal(Signal::SIGCONT)?;
    noticed?;
    until("it is listed again", || world.log().matches("listed").count() >= 2)?;
    world.etcd.delete(C)?;
    world.service.wait(&["udp://10.0.0.3:53"])
}

fn more_than_one_answer_holds() -> anyhow::Result<()> {
    let world = World::new()?;
    // 5,000 keys of 1.2 kB: a list and a deletion of more than 4 MiB.
    let value = format!("{{\"action\":\"destroy\"{}}}", " ".repeat(1200));
    let keys: Vec<String> =
        (0..5000).map(|n| format!("/skreap/udp/10.1.{}.{}:53", n / 250, n % 250 + 1)).collect();
    world.etcd.ask(async |mut client| {
        for keys in keys.chunks(100) {
            let put: Vec<_> = keys.iter().map(|key| TxnOp::put(key.as_str(), value.as_str(), None)).collect();
            client.txn(Txn::new().and_then(put)).await?;
        }
        client.put(C, "", None).await?;
        Ok(())
    })?;
    let _watch = world.watch(&[])?;
    ensure!(world.log().contains("keys=5001"), "{}", world.log());
    let prefix = Some(DeleteOptions::new().with_prefix());
    world.etcd.ask(async |mut client| Ok(client.delete("/skreap/udp/10.1.", prefix).await?))?;
    until("5000 backends are gone", || world.service.gone().len() >= 5000)?;
    thread::sleep(Duration::from_millis(500));
    let gone = world.service.gone();
    ensure!(gone.len() == 5000, "{} backends are gone", gone.len());
    ensure!(gone.iter().all(|backend| backend.starts_with("udp://10.1.")), "another one is");
    let breaks = world.log().matches("listing anew").count();
    ensure!(breaks == 0, "{breaks} breaks: {}", world.log());
    Ok(())
}

fn a_transaction_of_several_keys() -> anyhow::Result<()> {
    let world = World::new()?;
    world.etcd.put(&[A, B])?;
    let _watch = world.watch(&[])?;
    let ops = vec![TxnOp::delete(A, None), TxnOp::put(C, "", None), TxnOp::delete(B, None)];
    world.etcd.ask(async |mut client| Ok(client.txn(Txn::new().and_then(ops)).await?))?;
    world.service.wait(&["tcp://[fd00::1]:80", "udp://10.0.0.1:53"])
}

fn with_users_and_passwords() -> anyhow::Result<()> {
    let world = World::new()?;
    world.etcd.put(&[A, C])?;
    world.etcd.ask(async |mut client| {
        client.user_add("root", "pass of root", None).await?;
        client.role_add("root").await?;
        client.user_grant_role("root", "root").await?;
        client.user_add("watch", "pass of watch", None).await?;
        client.role_add("reader").await?;
        client.role_grant_permission("reader", Permission::read("/skreap/").with_prefix()).await?;
        client.user_grant_role("watch", "reader").await?;
        client.auth_enable().await?;
        Ok(())
    })?;
    let password = world.folder.path().join("password");
    std::fs::write(&password, "pass of watch\n")?;
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600))?;
    let password = password.to_string_lossy().into_owned();
    let _watch = world.watch(&["--user", "watch", "--password-file", &password])?;
    let root = Some(ConnectOptions::new().with_user("root", "pass of root"));
    world.etcd.ask_with(root, async |mut client| Ok(client.delete(A, None).await?))?;
    world.service.wait(&["udp://10.0.0.1:53"])
}

fn with_certificates() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let tls = folder.path().to_owned();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-subj", "/CN=etcd", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(&tls)
        .output()?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    let etcd = Etcd::start_with(folder.path(), Some(tls.clone()))?;
    let service = Service::start(&folder.path().join("skreap.sock"))?;
    let world = World { folder, etcd, service };
    let file = |name: &str| tls.join(name).to_string_lossy().into_owned();
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let tls = ["--ca", &cert, "--cert", &cert, "--key", &key];
    let register = [&["etcd", "register", "udp://10.0.0.1:53"], &tls[..]].concat();
    let register = world.command(&register).spawn_quiet()?;
    let _watch = world.watch(&tls)?;
    // Registered before the list, or seen after it.
    thread::sleep(Duration::from_secs(2));
    register.end(Signal::SIGTERM)?;
    world.service.wait(&["udp://10.0.0.1:53"])
}

fn a_service_that_was_away_is_told_what_still_holds() -> anyhow::Result<()> {
    let mut world = World::new()?;
    world.etcd.put(&[A, B, C])?;
    let _watch = world.watch(&[])?;
    let path = world.folder.path().join("skreap.sock");
    // The old one ends before the new one is made.
    let away = tempfile::tempdir()?;
    world.service = Service::start(&away.path().join("nobody.sock"))?;
    world.etcd.delete(A)?;
    world.etcd.delete(C)?;
    until("both are decided", || world.log().matches("is gone").count() >= 2)?;
    world.etcd.put(&[C])?;
    thread::sleep(Duration::from_millis(300));
    world.service = Service::start(&path)?;
    world.service.wait(&["udp://10.0.0.1:53"])
}

/// A process whose log nobody reads.
trait SpawnQuiet {
    fn spawn_quiet(&mut self) -> anyhow::Result<Process>;
}

impl SpawnQuiet for Command {
    fn spawn_quiet(&mut self) -> anyhow::Result<Process> {
        Process::start(self.stderr(std::process::Stdio::null()))
    }
}
