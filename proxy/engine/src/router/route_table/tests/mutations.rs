//! Header mutations of all levels against a model as plain as their documentation: any actions, removals and empty values, with
//! the most specific level first or last.

use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::header_value_option::HeaderAppendAction;

use super::*;

const NAMES: [&str; 4] = ["x-a", "x-b", "x-c", "x-d"];
const ACTIONS: [HeaderAppendAction; 4] = [
    HeaderAppendAction::AppendIfExistsOrAdd,
    HeaderAppendAction::AddIfAbsent,
    HeaderAppendAction::OverwriteIfExistsOrAdd,
    HeaderAppendAction::OverwriteIfExists,
];

#[derive(Clone, Debug)]
struct Addition {
    name: usize,
    /// A text of its own, or nothing.
    value: Option<u8>,
    action: usize,
    keep_empty: bool,
}

#[derive(Clone, Debug)]
struct Level {
    add: Vec<Addition>,
    remove: Vec<usize>,
}

impl Addition {
    fn value(&self) -> String {
        self.value.map(|number| format!("v{number}")).unwrap_or_default()
    }

    fn option(&self) -> core::HeaderValueOption {
        core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: NAMES[self.name].to_owned(),
                value: self.value(),
                raw_value: Vec::new(),
            }),
            append_action: ACTIONS[self.action] as i32,
            keep_empty_value: self.keep_empty,
            ..core::HeaderValueOption::default()
        }
    }
}

impl Level {
    fn options(&self) -> Vec<core::HeaderValueOption> {
        self.add.iter().map(Addition::option).collect()
    }

    fn removed(&self) -> Vec<String> {
        self.remove.iter().map(|name| NAMES[*name].to_owned()).collect()
    }

    /// What the level makes of `fields`.
    fn apply(&self, fields: &mut Vec<(usize, String)>) {
        fields.retain(|(name, _)| !self.remove.contains(name));
        let before = fields.clone();
        let exists = |name: usize| before.iter().any(|(other, _)| *other == name);
        let counts = |one: &&Addition| {
            let wanted = match ACTIONS[one.action] {
                HeaderAppendAction::AddIfAbsent => !exists(one.name),
                HeaderAppendAction::OverwriteIfExists => exists(one.name),
                HeaderAppendAction::AppendIfExistsOrAdd | HeaderAppendAction::OverwriteIfExistsOrAdd => true,
            };
            wanted && (one.value.is_some() || one.keep_empty)
        };
        let overwrites = |one: &&Addition| one.action >= 2;
        for one in self.add.iter().filter(counts).filter(overwrites) {
            fields.retain(|(name, _)| *name != one.name);
            fields.push((one.name, one.value()));
        }
        for one in self.add.iter().filter(counts).filter(|one| !overwrites(one)) {
            fields.push((one.name, one.value()));
        }
    }
}

fn level() -> impl Strategy<Value = Level> {
    let addition = (0..4_usize, proptest::option::weighted(0.8, 0..9_u8), 0..4_usize, proptest::bool::ANY)
        .prop_map(|(name, value, action, keep_empty)| Addition { name, value, action, keep_empty });
    let remove = proptest::collection::vec(0..4_usize, 0..2);
    (proptest::collection::vec(addition, 0..5), remove).prop_map(|(add, remove)| Level { add, remove })
}

proptest! {
    #[test]
    fn mutations_are_those_of_the_model(
        // weight, route, virtual host, table
        levels in [level(), level(), level(), level()],
        initial in proptest::collection::vec((0..4_usize, 0..9_u8), 0..5),
        most_specific_wins: bool,
    ) {
        let [of_weight, of_route, of_host, of_table] = &levels;
        let mut first = weight("a", 1);
        macro_rules! configure {
            ($($level:expr => $at:expr),*) => {$(
                $at.request_headers_to_add = $level.options();
                $at.request_headers_to_remove = $level.removed();
                $at.response_headers_to_add = $level.options();
                $at.response_headers_to_remove = $level.removed();
            )*};
        }
        configure!(of_weight => first);
        let mut config = weighted_route(weighted(vec![first]));
        configure!(of_route => config.virtual_hosts[0].routes[0], of_host => config.virtual_hosts[0], of_table => config);
        config.most_specific_header_mutations_wins = most_specific_wins;
        let table = build_table(&config).unwrap();

        let mut fields: Vec<(usize, String)> =
            initial.iter().map(|(name, value)| (*name, format!("i{value}"))).collect();
        let before = get("h", "/");
        let (mut request, mut response) = (before.clone(), ResponseHead::new(StatusCode::OK));
        for (name, value) in &fields {
            request.headers.append(NAMES[*name], value.parse().unwrap());
            response.headers.append(NAMES[*name], value.parse().unwrap());
        }
        selected(&table, &before, 0, |route| {
            route.finalize_request(&mut request, &info(), EnvoyHeaders::Added);
            route.finalize_response(&before, &mut response, &info());
        });

        let order = match most_specific_wins {
            false => [of_weight, of_route, of_host, of_table],
            true => [of_weight, of_table, of_host, of_route],
        };
        order.iter().for_each(|level| level.apply(&mut fields));
        for headers in [&request.headers, &response.headers] {
            for (number, name) in NAMES.iter().enumerate() {
                let found: Vec<&str> = headers.get_all(*name).iter().map(|value| value.to_str().unwrap()).collect();
                let expected: Vec<&str> =
                    fields.iter().filter(|(name, _)| *name == number).map(|(_, value)| value.as_str()).collect();
                prop_assert_eq!(found, expected, "{}", name);
            }
        }
    }
}
