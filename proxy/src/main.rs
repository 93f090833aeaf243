//! The `outrigger` binary.

use std::process::ExitCode;
use std::time::Duration;

use proxy::bootstrap::{Sources, load};
use proxy::server::{Settings, build, run};
use proxy_engine::local::drain::DrainStrategy;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut sources = Sources::default();
    let mut settings = Settings {
        concurrency: std::thread::available_parallelism().map_or(1, usize::from),
        drain_time: Duration::from_secs(600),
        drain_strategy: DrainStrategy::Gradual,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-c" | "--config-path" => sources.path = args.next(),
            "--concurrency" => settings.concurrency = args.next().and_then(|n| n.parse().ok()).unwrap_or(1),
            _ => {}
        }
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let result = load(&sources).and_then(|loaded| {
        let built = build(&loaded.message, &settings)?;
        drop(loaded);
        run(built, &settings)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
