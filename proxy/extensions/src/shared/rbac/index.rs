//! Which policies a path leaves to be tried: where there are many, most are about other paths.
//!
//! A policy that can hold only where the path equals one of some texts, or begins with one of them, is listed under the first
//! segments of these texts. The others are always tried.

use std::collections::{BTreeSet, HashMap};

use super::rule::{PathText, Rule};

/// Below so many policies, trying one after the other is as fast.
const MIN_INDEXED: usize = 4;

/// Numbers of policies.
pub(super) struct PathIndex {
    by_segment: HashMap<Box<str>, Box<[usize]>>,
    always: Box<[usize]>,
}

impl PathIndex {
    /// Of policies by their rules, all of which have to hold.
    pub(super) fn new<'r>(policies: impl ExactSizeIterator<Item = &'r [Rule; 2]>) -> Self {
        let is_indexed = policies.len() >= MIN_INDEXED;
        let mut by_segment: HashMap<&str, BTreeSet<usize>> = HashMap::new();
        let mut always = Vec::new();
        for (number, rules) in policies.enumerate() {
            let texts = rules.iter().find_map(Rule::paths).filter(|_| is_indexed);
            let segments: Option<Vec<&str>> =
                texts.and_then(|texts| texts.into_iter().map(segment_of_text).collect());
            match segments {
                None => always.push(number),
                Some(segments) => segments.into_iter().for_each(|segment| {
                    by_segment.entry(segment).or_default().insert(number);
                }),
            }
        }
        let by_segment = by_segment.into_iter();
        Self {
            by_segment: by_segment.map(|(text, all)| (text.into(), all.into_iter().collect())).collect(),
            always: always.into(),
        }
    }

    /// The policies to try, in order.
    #[inline]
    pub(super) fn candidates(&self, path: Option<&str>) -> impl Iterator<Item = usize> {
        let of_segment = path.filter(|_| !self.by_segment.is_empty()).and_then(|path| {
            let end = segment_end(path).unwrap_or(path.len());
            self.by_segment.get(path.get(..end)?)
        });
        let mut of_segment = of_segment.map_or(&[][..], |all| all);
        let mut always = &*self.always;
        std::iter::from_fn(move || {
            let next = match (of_segment.first(), always.first()) {
                (Some(one), Some(other)) => *one.min(other),
                (Some(one), None) | (None, Some(one)) => *one,
                (None, None) => return None,
            };
            for list in [&mut of_segment, &mut always] {
                if let [first, rest @ ..] = *list
                    && *first == next
                {
                    *list = rest;
                }
            }
            Some(next)
        })
    }
}

/// Where the first segment of a path ends, if something follows it.
fn segment_end(path: &str) -> Option<usize> {
    path.bytes().skip(1).position(|byte| byte == b'/').map(|at| at + 1)
}

/// The first segment of every path that fits; `None` if these differ.
fn segment_of_text<'t>(text: PathText<'t>) -> Option<&'t str> {
    match text {
        PathText::Exact(path) => path.get(..segment_end(path).unwrap_or(path.len())),
        PathText::Prefix(path) => path.get(..segment_end(path)?),
    }
}
