//! The route tables that RDS delivered, as one worker sees them.

use std::cell::RefCell;
use std::sync::Arc;

use proxy_core::names::Name;

use super::RouteTable;

/// Route tables by slot.
#[derive(Default)]
pub struct Routes(RefCell<Vec<Option<Arc<RouteTable>>>>);

impl Routes {
    /// The table called `name`, if it was delivered.
    pub fn table(&self, name: &Name) -> Option<Arc<RouteTable>> {
        self.0.borrow().get(name.slot())?.clone()
    }

    /// Replaces all tables.
    pub fn install(&self, tables: &[Option<Arc<RouteTable>>]) {
        *self.0.borrow_mut() = tables.to_vec();
    }
}
