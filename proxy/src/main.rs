//! The `outrigger` binary.

use std::io::Write;
use std::process::ExitCode;

use proxy::bootstrap::{Sources, load};
use proxy::cli::{self, Command, Mode, Options};
use proxy::{base_id, core_dumps, logging, memory, server};

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

fn main() -> ExitCode {
    memory::use_small_pages();
    let options = match cli::parse(std::env::args()) {
        Ok(Command::Run(options)) => *options,
        Ok(Command::Print(text)) => {
            let _ = writeln!(std::io::stdout(), "{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => return fail(&error),
    };
    if let Err(error) = core_dumps::set(options.enable_core_dump) {
        return fail(&error);
    }
    if let Err(error) = logging::start(&options) {
        return fail(&error);
    }
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("error initializing configuration: {error:#}");
            fail(&format_args!("{error:#}"))
        }
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{error}");
    ExitCode::FAILURE
}

fn run(options: Options) -> anyhow::Result<()> {
    let sources = Sources {
        path: options.config_path.clone(),
        yaml: options.config_yaml.clone(),
        allow_unknown_fields: options.allow_unknown_static_fields,
    };
    let built = server::build(load(&sources)?, &options)?;
    if options.mode == Mode::Validate {
        let path = options.config_path.as_deref().unwrap_or_default();
        let _ = writeln!(std::io::stdout(), "configuration '{path}' OK");
        return Ok(());
    }
    base_id::write(&options);
    server::run(built, options)
}
