//! What somebody may have meant who wrote a name that is none: errors of reading say it.

use strsim::damerau_levenshtein;

/// Longer names are not looked into: the distance costs the product of the lengths.
const LONGEST: usize = 64;

/// ` (did you mean 'X'?)` with the known name that is nearest to `name`, if one is near enough; otherwise nothing.
pub(crate) fn did_you_mean<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    if name.len() > LONGEST {
        return String::new();
    }
    // One slip in three letters, as compilers allow.
    let most = (name.len() / 3).max(1);
    let near = known
        .map(|known| (damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= most && *distance < known.len())
        .min_by_key(|(distance, _)| *distance);
    near.map(|(_, known)| format!(" (did you mean '{known}'?)")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::did_you_mean;

    #[test]
    fn the_nearest_name_is_named() {
        let known = ["address", "additional_addresses", "name", "id"];
        for (written, meant) in [
            ("adress", " (did you mean 'address'?)"),
            ("addresss", " (did you mean 'address'?)"),
            ("adrdess", " (did you mean 'address'?)"),
            ("nam", " (did you mean 'name'?)"),
            ("foo", ""),
            ("xy", ""),
            ("", ""),
        ] {
            assert_eq!(did_you_mean(written, known.into_iter()), meant, "{written}");
        }
        assert_eq!(did_you_mean(&"a".repeat(10_000), known.into_iter()), "");
    }
}
