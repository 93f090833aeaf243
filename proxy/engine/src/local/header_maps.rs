//! Header maps of a worker: taken when a head is read, given back when its stream ends. A map is two allocations, one of them
//! large.

use std::cell::RefCell;

use http::HeaderMap;

/// Most maps kept for reuse by one worker.
const KEPT: usize = 128;
/// Maps with more room than this are not kept.
const LARGE: usize = 64;

thread_local! {
    static FREE: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// An empty map with room for `fields`; `None` if no map has so much.
pub fn take(fields: usize) -> Option<HeaderMap> {
    let mut map = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    map.try_reserve(fields).ok()?;
    Some(map)
}

/// Gives a map back; its content is dropped.
pub fn give(mut map: HeaderMap) {
    if !(1..=LARGE).contains(&map.capacity()) {
        return;
    }
    map.clear();
    // The thread may be past its locals when a stream is dropped at exit.
    let _ = FREE.try_with(|free| {
        let mut free = free.borrow_mut();
        if free.len() < KEPT {
            free.push(map);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, header};

    #[test]
    fn a_map_comes_back_empty_and_with_its_room() {
        let mut map = take(10).unwrap();
        map.append(header::ACCEPT, HeaderValue::from_static("a"));
        map.append(header::ACCEPT, HeaderValue::from_static("b"));
        let room = map.capacity();
        give(map);
        let again = take(1).unwrap();
        assert_eq!((again.len(), again.capacity()), (0, room));
        give(HeaderMap::with_capacity(1000));
        give(HeaderMap::new());
        assert!(take(1).unwrap().capacity() < 1000);
        assert!(take(1 << 20).is_none());
    }
}
