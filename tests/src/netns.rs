//! Network namespaces: hosts of their own inside this one, joined by virtual cables.
//!
//! They take root, or the right to make namespaces and rules in them; without it tests fail.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Gid, Uid};
use rustix::thread::LinkNameSpaceType;

/// Whose a thread is, and what it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    pub const fn new(id: u32) -> User {
        User { uid: id, gid: id }
    }

    /// Makes this thread be the user's.
    pub fn become_one(self) -> std::io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
    }
}

/// A network namespace; it ends when this is dropped, or this process ends.
#[derive(Debug)]
pub struct Netns {
    /// A process that lives in it and waits for the end of its input.
    keeper: Child,
}

impl Netns {
    /// A namespace whose loopback is up.
    ///
    /// # Errors
    /// There is no right to make one.
    pub fn new() -> Result<Netns> {
        let mut keeper = Command::new("unshare");
        keeper.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let keeper = keeper.spawn().context("cannot run unshare (util-linux)")?;
        let mut netns = Netns { keeper };
        let outside = std::fs::read_link("/proc/thread-self/ns/net")?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::fs::read_link(netns.path()).ok().is_none_or(|inside| inside == outside) {
            if let Some(status) = netns.keeper.try_wait()? {
                bail!("no network namespace ({status}): this takes root");
            }
            ensure!(Instant::now() < deadline, "unshare made no network namespace");
            std::thread::sleep(Duration::from_millis(1));
        }
        netns.command("ip link set lo up")?;
        Ok(netns)
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.keeper.id()).into()
    }

    /// Does something on a thread that is in it. What the thread starts is in it, too.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = std::fs::File::open(self.path())?;
        let enter = move || -> Result<T> {
            rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .context("entering a network namespace takes root")?;
            Ok(work())
        };
        std::thread::scope(|scope| match scope.spawn(enter).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Runs a program in it, which must succeed, and gives its output.
    ///
    /// # Errors
    /// What the program said.
    pub fn command(&self, line: &str) -> Result<String> {
        let output = self.run(&mut shell(line))?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "`{line}` ({}): {out}{err}", output.status);
        Ok(out.into_owned())
    }

    /// Runs a program in it.
    ///
    /// # Errors
    /// It could not be started.
    pub fn run(&self, command: &mut Command) -> Result<Output> {
        let program = command.get_program().to_owned();
        self.within(|| command.output())?.with_context(|| format!("cannot run {}", program.display()))
    }

    /// Joins an interface of this one with one of another by a cable.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn cable(&self, interface: &str, other: &Netns, other_interface: &str) -> Result<()> {
        let peer = other.keeper.id();
        self.command(&format!("ip link add {interface} type veth peer name {other_interface} netns {peer}"))?;
        self.command(&format!("ip link set {interface} up"))?;
        other.command(&format!("ip link set {other_interface} up"))?;
        Ok(())
    }
}

fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(["-ec", line]).env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

impl Drop for Netns {
    fn drop(&mut self) {
        // it ends by itself when its input does; if it cannot be ended there is nothing left to do
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
