//! Moves into directories, as the kernel tells of them: one inotify instance for the process, whoever watches. There are few of
//! these for all processes of a user (`fs.inotify.max_user_instances`), and each secret of files is watched.
//!
//! A thread reads the events: those who watch belong to runtimes that come and go. References: inotify(7).

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::sync::Notify;

/// Moves into directories.
#[derive(Debug)]
pub struct Watch {
    kernel: &'static Kernel,
    directories: Vec<i32>,
    watcher: Arc<Watcher>,
}

/// Who is told.
#[derive(Debug)]
struct Watcher {
    /// The only name that counts; `None` if all do.
    name: Option<OsString>,
    /// What is written counts, too, once it is whole.
    writes: bool,
    moved: Notify,
    gone: AtomicBool,
}

impl Watch {
    /// Of any move into one of these directories.
    ///
    /// # Errors
    /// One of them cannot be watched.
    pub fn directories(directories: &[impl AsRef<Path>]) -> io::Result<Self> {
        let mut watch = Self::of_nothing(None, false)?;
        directories.iter().try_for_each(|directory| watch.add(directory.as_ref()))?;
        Ok(watch)
    }

    /// Of moves onto this name in a directory.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn name(directory: &Path, name: Option<OsString>) -> io::Result<Self> {
        let mut watch = Self::of_nothing(name, false)?;
        watch.add(directory)?;
        Ok(watch)
    }

    /// Of moves onto a file, and of whoever wrote to it and is done.
    ///
    /// # Errors
    /// Its directory cannot be watched.
    pub fn file(path: &Path) -> io::Result<Self> {
        let mut watch = Self::of_nothing(path.file_name().map(OsStr::to_owned), true)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        watch.add(parent.unwrap_or(Path::new(".")))?;
        Ok(watch)
    }

    fn of_nothing(name: Option<OsString>, writes: bool) -> io::Result<Self> {
        let watcher = Watcher { name, writes, moved: Notify::new(), gone: AtomicBool::new(false) };
        Ok(Self { kernel: Kernel::of_process()?, directories: Vec::new(), watcher: Arc::new(watcher) })
    }

    fn add(&mut self, directory: &Path) -> io::Result<()> {
        // The kernel has one number for a directory, however often it is asked for.
        let mut watchers = self.kernel.watchers();
        let mut flags = WatchFlags::MOVED_TO | WatchFlags::ONLYDIR | WatchFlags::MASK_ADD;
        flags.set(WatchFlags::CLOSE_WRITE, self.watcher.writes);
        let number = inotify::add_watch(&self.kernel.inotify, directory, flags)?;
        watchers.entry(number).or_default().push(self.watcher.clone());
        self.directories.push(number);
        Ok(())
    }

    /// Waits for a move that counts; those since the last wait count once. Cancel-safe.
    ///
    /// # Errors
    /// A directory is gone.
    pub async fn moved(&self) -> io::Result<()> {
        self.watcher.moved.notified().await;
        match self.watcher.gone.load(Ordering::Acquire) {
            true => Err(io::Error::other("the directory is gone")),
            false => Ok(()),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watchers = self.kernel.watchers();
        for number in &self.directories {
            let Some(of_directory) = watchers.get_mut(number) else { continue };
            of_directory.retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
            if of_directory.is_empty() {
                watchers.remove(number);
                // It is gone already if the directory is.
                let _ = inotify::remove_watch(&self.kernel.inotify, *number);
            }
        }
    }
}

/// The instance of the process.
#[derive(Debug)]
struct Kernel {
    inotify: OwnedFd,
    watchers: Mutex<HashMap<i32, Vec<Arc<Watcher>>>>,
}

impl Kernel {
    fn of_process() -> io::Result<&'static Self> {
        static KERNEL: OnceLock<&'static Kernel> = OnceLock::new();
        static BEGIN: Mutex<()> = Mutex::new(());
        let _one = BEGIN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = KERNEL.get() {
            return Ok(kernel);
        }
        let kernel = Self { inotify: inotify::init(CreateFlags::CLOEXEC)?, watchers: Mutex::default() };
        let kernel: &'static Self = Box::leak(Box::new(kernel));
        let reader = std::thread::Builder::new().name("file moves".to_owned()).stack_size(256 << 10);
        reader.spawn(|| kernel.read())?;
        Ok(KERNEL.get_or_init(|| kernel))
    }

    fn watchers(&self) -> MutexGuard<'_, HashMap<i32, Vec<Arc<Watcher>>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    self.tell(event.wd(), event.events(), name);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "moves of files are not seen any more");
                    return;
                }
            }
        }
    }

    fn tell(&self, directory: i32, events: ReadFlags, name: Option<&OsStr>) {
        let mut watchers = self.watchers();
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            // What was lost may have been anybody's.
            watchers.values().flatten().for_each(|watcher| watcher.moved.notify_one());
            return;
        }
        if events.contains(ReadFlags::IGNORED) {
            for watcher in watchers.remove(&directory).into_iter().flatten() {
                watcher.gone.store(true, Ordering::Release);
                watcher.moved.notify_one();
            }
            return;
        }
        let is_write = events.contains(ReadFlags::CLOSE_WRITE);
        for watcher in watchers.get(&directory).into_iter().flatten() {
            if (watcher.name.is_none() || watcher.name.as_deref() == name) && (watcher.writes || !is_write) {
                watcher.moved.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn all_watches_are_told_by_one_instance() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&two).unwrap();
        let place = |directory: &Path, name: &str| {
            let from = dir.path().join("new");
            fs::write(&from, "").unwrap();
            fs::rename(from, directory.join(name)).unwrap();
        };
        let instances = || {
            let open = fs::read_dir("/proc/self/fd").unwrap();
            let target = |entry: io::Result<fs::DirEntry>| fs::read_link(entry.unwrap().path()).ok();
            open.filter_map(target).filter(|target| target.to_string_lossy().contains("inotify")).count()
        };
        let both: Vec<Watch> = (0..200).map(|_| Watch::directories(&[&one, &two]).unwrap()).collect();
        let named = Watch::name(&one, Some("a".into())).unwrap();
        assert_eq!(instances(), 1);
        place(&two, "a");
        for watch in &both {
            watch.moved().await.unwrap();
        }
        place(&one, "b");
        place(&one, "a");
        named.moved().await.unwrap();
        drop(both);
        // Those who are left hear of what comes after others left.
        place(&one, "a");
        named.moved().await.unwrap();
        // Who waits for a file hears of what was written to it, and nobody else does.
        let file = Watch::file(&one.join("a")).unwrap();
        fs::write(one.join("a"), "more").unwrap();
        file.moved().await.unwrap();
        let heard = tokio::time::timeout(std::time::Duration::ZERO, named.moved()).await;
        assert!(heard.is_err(), "only moves count");
        fs::remove_dir_all(&one).unwrap();
        assert!(named.moved().await.is_err());
        assert!(Watch::directories(&[&one]).is_err());
    }
}
