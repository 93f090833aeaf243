//! Work that a configuration wants done while nobody asks for anything: keys that are fetched before they are needed.
//!
//! A task is handed over when a configuration is built, and runs on one of the workers, whose engine it gets: calls go over that worker's
//! pools. It ends by itself once what it works for is gone; nothing waits for it, and a process without workers never runs it.
//! Source: ADR 10.

use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::extension::http_filter::{Engine, LocalBoxFuture};

/// A task that is not begun.
pub type Task = Box<dyn FnOnce(Rc<dyn Engine>) -> LocalBoxFuture<'static, ()> + Send>;

/// The tasks of a process that no worker has yet.
#[derive(Debug)]
pub struct Background {
    sender: UnboundedSender<Task>,
    receiver: Mutex<Option<UnboundedReceiver<Task>>>,
}

impl Default for Background {
    fn default() -> Self {
        let (sender, receiver) = unbounded_channel();
        Self { sender, receiver: Mutex::new(Some(receiver)) }
    }
}

impl Background {
    /// Has `task` run.
    pub fn begin(&self, task: impl FnOnce(Rc<dyn Engine>) -> LocalBoxFuture<'static, ()> + Send + 'static) {
        // (Nobody listens any more when the process ends.)
        let _ = self.sender.send(Box::new(task));
    }

    /// All tasks, those to come too, for who asks first.
    pub fn take(&self) -> Option<UnboundedReceiver<Task>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
