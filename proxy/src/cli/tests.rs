use super::*;

fn run(arguments: &[&str]) -> Result<Command, Error> {
    parse(std::iter::once("envoy").chain(arguments.iter().copied()).map(str::to_owned))
}

fn options(arguments: &[&str]) -> Options {
    match run(arguments) {
        Ok(Command::Run(options)) => *options,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn error(arguments: &[&str]) -> String {
    run(arguments).unwrap_err().message
}

#[test]
fn defaults_are_envoys() {
    let options = options(&[]);
    assert_eq!(options, Options::default());
    assert!(options.workers() >= 1);
}

#[test]
fn istios_arguments() {
    let options = options(&[
        "-c",
        "etc/istio/proxy/envoy-rev.json",
        "--drain-time-s",
        "45",
        "--drain-strategy",
        "immediate",
        "--local-address-ip-version",
        "v4",
        "--file-flush-interval-msec",
        "1000",
        "--disable-hot-restart",
        "--allow-unknown-static-fields",
        "-l",
        "warning",
        "--component-log-level",
        "misc:error",
        "--config-yaml",
        "{\"a\": 1}",
        "--skip-deprecated-logs",
        "--concurrency",
        "2",
        "--log-format",
        "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t",
    ]);
    assert_eq!(options.config_path.as_deref(), Some("etc/istio/proxy/envoy-rev.json"));
    assert_eq!(options.config_yaml.as_deref(), Some("{\"a\": 1}"));
    assert_eq!(options.drain_time, Duration::from_secs(45));
    assert_eq!(options.drain_strategy, DrainStrategy::Immediate);
    assert_eq!(options.file_flush_interval, Duration::from_secs(1));
    assert_eq!(options.log_level, LogLevel::Warning);
    assert_eq!(options.component_log_levels, [("misc".to_owned(), LogLevel::Error)]);
    assert_eq!((options.concurrency, options.workers()), (Some(2), 2));
    assert!(
        options.disable_hot_restart && options.allow_unknown_static_fields && options.skip_deprecated_logs
    );
}

#[test]
fn a_value_may_share_the_argument_of_its_flag() {
    for arguments in [
        &["--service-cluster", "a b", "--log-level", "info"][..],
        &["--service-cluster a b", "--log-level info"],
        &["--service-cluster=a b", "--log-level=info"],
        &["--service-cluster", "a b", "-l info"],
    ] {
        let options = options(arguments);
        assert_eq!(
            (options.service_cluster.as_str(), options.log_level),
            ("a b", LogLevel::Info),
            "{arguments:?}"
        );
    }
    assert_eq!(options(&["--service-node=a=b"]).service_node, "a=b");
    assert_eq!(options(&["--service-node", "--x"]).service_node, "--x");
    assert_eq!(options(&["--service-node", ""]).service_node, "");
}

/// What Envoy 1.40 answers.
#[test]
fn wrong_flags() {
    for (arguments, argument, reason) in [
        (&["--foo"][..], "--foo", "Couldn't find match for argument"),
        (&["foo"], "foo", "Couldn't find match for argument"),
        (&["-v"], "-v", "Couldn't find match for argument"),
        (&["-lx"], "-lx", "Couldn't find match for argument"),
        (&["-c/x"], "-c/x", "Couldn't find match for argument"),
        (&["-c=/x"], "-c=/x", "Couldn't find match for argument"),
        (&["--conc", "1"], "--conc", "Couldn't find match for argument"),
        (&["--Concurrency", "1"], "--Concurrency", "Couldn't find match for argument"),
        (&["--enable-core-dump=true"], "--enable-core-dump=true", "Couldn't find match for argument"),
        (&["--enable-core-dump", "true"], "true", "Couldn't find match for argument"),
        (&["--concurrency"], "(--concurrency)", "Missing a value for this argument!"),
        (&["-c"], "-c (--config-path)", "Missing a value for this argument!"),
        (&["--base-id", "1", "--base-id", "2"], "(--base-id)", "Argument already set!"),
        (&["--concurrency", "x"], "(--concurrency)", "Couldn't read argument value from string 'x'"),
        (&["--concurrency", "1x"], "(--concurrency)", "Couldn't read argument value from string '1x'"),
        (&["--concurrency", "0x2"], "(--concurrency)", "Couldn't read argument value from string '0x2'"),
        (&["--concurrency", "1.5"], "(--concurrency)", "Couldn't read argument value from string '1.5'"),
        (
            &["--concurrency", "4294967296"],
            "(--concurrency)",
            "Couldn't read argument value from string '4294967296'",
        ),
        // (Envoy takes -1 for four billion workers.)
        (&["--concurrency", "-1"], "(--concurrency)", "Couldn't read argument value from string '-1'"),
        (&["--foo", "--version"], "--foo", "Couldn't find match for argument"),
    ] {
        assert_eq!(error(arguments), format!("PARSE ERROR: Argument: {argument}\n             {reason}"));
    }
    assert!(run(&["--foo"]).unwrap_err().to_string().ends_with("see --help."));
}

#[test]
fn wrong_values() {
    for (arguments, reason) in [
        (&["--mode", "bad"][..], "unknown mode 'bad'"),
        (&["-l", "WARN"], "invalid log level specified 'WARN'"),
        (&["--local-address-ip-version", "x"], "unknown IP address version 'x'"),
        (&["--drain-strategy", "x"], "unknown drain-strategy 'x'"),
        (&["--component-log-level", "nope:debug"], "invalid component specified 'nope'"),
        (&["--component-log-level", "upstream:nope"], "invalid log level specified 'nope'"),
        (&["--component-log-level", "upstream"], "component log level not correctly specified 'upstream'"),
        (
            &["--enable-fine-grain-logging", "--component-log-level", "upstream:debug"],
            "--component-log-level will not work with --enable-fine-grain-logging",
        ),
        (
            &["--restart-epoch", "1", "--use-dynamic-base-id"],
            "cannot use --restart-epoch=1 with --use-dynamic-base-id",
        ),
        (&["--stats-tag", "a"], "misformatted stats-tag 'a'"),
        (&["--stats-tag", "a-:b"], "misformatted stats-tag 'a-:b' contains invalid char in 'a-'"),
        (&["--stats-tag", "a:b.c"], "misformatted stats-tag 'a:b.c' contains invalid char in 'b.c'"),
        (&["--stats-tag", "a:"], "misformatted stats-tag 'a:' contains invalid char in ''"),
    ] {
        assert_eq!(error(arguments), format!("error: {reason}"));
        assert!(!run(arguments).unwrap_err().to_string().contains("--help"));
    }
}

#[test]
fn odd_but_accepted() {
    assert_eq!(options(&["--concurrency", " 2"]).concurrency, Some(2));
    assert_eq!(options(&["--concurrency", "+2"]).concurrency, Some(2));
    assert_eq!(options(&["--concurrency", "0"]).concurrency, Some(1));
    assert_eq!(options(&["--concurrency", ""]).concurrency, Some(1));
    assert_eq!(options(&["", "--base-id", "7"]).base_id, 7);
    assert_eq!(options(&["--base-id", "7", "--", "foo"]).base_id, 7);
    assert_eq!(options(&["--ignore_rest", "foo", "--bar"]), Options::default());
    assert_eq!(options(&["--component-log-level", ""]).component_log_levels, []);
    let tags = options(&["--stats-tag", "a:b:c", "--stats-tag d:e"]).stats_tags;
    assert_eq!(tags, [("a".to_owned(), "b:c".to_owned()), ("d".to_owned(), "e".to_owned())]);
    assert_eq!(options(&["--allow-unknown-fields"]).warnings.len(), 1);
    assert_eq!(options(&["--cpuset-threads", "--concurrency", "3"]).warnings.len(), 1);
    assert_eq!(options(&["--mode", "init_only"]).mode, Mode::InitOnly);
}

#[test]
fn every_flag_is_accepted() {
    for flag in FLAGS.iter().filter(|flag| !["help", "version", "hot-restart-version"].contains(&flag.name)) {
        let name = format!("--{}", flag.name);
        let value = match flag.name {
            "mode" => "validate",
            "local-address-ip-version" => "v6",
            "log-level" => "trace",
            "component-log-level" => "http:off",
            "drain-strategy" => "gradual",
            "stats-tag" => "a:b",
            _ => "1",
        };
        let arguments = if flag.takes == Takes::Nothing { vec![name.as_str()] } else { vec![&name, value] };
        let changed = options(&arguments) != Options::default();
        let keeps_the_default = ["drain-strategy", "ignore_rest"].contains(&flag.name);
        assert_eq!(changed, !keeps_the_default, "{name}");
    }
}

#[test]
fn a_flag_without_effect_is_one_warning() {
    let warnings = |arguments: &[&str]| options(arguments).warnings;
    assert_eq!(warnings(&["--restart-epoch", "0", "--base-id", "3"]), [""; 0]);
    assert_eq!(
        warnings(&["--restart-epoch", "1", "--enable-mutex-tracing"]),
        [
            "--restart-epoch has no effect: there is no hot restart",
            "--enable-mutex-tracing has no effect: nobody measures who waits for a lock"
        ]
    );
    // Only the epoch has a number that asks for nothing.
    assert_eq!(
        warnings(&["--restart-epoch", "0", "--parent-shutdown-time-s", "0"]),
        ["--parent-shutdown-time-s has no effect: there is no hot restart"]
    );
    let page = include_str!("../../../docs/operations.md");
    let help = flags::help("outrigger");
    for flag in FLAGS.iter().filter(|flag| !flag.idle.is_empty()) {
        let row = format!("| `--{}` | {} |", flag.name, flag.idle);
        assert!(page.contains(&row), "docs/operations.md has no row {row}");
        assert!(help.contains(&format!("(no effect: {})", flag.idle)), "{help}");
    }
    let rows = page.lines().filter(|line| line.starts_with("| `--")).count();
    assert_eq!(rows, FLAGS.iter().filter(|flag| !flag.idle.is_empty()).count(), "rows of docs/operations.md");
}

#[test]
fn the_cpuset_says_how_many_workers() {
    let may_use = usize::try_from(rustix::thread::sched_getaffinity(None).unwrap().count()).unwrap();
    assert_eq!(options(&["--cpuset-threads"]).workers(), may_use);
    assert_eq!(options(&["--cpuset-threads", "--concurrency", "7"]).workers(), 7);
    // As on a machine with more processors than are read.
    let all = std::thread::available_parallelism().unwrap().get();
    assert_eq!(in_cpuset(Err(rustix::io::Errno::INVAL)), all);
}

#[test]
fn what_is_only_printed() {
    let printed = |arguments: &[&str]| match run(arguments) {
        Ok(Command::Print(text)) => text,
        other => panic!("{other:?}"),
    };
    let version = printed(&["--version", "x"]);
    let (program, build) = version.split_once("  version: ").unwrap();
    assert_eq!((program, build.split('/').count()), ("envoy", 5));
    assert_eq!(printed(&["--hot-restart-version"]), "disabled");
    let help = printed(&["--help", "--foo"]);
    assert!(FLAGS.iter().all(|flag| help.contains(&format!("--{} ", flag.name))), "{help}");
    assert!(help.contains("-c, --config-path FILE"), "{help}");
}
