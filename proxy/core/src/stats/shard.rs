//! Which copy of a group a thread writes, and the holders of those copies.
//!
//! A thread has a shard number. The main thread takes 0 and the workers 1 to N by [`set_shard`]; any other thread gets
//! a number of its own when it first touches a group and gives it back when it ends, so that no two living threads
//! ever write the same copy. The numbered threads find their copy by index, strays by walking a short list.

use std::cell::Cell as StdCell;
use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::registry::ScopeInner;
use super::{Cell, Group, ShardedGroup, SharedGroup, StatDef};

/// The number of a thread's copy: 0 for the main thread, 1 to N for the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardId(pub u16);

/// Stray threads count from here; no proxy has that many workers.
const FIRST_STRAY: u32 = 1 << 16;
const UNSET: u32 = u32::MAX;

thread_local! {
    static SHARD: StdCell<u32> = const { StdCell::new(UNSET) };
    static STRAY: Stray = Stray::new();
}

/// Says which shard the calling thread owns from now on.
///
/// Two threads that touch the same [`Registry`](super::Registry) must not be given the same number while both live.
pub fn set_shard(shard: ShardId) {
    SHARD.set(u32::from(shard.0));
}

#[inline]
fn current() -> u32 {
    let shard = SHARD.get();
    if shard == UNSET { adopt() } else { shard }
}

#[cold]
fn adopt() -> u32 {
    // During the thread's own destruction the list is gone: the last stray number is then shared, which can lose
    // increments of two threads that end at the same moment, but nothing else.
    let number = STRAY.try_with(|stray| stray.number).unwrap_or(UNSET - 1);
    SHARD.set(number);
    number
}

/// A stray thread's number, given back when the thread ends.
struct Stray {
    number: u32,
}

/// Numbers that ended threads gave back, and how many were ever given. The lock also orders the old owner's last
/// write before the new owner's first read.
static STRAYS: Mutex<(Vec<u32>, u32)> = Mutex::new((Vec::new(), 0));

impl Stray {
    fn new() -> Self {
        let mut strays = STRAYS.lock().unwrap_or_else(PoisonError::into_inner);
        let number = strays.0.pop().unwrap_or_else(|| {
            strays.1 += 1;
            FIRST_STRAY + strays.1 - 1
        });
        Self { number }
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        SHARD.set(UNSET);
        STRAYS.lock().unwrap_or_else(PoisonError::into_inner).0.push(self.number);
    }
}

/// The per-thread copies of a sharded group. Cheap to clone; keeps its scope registered while it lives.
pub struct Cells<G> {
    pub(super) inner: Arc<Shards<G>>,
    pub(super) scope: Arc<ScopeInner>,
}

impl<G: ShardedGroup> Cells<G> {
    /// The calling thread's copy, created when first asked for.
    #[inline]
    pub fn here(&self) -> &G {
        self.inner.get(current())
    }

    /// Whether this holds of the copy of any thread.
    pub fn any(&self, holds: impl Fn(&G) -> bool) -> bool {
        self.inner.copies().any(holds)
    }

    /// The prefix of the scope, without a dot at the end.
    pub fn prefix(&self) -> &str {
        self.scope.prefix()
    }
}

impl<G> Clone for Cells<G> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), scope: self.scope.clone() }
    }
}

impl<G> std::fmt::Debug for Cells<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cells").field(&self.scope.prefix()).finish()
    }
}

/// The only copy of a shared group. Cheap to clone; keeps its scope registered while it lives.
pub struct Shared<G> {
    pub(super) inner: Arc<Shards<G>>,
    pub(super) scope: Arc<ScopeInner>,
}

impl<G: SharedGroup> Deref for Shared<G> {
    type Target = G;

    #[inline]
    fn deref(&self) -> &G {
        self.inner.get(0)
    }
}

impl<G> Clone for Shared<G> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), scope: self.scope.clone() }
    }
}

impl<G> std::fmt::Debug for Shared<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Shared").field(&self.scope.prefix()).finish()
    }
}

/// The copies of one group: an array for the numbered threads, made when the first of them comes, and a list for strays.
pub(super) struct Shards<G> {
    width: u16,
    numbered: OnceLock<Box<[OnceLock<Box<G>>]>>,
    strays: OnceLock<Box<StrayNode<G>>>,
}

struct StrayNode<G> {
    shard: u32,
    cells: G,
    next: OnceLock<Box<StrayNode<G>>>,
}

impl<G: Group> Shards<G> {
    pub(super) fn new(width: u16) -> Self {
        Self { width, numbered: OnceLock::new(), strays: OnceLock::new() }
    }

    #[inline]
    fn get(&self, shard: u32) -> &G {
        let numbered = self.numbered.get_or_init(|| (0..self.width).map(|_| OnceLock::new()).collect());
        match numbered.get(shard as usize) {
            Some(slot) => slot.get_or_init(Box::default),
            None => self.get_stray(shard),
        }
    }

    #[cold]
    fn get_stray(&self, shard: u32) -> &G {
        let mut slot = &self.strays;
        loop {
            // A thread that loses the race for the end of the list walks on to the node that won.
            let node = slot
                .get_or_init(|| Box::new(StrayNode { shard, cells: G::default(), next: OnceLock::new() }));
            if node.shard == shard {
                return &node.cells;
            }
            slot = &node.next;
        }
    }

    fn copies(&self) -> impl Iterator<Item = &G> {
        let numbered = self.numbered.get().into_iter().flat_map(|slots| slots.iter());
        let strays = std::iter::successors(self.strays.get(), |node| node.next.get());
        numbered.filter_map(|slot| slot.get().map(|cells| &**cells)).chain(strays.map(|node| &node.cells))
    }
}

/// A group whose type is erased: what the registry reads.
pub(super) trait AnyGroup: std::any::Any + Send + Sync {
    fn stats(&self) -> &'static [StatDef];
    /// Shows the cells of every existing copy, copy by copy, each in the order of [`AnyGroup::stats`]: the index into
    /// that table, and the cell.
    fn visit(&self, visitor: &mut dyn FnMut(usize, Cell<'_>));
}

impl<G: Group> AnyGroup for Shards<G> {
    fn stats(&self) -> &'static [StatDef] {
        G::STATS
    }

    fn visit(&self, visitor: &mut dyn FnMut(usize, Cell<'_>)) {
        for copy in self.copies() {
            let mut index = 0;
            copy.visit(&mut |cell| {
                visitor(index, cell);
                index += 1;
            });
        }
    }
}
