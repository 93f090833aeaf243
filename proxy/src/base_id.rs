//! `--base-id-path`: where Envoy writes the number that its hot restart goes by. Whoever starts several proxies on one host waits for
//! that file, so it is written, though processes share nothing here and never get into each other's way.
//!
//! Source: Envoy `docs/root/operations/cli.rst`, "--base-id", "--use-dynamic-base-id", "--base-id-path".

use crate::cli::Options;

/// Writes the base id, if the command line wants it written. That it cannot be is logged, as by Envoy, and ends nothing.
pub fn write(options: &Options) {
    // (Without hot restart Envoy has no base id.)
    let Some(path) = options.base_id_path.as_ref().filter(|_| !options.disable_hot_restart) else { return };
    if let Err(error) = std::fs::write(path, base_id(options).to_string()) {
        tracing::error!("cannot open base id output file {path} for writing: {error}");
    }
}

/// A dynamic one is that of the process: no other on this host has it.
fn base_id(options: &Options) -> u32 {
    if options.use_dynamic_base_id { std::process::id() } else { options.base_id }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_id_is_that_of_the_command_line_or_of_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("id");
        let written = |options: Options| {
            let base_id_path = Some(path.to_str().unwrap().to_owned());
            write(&Options { base_id_path, ..options });
            std::fs::read_to_string(&path).ok()
        };
        let none = Options { disable_hot_restart: true, ..Options::default() };
        assert_eq!(written(none), None);
        assert_eq!(written(Options::default()).as_deref(), Some("0"));
        assert_eq!(written(Options { base_id: 7, ..Options::default() }).as_deref(), Some("7"));
        let dynamic = written(Options { use_dynamic_base_id: true, ..Options::default() });
        assert_eq!(dynamic, Some(std::process::id().to_string()));
        // No file can be there: that is no reason to end.
        write(&Options { base_id_path: Some("/no/such/folder/id".to_owned()), ..Options::default() });
    }
}
