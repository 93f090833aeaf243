//! Programs that tests start, and what they say.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::expect::eventually;
use tokio::sync::mpsc;

/// A program that was built by `scripts/interop.sh`.
pub fn built(name: &str) -> Result<Command> {
    let path = PathBuf::from(variable("INTEROP_BIN")?).join(name);
    ensure!(path.is_file(), "{} is missing: run `make interop`", path.display());
    Ok(Command::new(path))
}

/// A program of the distribution.
pub fn installed(name: &str) -> Command {
    Command::new(name)
}

/// One of our Python programs.
pub fn python(script: &str) -> Result<Command> {
    interpreted("INTEROP_PYTHON", &format!("python/{script}"))
}

/// One of our JavaScript programs.
pub fn node(script: &str) -> Result<Command> {
    interpreted("INTEROP_NODE", &format!("node/{script}"))
}

fn interpreted(interpreter: &str, script: &str) -> Result<Command> {
    let mut command = Command::new(variable(interpreter)?);
    command.arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("interop").join(script));
    Ok(command)
}

fn variable(name: &str) -> Result<std::ffi::OsString> {
    std::env::var_os(name).with_context(|| format!("{name} is not set: run `make interop`"))
}

/// A program that runs; killed when dropped.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: mpsc::UnboundedReceiver<String>,
    last: Arc<Mutex<VecDeque<String>>>,
}

/// How much of what a program said is kept for an error message.
const KEPT: usize = 60;

impl Program {
    /// Starts it, with pipes to talk to it.
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = command.get_program().to_string_lossy().into_owned();
        let words = command.get_args().map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
        let name = format!("{name} {words}");
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let (sender, lines) = mpsc::unbounded_channel();
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let input = child.stdin.take();
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            listen(out, sender.clone(), last.clone());
            listen(err, sender, last.clone());
        }
        Ok(Self { name, child, input, lines, last })
    }

    /// Says a line to it.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        writeln!(input, "{line}").with_context(|| format!("{} does not listen: {}", self.name, self.said()))
    }

    /// What follows `word` in the next line that has it.
    pub async fn hears(&mut self, word: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.lines.recv()).await {
                Ok(Some(line)) => {
                    if let Some((_, rest)) = line.split_once(word) {
                        return Ok(rest.trim().to_owned());
                    }
                }
                Ok(None) => bail!("{} ended without saying {word:?}:\n{}", self.name, self.said()),
                Err(_) => bail!("{} did not say {word:?} within {limit:?}:\n{}", self.name, self.said()),
            }
        }
    }

    /// Closes its input and waits until it has ended by itself; everything it said since it was heard last. Fails with it
    /// if it does not exit with 0.
    pub async fn finish(mut self, limit: Duration) -> Result<String> {
        let (code, text) = self.ended(limit).await?;
        ensure!(code == Some(0), "{} exited with {code:?}:\n{text}", self.name);
        Ok(text)
    }

    /// Like [`Program::finish`], whatever the exit code.
    pub async fn ended(&mut self, limit: Duration) -> Result<(Option<i32>, String)> {
        drop(self.input.take());
        let ended = eventually("its end", limit, async || self.child.try_wait().ok().flatten()).await;
        let status = ended.with_context(|| format!("{}:\n{}", self.name, self.said()))?;
        let mut text = String::new();
        while let Some(line) = self.lines.recv().await {
            text.push_str(&line);
            text.push('\n');
        }
        Ok((status.code(), text))
    }

    /// The port of IPv4 that it listens on, from `/proc`, if it does already: for programs that do not say it.
    pub fn listening_port(&self) -> Option<u16> {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).ok()?;
        let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        let sockets: Vec<String> = targets
            .filter_map(|target| {
                Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
            })
            .collect();
        let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
        table.lines().find_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let listens = *columns.get(3)? == "0A" && sockets.iter().any(|inode| inode == columns[9]);
            let (_, port) = columns.get(1)?.split_once(':')?;
            u16::from_str_radix(port, 16).ok().filter(|_| listens)
        })
    }

    /// The last lines that it said.
    pub fn said(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(
    from: impl Read + Send + 'static,
    to: mpsc::UnboundedSender<String>,
    last: Arc<Mutex<VecDeque<String>>>,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            last.push_back(line.clone());
            if last.len() > KEPT {
                last.pop_front();
            }
            drop(last);
            let _ = to.send(line);
        }
    });
}
