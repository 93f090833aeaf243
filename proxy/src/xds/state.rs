//! What the process is doing, for everyone who asks.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::admin::ServerState;

/// The state of the process; readable from any thread.
#[derive(Debug)]
pub struct SharedState {
    state: AtomicU8,
    draining: AtomicBool,
}

impl Default for SharedState {
    fn default() -> Self {
        Self { state: AtomicU8::new(2), draining: AtomicBool::new(false) }
    }
}

impl SharedState {
    /// The state now: draining counts once the process is live.
    pub fn get(&self) -> ServerState {
        match self.state.load(Ordering::Acquire) {
            0 if self.draining.load(Ordering::Acquire) => ServerState::Draining,
            0 => ServerState::Live,
            3 => ServerState::Initializing,
            _ => ServerState::PreInitializing,
        }
    }

    /// Whether traffic is wanted (`/ready`).
    pub fn is_ready(&self) -> bool {
        self.get() == ServerState::Live
    }

    /// `/healthcheck/fail` or `/healthcheck/ok`.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Release);
    }

    pub(super) fn set(&self, state: ServerState) {
        self.state.store(u8::try_from(state.gauge()).unwrap_or(2), Ordering::Release);
    }
}
