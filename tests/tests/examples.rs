//! Every example is a configuration that the real Envoy accepts, and that Outrigger accepts.

use std::path::Path;

use integration::process::Binary;

#[test]
fn every_example_is_accepted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut count = 0;
    let mut rejected = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        count += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{}: an example starts by saying what it shows", path.display());
        for binary in [Binary::envoy().unwrap(), Binary::subject().unwrap()] {
            let verdict = binary.validate_file(&path).unwrap();
            if !verdict.accepted {
                let last = verdict.text.lines().last().unwrap_or_default();
                rejected += &format!("{:?} rejects {}: {last}\n", binary.kind, path.display());
            }
        }
    }
    assert!(count >= 8, "only {count} examples");
    assert!(rejected.is_empty(), "{rejected}");
}
