//! Log files: lines are appended to a buffer, and a thread for each file writes them out.
//!
//! A worker that logs takes a lock for the time of a copy and never waits for a disk or a pipe. The buffer is bounded:
//! what does not fit because the file is slow is dropped and counted. Buffers go out when so much has gathered
//! (`--file-flush-min-size-kb`), at every flush interval (`--file-flush-interval-msec`), and at the end.
//! Source: Envoy `docs/root/operations/cli.rst`, both flags; statistics `filesystem.*`.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use proxy_core::extension::access_log::{LogFile, LogFiles};
use proxy_core::stats::groups::FilesystemStats;
use proxy_core::stats::{Registry, Shared};

/// Most bytes that wait for a file, besides those that are too few to be written.
const MAX_WAITING: usize = 16 << 20;

/// What a buffer that was written may keep of its memory at least, and four times that at most.
const KEPT: usize = 64 << 10;

/// All log files of the process. Dropping it writes what waits and ends the threads.
pub struct FileLogs {
    interval: Duration,
    flush_at: usize,
    stats: Shared<FilesystemStats>,
    files: Mutex<HashMap<String, Open>>,
}

struct Open {
    file: Arc<Appender>,
    thread: Option<JoinHandle<()>>,
}

/// One file, as those who log see it.
struct Appender {
    state: Mutex<State>,
    wake: Condvar,
    /// A buffer with more bytes is written at once.
    flush_at: usize,
    stats: Shared<FilesystemStats>,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    dropped: u64,
    writing: bool,
    reopen: bool,
    ended: bool,
}

impl FileLogs {
    /// Writes buffers every `interval`, and at once those of more than `flush_at` bytes; statistics go to `filesystem.*`.
    pub fn new(interval: Duration, flush_at: usize, registry: &Arc<Registry>) -> Self {
        // A zero interval would spin.
        let interval = interval.max(Duration::from_millis(1));
        Self { interval, flush_at, stats: registry.scope("filesystem").shared(), files: Mutex::default() }
    }

    /// Has every file opened anew by its path before the next write (`/reopen_logs`, log rotation).
    pub fn reopen(&self) {
        for open in self.lock().values() {
            open.file.lock().reopen = true;
            open.file.wake.notify_one();
        }
    }

    /// Lines dropped because a file did not keep up, over all files.
    pub fn dropped(&self) -> u64 {
        self.lock().values().map(|open| open.file.lock().dropped).sum()
    }

    /// Waits until everything logged so far is written.
    pub fn flush(&self) {
        let files: Vec<_> = self.lock().values().map(|open| open.file.clone()).collect();
        for file in files {
            let mut state = file.lock();
            while (!state.waiting.is_empty() || state.writing) && !state.ended {
                file.wake.notify_all();
                state =
                    file.wake.wait_timeout(state, self.interval).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogFiles for FileLogs {
    fn open(&self, path: &str) -> io::Result<Arc<dyn LogFile>> {
        let mut files = self.lock();
        if let Some(open) = files.get(path) {
            return Ok(open.file.clone());
        }
        let target = open_target(path)?;
        let (state, wake) = Default::default();
        let file = Arc::new(Appender { state, wake, flush_at: self.flush_at, stats: self.stats.clone() });
        let writer = Writer { path: path.to_owned(), target, file: file.clone(), interval: self.interval };
        let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run())?;
        files.insert(path.to_owned(), Open { file: file.clone(), thread: Some(thread) });
        Ok(file)
    }
}

impl Drop for FileLogs {
    fn drop(&mut self) {
        let mut files = std::mem::take(&mut *self.lock());
        for open in files.values() {
            open.file.lock().ended = true;
            open.file.wake.notify_all();
        }
        for thread in files.values_mut().filter_map(|open| open.thread.take()) {
            // A writer that panicked has nothing left to write.
            let _ = thread.join();
        }
    }
}

impl Appender {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogFile for Appender {
    fn write(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.ended || state.waiting.len() + line.len() > MAX_WAITING.saturating_add(self.flush_at) {
            state.dropped += 1;
            return;
        }
        let before = state.waiting.len();
        state.waiting.extend_from_slice(line);
        let full = before <= self.flush_at && state.waiting.len() > self.flush_at;
        drop(state);
        self.stats.write_buffered.inc();
        self.stats.write_total_buffered.add(line.len() as u64);
        if full {
            self.wake.notify_all();
        }
    }
}

/// Opens what lines are appended to. The standard streams are used as they are: they may be pipes or sockets, which
/// cannot be opened by name.
fn open_target(path: &str) -> io::Result<File> {
    let stream = match path {
        "/dev/stdout" => Some(io::stdout().as_fd().try_clone_to_owned()?),
        "/dev/stderr" => Some(io::stderr().as_fd().try_clone_to_owned()?),
        _ => None,
    };
    match stream {
        Some(stream) => Ok(stream.into()),
        None => OpenOptions::new().append(true).create(true).open(path),
    }
}

/// The thread of one file.
struct Writer {
    path: String,
    target: File,
    file: Arc<Appender>,
    interval: Duration,
}

impl Writer {
    fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            let ended = self.wait(&mut batch);
            if !batch.is_empty() {
                self.write(&batch);
                // A burst must not keep its memory for ever, nor need those that come one after the other take it anew.
                let keep = (4 * batch.len()).clamp(KEPT, 4 * KEPT);
                batch.clear();
                batch.shrink_to(keep);
            }
            self.file.lock().writing = false;
            self.file.wake.notify_all();
            if ended {
                return;
            }
        }
    }

    /// Waits for a reason to write and takes what waits into `batch`; whether the file has ended.
    fn wait(&mut self, batch: &mut Vec<u8>) -> bool {
        let file = self.file.clone();
        let mut state = file.lock();
        if !state.ended && state.waiting.len() <= file.flush_at && !state.reopen {
            let (woken, timeout) =
                file.wake.wait_timeout(state, self.interval).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if timeout.timed_out() {
                file.stats.flushed_by_timer.inc();
            }
        }
        let reopen = std::mem::take(&mut state.reopen);
        std::mem::swap(&mut state.waiting, batch);
        state.writing = !batch.is_empty();
        let ended = state.ended;
        drop(state);
        if reopen {
            self.reopen();
        }
        ended
    }

    /// Opens the path anew; the old file stays if that fails.
    fn reopen(&mut self) {
        match open_target(&self.path) {
            Ok(target) => self.target = target,
            Err(error) => {
                self.file.stats.reopen_failed.inc();
                tracing::warn!(path = %self.path, %error, "log file cannot be reopened");
            }
        }
    }

    fn write(&mut self, batch: &[u8]) {
        match self.target.write_all(batch) {
            Ok(()) => self.file.stats.write_completed.inc(),
            Err(error) => {
                self.file.stats.write_failed.inc();
                tracing::warn!(path = %self.path, %error, "log file cannot be written");
            }
        }
        self.file.stats.write_total_buffered.sub(batch.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs() -> (tempfile::TempDir, FileLogs, Arc<Registry>) {
        let registry = Registry::new(1);
        let logs = FileLogs::new(Duration::from_millis(5), 64 << 10, &registry);
        (tempfile::tempdir().unwrap(), logs, registry)
    }

    fn path(directory: &tempfile::TempDir, name: &str) -> String {
        directory.path().join(name).to_str().unwrap().to_owned()
    }

    #[test]
    fn lines_are_on_disk_after_a_flush_and_after_the_end() {
        let (directory, logs, _registry) = logs();
        let path = path(&directory, "a.log");
        let file = logs.open(&path).unwrap();
        file.write(b"one\n");
        logs.flush();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
        file.write(b"two\n");
        drop(logs);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        file.write(b"too late\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }

    /// The interval is one that nobody lives to see.
    #[test]
    fn more_than_so_many_bytes_are_written_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::new(1);
        for (flush_at, few, more) in [(0, "", "a"), (3, "abc", "d")] {
            let logs = FileLogs::new(Duration::from_secs(100_000), flush_at, &registry);
            let path = path(&directory, &flush_at.to_string());
            let file = logs.open(&path).unwrap();
            file.write(few.as_bytes());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
            file.write(more.as_bytes());
            let stats: Shared<FilesystemStats> = registry.scope("filesystem").shared();
            while stats.write_total_buffered.value() > 0 {
                std::thread::yield_now();
            }
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{few}{more}"));
            assert_eq!(stats.flushed_by_timer.value(), 0);
        }
    }

    #[test]
    fn a_path_is_opened_once_and_lines_of_many_threads_stay_whole() {
        let (directory, logs, registry) = logs();
        let path = path(&directory, "a.log");
        let files: Vec<_> = (0..4).map(|_| logs.open(&path).unwrap()).collect();
        std::thread::scope(|scope| {
            for (index, file) in files.iter().enumerate() {
                scope.spawn(move || {
                    (0..2000).for_each(|_| file.write(format!("{index}{index}{index}\n").as_bytes()))
                });
            }
        });
        logs.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 8000);
        assert!(text.lines().all(|line| ["000", "111", "222", "333"].contains(&line)));
        let stats: Shared<FilesystemStats> = registry.scope("filesystem").shared();
        assert_eq!(stats.write_buffered.value(), 8000);
        assert_eq!(stats.write_total_buffered.value(), 0);
        assert_eq!(logs.dropped(), 0);
    }

    #[test]
    fn a_rotated_file_is_made_anew() {
        let (directory, logs, _registry) = logs();
        let path = path(&directory, "a.log");
        let file = logs.open(&path).unwrap();
        file.write(b"one\n");
        logs.flush();
        std::fs::rename(&path, format!("{path}.1")).unwrap();
        logs.reopen();
        file.write(b"two\n");
        logs.flush();
        // The line may have been taken together with the request to reopen or after it, never before.
        assert_eq!(std::fs::read_to_string(format!("{path}.1")).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    }

    #[test]
    fn a_file_that_does_not_keep_up_drops_lines_and_never_blocks() {
        let (directory, logs, _registry) = logs();
        let path = path(&directory, "fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        // A reader that holds the pipe open and does not read until the end.
        let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let file = logs.open(&path).unwrap();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..40 {
            file.write(&line);
        }
        let dropped = logs.dropped();
        assert!((1..40).contains(&dropped), "{dropped} dropped");
        let drain = std::thread::spawn(move || {
            let mut reader = reader;
            let mut left = (40 - dropped) << 20;
            let mut chunk = vec![0; 1 << 16];
            while left > 0 {
                left -= io::Read::read(&mut reader, &mut chunk).unwrap() as u64;
            }
        });
        drop(logs);
        drain.join().unwrap();
    }

    #[test]
    fn what_cannot_be_opened_is_said_at_once() {
        let (directory, logs, _registry) = logs();
        assert!(logs.open(&path(&directory, "no/such/folder/a.log")).is_err());
    }
}
