//! A map by prefixes, searched by bisection.

/// Values by prefix. Prefixes of each other form chains, which a look-up goes along from the longest that fits.
#[derive(Debug)]
pub(super) struct Prefixes<T>(
    /// By prefix.
    Box<[Entry<T>]>,
);

#[derive(Debug)]
struct Entry<T> {
    prefix: Box<str>,
    value: T,
    /// Where the longest other prefix is that this one begins with.
    shorter: Option<usize>,
}

impl<T> Prefixes<T> {
    /// Of prefixes that differ.
    pub(super) fn new(mut values: Vec<(Box<str>, T)>) -> Self {
        values.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut entries: Vec<Entry<T>> = Vec::with_capacity(values.len());
        // (What a prefix begins with comes before it, and so do all that begin with the same.)
        let begins = |entries: &[Entry<T>], at: usize, prefix: &str| {
            entries.get(at).is_some_and(|entry| prefix.starts_with(&*entry.prefix))
        };
        for (prefix, value) in values {
            let mut shorter = entries.len().checked_sub(1);
            while let Some(at) = shorter.filter(|at| !begins(&entries, *at, &prefix)) {
                shorter = entries.get(at).and_then(|entry| entry.shorter);
            }
            entries.push(Entry { prefix, value, shorter });
        }
        Self(entries.into())
    }

    /// The values of all prefixes that `text` begins with, longest first.
    pub(super) fn find<'t>(&'t self, text: &[u8]) -> impl Iterator<Item = &'t T> + use<'t, T> {
        // Whatever lies between a prefix and a text that begins with it begins with it too: so does the last entry that does not come after the
        // text, and no entry fits that this one does not begin with.
        let last = self.0.partition_point(|entry| entry.prefix.as_bytes() <= text).checked_sub(1);
        let last = last.and_then(|at| self.0.get(at));
        let common = last.map_or(0, |entry| {
            entry.prefix.bytes().zip(text).take_while(|(ours, theirs)| ours == *theirs).count()
        });
        std::iter::successors(last, move |entry| self.0.get(entry.shorter?))
            .filter(move |entry| entry.prefix.len() <= common)
            .map(|entry| &entry.value)
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_that_fits_comes_first() {
        let all = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/b"];
        let map = Prefixes::new(all.iter().map(|prefix| (Box::from(*prefix), *prefix)).collect());
        let found = |text: &str| map.find(text.as_bytes()).copied().collect::<Vec<_>>();
        assert_eq!(found("/a/b/x"), ["/a/b", "/a", "/"]);
        assert_eq!(found("/abc"), ["/ab", "/a", "/"]);
        assert_eq!(found("/a"), ["/a", "/"]);
        assert_eq!(found("/c"), ["/"]);
        assert!(found("x").is_empty() && found("").is_empty());
        assert_eq!(map.find(b"/a\xff").copied().collect::<Vec<_>>(), ["/a", "/"]);
    }

    proptest! {
        #[test]
        fn a_look_up_finds_what_a_scan_finds(
            prefixes in prop::collection::btree_set("[abé]{0,6}", 0..40),
            texts in prop::collection::vec("[abéz]{0,8}", 10),
        ) {
            let map = Prefixes::new(prefixes.iter().map(|one| (Box::from(one.as_str()), one.as_str())).collect());
            for text in texts.iter().chain(&prefixes) {
                let mut scanned: Vec<&str> =
                    prefixes.iter().map(String::as_str).filter(|one| text.starts_with(one)).collect();
                scanned.sort_by_key(|one| Reverse(one.len()));
                prop_assert_eq!(map.find(text.as_bytes()).copied().collect::<Vec<_>>(), scanned, "{}", text);
            }
        }
    }
}
