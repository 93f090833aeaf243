//! The plan into the kernel, and out again.
//!
//! What is there is read first. If it is the plan, nothing is done. Otherwise one transaction for each IP version takes the
//! old rules away and puts the new ones in place, so that no packet meets half of them. A transaction is atomic for each table;
//! where it changes several, the host drops TCP and UDP meanwhile, so that nothing escapes and nothing is captured by halves: connections
//! that are under way resend. In the end what is there is read again and must be the plan.

use crate::address::{Family, Owner};
use crate::backend::{Error, Iptables, run};
use crate::cli::{Request, Surroundings, Work};
use crate::nft::{self, listing};
use crate::options::{Groups, Interception, Options};
use crate::rule::Plan;
use crate::state::{self, Extent, Standing, State};
use crate::{plan, routes};

/// The chain that drops everything while several tables change.
const GUARD: &str = "SIDECAR_GUARD";

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Nothing,
    Applied,
    Removed,
}

/// Does the work that is asked for.
///
/// # Errors
/// Something fails, or rules of another configuration are in the way.
pub fn apply(request: &Request, around: &Surroundings) -> Result<Done, Error> {
    if let Work::Skip = work(request) {
        return Ok(Done::Nothing);
    }
    let options = resolved(&request.options, around)?;
    let plan = plan::plan(&options);
    let former = plan::plan(&other_interception(&options));
    if work(request) == Work::Cleanup {
        clean_up(request, &plan, &former)?;
        return Ok(Done::Removed);
    }
    routes::add(&plan)?;
    let changed =
        if request.nft { nft_rules(&plan, work(request))? } else { iptables_rules(request, &plan, &former)? };
    Ok(if changed { Done::Applied } else { Done::Nothing })
}

fn work(request: &Request) -> Work {
    match request.command {
        crate::cli::Command::Run { work, .. } => work,
        _ => Work::Skip,
    }
}

/// The same wishes with the other interception: its rules in built-in chains may be left from before.
fn other_interception(options: &Options) -> Options {
    let interception = match options.interception {
        Interception::Redirect => Interception::TProxy,
        Interception::TProxy => Interception::Redirect,
    };
    Options { interception, ..options.clone() }
}

/// Names of users and groups as numbers, which is what the kernel keeps.
fn resolved(options: &Options, around: &Surroundings) -> Result<Options, Error> {
    let lookup = |owners: &[Owner], text: &str, kind: &str| {
        let number = |owner: &Owner| match owner {
            Owner::Number(number) => Ok(Owner::Number(*number)),
            Owner::Name(name) => Surroundings::lookup(text, name)
                .map(Owner::Number)
                .ok_or_else(|| Error::Other(format!("no {kind} {name:?} here; give its number"))),
        };
        owners.iter().map(number).collect::<Result<Vec<_>, _>>()
    };
    let groups = |owners: &[Owner]| lookup(owners, &around.group, "group");
    Ok(Options {
        proxy_uids: lookup(&options.proxy_uids, &around.passwd, "user")?,
        proxy_gids: groups(&options.proxy_gids)?,
        groups: match &options.groups {
            Groups::AllBut(owners) => Groups::AllBut(groups(owners)?),
            Groups::Only(owners) => Groups::Only(groups(owners)?),
        },
        ..options.clone()
    })
}

/// The iptables of one IP version, and what it holds.
struct Side {
    family: Family,
    tool: Iptables,
    text: String,
}

impl Side {
    fn find(request: &Request, plan: &Plan, family: Family) -> Result<Side, Error> {
        let lock = request.network_namespace.as_deref().filter(|_| request.cni);
        let tool = Iptables::detect(family, request.variant, plan.prefix, lock)?;
        let text = tool.save()?;
        Ok(Side { family, tool, text })
    }

    fn state(&self) -> State {
        State::read(&self.text)
    }

    /// How it stands to the plan. What an iptables of another version gives back in words of its own is asked for rule by
    /// rule, as Istio does.
    fn standing(&self, plan: &Plan) -> Standing {
        let state = self.state();
        let standing = state::standing(plan, self.family, &state);
        let asked = || state::checks(plan, self.family).all(|arguments| self.tool.check(&arguments));
        match standing {
            Standing::Different if state::may_be_in_force(plan, self.family, &state) && asked() => {
                Standing::InForce
            }
            standing => standing,
        }
    }
}

fn iptables_rules(request: &Request, plan: &Plan, former: &Plan) -> Result<bool, Error> {
    let sides =
        plan.families().map(|family| Side::find(request, plan, family)).collect::<Result<Vec<_>, _>>()?;
    let standings: Vec<Standing> = sides.iter().map(|side| side.standing(plan)).collect();
    let work = work(request);
    let left = sides.iter().any(|side| side.text.contains(GUARD));
    if work != Work::Force && !left && standings.iter().all(|standing| *standing == Standing::InForce) {
        return Ok(false);
    }
    if work == Work::Apply && standings.contains(&Standing::Different) {
        return Err(Error::Other(
            "rules of another configuration are in place; --reconcile replaces them, --cleanup-only removes them".into(),
        ));
    }
    let extent = if work == Work::Force { Extent::All } else { Extent::Changed };
    let changes: Vec<(&Side, String)> = sides
        .iter()
        .map(|side| (side, state::transaction(plan, &[former], side.family, &side.state(), extent)))
        .collect();
    let fresh = standings.iter().all(|standing| *standing == Standing::Absent);
    let at_once = changes.iter().all(|(_, change)| state::tables(change) < 2);
    if (fresh || at_once) && !left {
        change(&changes)?;
    } else {
        guarded(&sides, || change(&changes))?;
    }
    for side in sides {
        let now = Side { text: side.tool.save()?, ..side };
        if now.standing(plan) != Standing::InForce {
            let name = now.tool.name();
            let reason = format!("{name} did not keep the rules as they were given; see {name}-save");
            return Err(Error::Other(reason));
        }
    }
    Ok(true)
}

fn change(changes: &[(&Side, String)]) -> Result<(), Error> {
    changes.iter().filter(|(_, text)| !text.is_empty()).try_for_each(|(side, text)| side.tool.restore(text))
}

/// Does something while nothing but ICMP passes. The guard is taken away even if it fails, as an unreachable workload is no
/// better than an old configuration.
fn guarded(sides: &[Side], work: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    let mut result = Ok(());
    let mut standing = Vec::new();
    for side in sides {
        // a run that was killed left one: it does for this run, which takes it away
        if !side.text.contains(GUARD) {
            result = side.tool.restore(&guard_on());
        }
        if result.is_err() {
            break;
        }
        standing.push(side);
    }
    let result = result.and_then(|()| work());
    standing.into_iter().map(|side| side.tool.restore(&guard_off())).fold(result, Result::and)
}

const GUARDED: [&str; 3] = ["INPUT", "FORWARD", "OUTPUT"];

fn guard_on() -> String {
    let drop = ["tcp", "udp"].map(|protocol| format!("-A {GUARD} -p {protocol} -j DROP\n")).concat();
    let jumps = GUARDED.map(|hook| format!("-I {hook} -j {GUARD}\n")).concat();
    format!("*filter\n:{GUARD} - [0:0]\n{drop}{jumps}COMMIT\n")
}

fn guard_off() -> String {
    let jumps = GUARDED.map(|hook| format!("-D {hook} -j {GUARD}\n")).concat();
    format!("*filter\n{jumps}-F {GUARD}\n-X {GUARD}\nCOMMIT\n")
}

fn clean_up(request: &Request, plan: &Plan, former: &Plan) -> Result<(), Error> {
    let nothing = Plan { v4: Vec::new(), v6: Vec::new(), ..plan.clone() };
    let mut failed = None;
    if request.nft {
        run("nft", &["-f", "-"], &nft::cleanup(plan))?;
    } else {
        let mut sides = vec![Side::find(request, plan, Family::V4)?];
        match Side::find(request, plan, Family::V6) {
            Ok(side) => sides.push(side),
            // without IPv6 there is nothing of it to clean up
            Err(_) if !routes::has_ipv6() => {}
            // the rest is cleaned up all the same
            Err(error) => failed = Some(error),
        }
        let changes: Vec<(&Side, String)> = sides
            .iter()
            .map(|side| {
                (side, state::transaction(&nothing, &[plan, former], side.family, &side.state(), Extent::All))
            })
            .collect();
        change(&changes)?;
        for side in sides.iter().filter(|side| side.text.contains(GUARD)) {
            side.tool.restore(&guard_off())?;
        }
    }
    for plan in [plan, former] {
        routes::remove(plan)?;
    }
    failed.map_or(Ok(()), Err)
}

/// nftables replaces everything at one instant, so there is no gap to guard; what is in force is left alone all the same, so
/// that rules keep their counts.
fn nft_rules(plan: &Plan, work: Work) -> Result<bool, Error> {
    let wanted = listing::wanted(plan);
    let found = |table: &str| {
        run("nft", &["list", "table", "inet", table], "").map(|output| listing::found(&output.stdout))
    };
    // a table that is not there cannot be listed
    let in_force = nft::table_names(plan).iter().all(|table| found(table).ok().as_ref() == wanted.get(table));
    if in_force && work != Work::Force {
        return Ok(false);
    }
    run("nft", &["-f", "-"], &nft::transaction(plan))?;
    for (table, wanted) in wanted {
        if !listing::as_many(&found(&table)?, &wanted) {
            let reason =
                format!("nft did not keep the rules as they were given; see `nft list table inet {table}`");
            return Err(Error::Other(reason));
        }
    }
    Ok(true)
}
