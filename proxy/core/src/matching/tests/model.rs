//! Random trees lead where a plain reading of the rules leads.

use std::cmp::Reverse;
use std::net::Ipv4Addr;

use proptest::prelude::*;
use prost_types::Any;
use xds_api::envoy::extensions::matching::common_inputs::ssl::v3::SubjectInput;
use xds_api::envoy::r#type::matcher::v3::HttpRequestHeaderMatchInput;
use xds_api::xds::core::v3::CidrRange;
use xds_api::xds::r#type::matcher::v3::ip_matcher::IpRangeMatcher;
use xds_api::xds::r#type::matcher::v3::matcher::OnMatch as OnMatchMessage;
use xds_api::xds::r#type::matcher::v3::matcher::matcher_list::predicate::single_predicate::Matcher as TestProto;
use xds_api::xds::r#type::matcher::v3::matcher::matcher_list::predicate::{
    MatchType, PredicateList, SinglePredicate,
};
use xds_api::xds::r#type::matcher::v3::matcher::{MatcherList, matcher_list};
use xds_api::xds::r#type::matcher::v3::server_name_matcher::DomainMatcher;
use xds_api::xds::r#type::matcher::v3::string_matcher::MatchPattern;

use super::*;
use crate::format::tests::headers;
use crate::head::RequestHead;

/// A tree in few words. Inputs are headers `a` and `b`, or the subject of a certificate that nobody has.
#[derive(Clone, Debug)]
struct Tree {
    kind: Kind,
    otherwise: Option<Box<To>>,
}

#[derive(Clone, Debug)]
enum Kind {
    Nothing,
    List(Vec<(Ask, To)>),
    Exact(Of, Vec<(String, To)>),
    Prefix(Of, Vec<(String, To)>),
    Ranges(Of, Vec<(Ranges, bool, To)>),
    Domains(Of, Vec<(String, To)>),
}

/// Ranges around `10.0.0.0`: the third byte, and the length. What has several is exclusive or not.
type Ranges = Vec<(u8, u8)>;

#[derive(Clone, Debug)]
enum To {
    Action(u32),
    Tree(Tree),
}

#[derive(Clone, Copy, Debug)]
enum Of {
    A,
    B,
    Subject,
}

#[derive(Clone, Debug)]
enum Ask {
    Is(Of, String),
    Begins(Of, String),
    Not(Box<Ask>),
    All(Vec<Ask>),
    Either(Vec<Ask>),
}

/// What headers `a` and `b` are.
type Asked<'r> = [Option<&'r str>; 2];

/// Where a tree leads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Led {
    To(u32),
    Nowhere,
    /// Something that cannot be had was asked for, which ends the search.
    Stuck,
}

/// What is known of an input; the error says that it cannot be had.
fn look(of: Of, asked: Asked<'_>) -> Result<Option<&str>, ()> {
    match of {
        Of::A => Ok(asked[0]),
        Of::B => Ok(asked[1]),
        Of::Subject => Err(()),
    }
}

fn first(places: Vec<&To>, asked: Asked<'_>) -> Led {
    places.into_iter().map(|to| follow(to, asked)).find(|led| *led != Led::Nowhere).unwrap_or(Led::Nowhere)
}

fn follow(to: &To, asked: Asked<'_>) -> Led {
    match to {
        To::Action(number) => Led::To(*number),
        To::Tree(tree) => tree.lead(asked),
    }
}

impl Tree {
    fn lead(&self, asked: Asked<'_>) -> Led {
        match (self.kind.lead(asked), &self.otherwise) {
            (Led::Nowhere, Some(to)) => follow(to, asked),
            (led, _) => led,
        }
    }
}

impl Kind {
    fn lead(&self, asked: Asked<'_>) -> Led {
        let of = match self {
            Self::Nothing => return Led::Nowhere,
            Self::List(list) => {
                for (ask, to) in list {
                    match ask.holds(asked).map(|holds| if holds { follow(to, asked) } else { Led::Nowhere }) {
                        Err(()) => return Led::Stuck,
                        Ok(Led::Nowhere) => {}
                        Ok(led) => return led,
                    }
                }
                return Led::Nowhere;
            }
            Self::Exact(of, _) | Self::Prefix(of, _) | Self::Ranges(of, _) | Self::Domains(of, _) => *of,
        };
        let text = match look(of, asked) {
            Err(()) => return Led::Stuck,
            Ok(None) => return Led::Nowhere,
            Ok(Some(text)) => text,
        };
        match self {
            Self::Exact(_, map) => {
                first(map.iter().filter(|(key, _)| key == text).map(|(_, to)| to).collect(), asked)
            }
            Self::Prefix(_, map) => {
                let mut fitting: Vec<_> = map.iter().filter(|(key, _)| text.starts_with(key)).collect();
                fitting.sort_by_key(|(key, _)| Reverse(key.len()));
                first(fitting.into_iter().map(|(_, to)| to).collect(), asked)
            }
            Self::Ranges(_, list) => {
                let Ok(ip) = text.parse::<Ipv4Addr>() else { return Led::Nowhere };
                let mut fitting: Vec<(u8, bool, &To)> = Vec::new();
                for (ranges, exclusive, to) in list {
                    for (byte, length) in ranges {
                        let mask = u32::MAX << (32 - u32::from(*length));
                        if u32::from(ip) & mask == u32::from(Ipv4Addr::new(10, 0, *byte, 0)) & mask {
                            fitting.push((*length, *exclusive, to));
                        }
                    }
                }
                fitting.sort_by_key(|(length, ..)| Reverse(*length));
                let kept =
                    fitting.iter().enumerate().filter(|(at, (_, exclusive, _))| *at == 0 || !exclusive);
                first(kept.map(|(_, (_, _, to))| *to).collect(), asked)
            }
            Self::Domains(_, list) => {
                let fits = |domain: &str| match domain.strip_prefix('*') {
                    Some("") => Some(0),
                    Some(suffix) => text.ends_with(suffix).then_some(suffix.len()),
                    None => (domain == text).then_some(usize::MAX),
                };
                let mut fitting: Vec<_> =
                    list.iter().filter_map(|(domain, to)| Some((fits(domain)?, to))).collect();
                fitting.sort_by_key(|(rank, _)| Reverse(*rank));
                first(fitting.into_iter().map(|(_, to)| to).collect(), asked)
            }
            Self::Nothing | Self::List(_) => Led::Nowhere,
        }
    }
}

impl Ask {
    fn holds(&self, asked: Asked<'_>) -> Result<bool, ()> {
        match self {
            Self::Is(of, text) => Ok(look(*of, asked)? == Some(text)),
            Self::Begins(of, text) => {
                Ok(look(*of, asked)?.is_some_and(|value| value.starts_with(text.as_str())))
            }
            Self::Not(ask) => Ok(!ask.holds(asked)?),
            Self::All(asks) => {
                for ask in asks {
                    if !ask.holds(asked)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Either(asks) => match asks.iter().any(|ask| ask.holds(asked) == Ok(true)) {
                true => Ok(true),
                false => asks.iter().try_fold(false, |_, ask| ask.holds(asked)),
            },
        }
    }
}

fn packed<M: prost::Message + prost::Name>(message: &M) -> TypedExtensionConfig {
    let any =
        Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() };
    TypedExtensionConfig { name: "x".to_owned(), typed_config: Some(any) }
}

impl Of {
    fn proto(self) -> TypedExtensionConfig {
        let header = |name: &str| packed(&HttpRequestHeaderMatchInput { header_name: name.to_owned() });
        match self {
            Self::A => header("a"),
            Self::B => header("b"),
            Self::Subject => packed(&SubjectInput {}),
        }
    }
}

impl Ask {
    fn proto(&self) -> matcher_list::Predicate {
        let single = |of: &Of, pattern| {
            let text = proto::StringMatcher { match_pattern: Some(pattern), ignore_case: false };
            MatchType::SinglePredicate(SinglePredicate {
                input: Some(of.proto()),
                matcher: Some(TestProto::ValueMatch(text)),
            })
        };
        let several = |asks: &[Self]| PredicateList { predicate: asks.iter().map(Self::proto).collect() };
        let match_type = match self {
            Self::Is(of, text) => single(of, MatchPattern::Exact(text.clone())),
            Self::Begins(of, text) => single(of, MatchPattern::Prefix(text.clone())),
            Self::Not(ask) => MatchType::NotMatcher(Box::new(ask.proto())),
            Self::All(asks) => MatchType::AndMatcher(several(asks)),
            Self::Either(asks) => MatchType::OrMatcher(several(asks)),
        };
        matcher_list::Predicate { match_type: Some(match_type) }
    }
}

impl To {
    fn proto(&self) -> OnMatchMessage {
        let on_match = match self {
            // (The tests' actions are names of messages.)
            Self::Action(number) => OnMatchProto::Action(TypedExtensionConfig {
                name: "x".to_owned(),
                typed_config: Some(Any { type_url: format!("x/{number}"), value: Vec::new() }),
            }),
            Self::Tree(tree) => OnMatchProto::Matcher(Box::new(tree.proto())),
        };
        OnMatchMessage { keep_matching: false, on_match: Some(on_match) }
    }
}

impl Tree {
    fn proto(&self) -> proto::Matcher {
        let map = |map: &[(String, To)]| MatchMap {
            map: map.iter().map(|(key, to)| (key.clone(), to.proto())).collect(),
        };
        let tree = |of: &Of, tree_type| {
            MatcherType::MatcherTree(MatcherTree { input: Some(of.proto()), tree_type: Some(tree_type) })
        };
        let matcher_type = match &self.kind {
            Kind::Nothing => None,
            Kind::List(list) => {
                let one = |(ask, to): &(Ask, To)| FieldMatcher {
                    predicate: Some(ask.proto()),
                    on_match: Some(to.proto()),
                };
                Some(MatcherType::MatcherList(MatcherList { matchers: list.iter().map(one).collect() }))
            }
            Kind::Exact(of, entries) => Some(tree(of, TreeType::ExactMatchMap(map(entries)))),
            Kind::Prefix(of, entries) => Some(tree(of, TreeType::PrefixMatchMap(map(entries)))),
            Kind::Ranges(of, list) => {
                let range = |(byte, length): &(u8, u8)| CidrRange {
                    address_prefix: format!("10.0.{byte}.0"),
                    prefix_len: Some(u32::from(*length)),
                };
                let one = |(ranges, exclusive, to): &(Ranges, bool, To)| IpRangeMatcher {
                    ranges: ranges.iter().map(range).collect(),
                    on_match: Some(to.proto()),
                    exclusive: *exclusive,
                };
                let matcher = proto::IpMatcher { range_matchers: list.iter().map(one).collect() };
                Some(tree(of, TreeType::CustomMatch(packed(&matcher))))
            }
            Kind::Domains(of, list) => {
                let one = |(domain, to): &(String, To)| DomainMatcher {
                    domains: vec![domain.clone()],
                    on_match: Some(to.proto()),
                };
                let matcher = proto::ServerNameMatcher { domain_matchers: list.iter().map(one).collect() };
                Some(tree(of, TreeType::CustomMatch(packed(&matcher))))
            }
        };
        let on_no_match = self.otherwise.as_ref().map(|to| Box::new(to.proto()));
        proto::Matcher { on_no_match, matcher_type }
    }
}

fn of() -> impl Strategy<Value = Of> {
    prop_oneof![8 => Just(Of::A), 4 => Just(Of::B), 1 => Just(Of::Subject)]
}

/// Few texts, so that they meet.
fn text() -> impl Strategy<Value = String> {
    "[ab]{1,3}"
}

fn ask() -> impl Strategy<Value = Ask> {
    let leaf = prop_oneof![
        (of(), text()).prop_map(|(of, text)| Ask::Is(of, text)),
        (of(), text()).prop_map(|(of, text)| Ask::Begins(of, text)),
    ];
    leaf.prop_recursive(2, 6, 2, |ask| {
        prop_oneof![
            ask.clone().prop_map(|ask| Ask::Not(Box::new(ask))),
            prop::collection::vec(ask.clone(), 2..3).prop_map(Ask::All),
            prop::collection::vec(ask, 2..3).prop_map(Ask::Either),
        ]
    })
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = (0..1000u32).prop_map(To::Action).boxed();
    let to = leaf.prop_recursive(3, 24, 4, |to| tree_of(to.boxed()).prop_map(To::Tree));
    tree_of(to.boxed())
}

fn tree_of(to: BoxedStrategy<To>) -> impl Strategy<Value = Tree> {
    let map = |key: BoxedStrategy<String>| {
        prop::collection::btree_map(key, to.clone(), 1..5).prop_map(|map| map.into_iter().collect::<Vec<_>>())
    };
    let domain = prop_oneof!["[ab](\\.[ab]){0,2}", "\\*\\.[ab](\\.[ab])?", Just("*".to_owned()),];
    let ranges = prop::collection::vec((0..4u8, prop::sample::select(vec![8u8, 16, 22, 23, 24, 32])), 1..3);
    let kind = prop_oneof![
        1 => Just(Kind::Nothing),
        4 => prop::collection::vec((ask(), to.clone()), 1..4).prop_map(Kind::List),
        2 => (of(), map(text().boxed())).prop_map(|(of, map)| Kind::Exact(of, map)),
        3 => (of(), map(text().boxed())).prop_map(|(of, map)| Kind::Prefix(of, map)),
        3 => (of(), prop::collection::vec((ranges, any::<bool>(), to.clone()), 1..4))
            .prop_map(|(of, list)| Kind::Ranges(of, list)),
        3 => (of(), map(domain.boxed())).prop_map(|(of, list)| Kind::Domains(of, list)),
    ];
    (kind, prop::option::weighted(0.3, to.prop_map(Box::new)))
        .prop_map(|(kind, otherwise)| Tree { kind, otherwise })
}

/// What a header may be.
fn value() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        1 => Just(None),
        4 => text().prop_map(Some),
        2 => "[ab](\\.[ab]){0,3}".prop_map(Some),
        2 => (0..4u8, 0..2u8).prop_map(|(third, fourth)| Some(format!("10.0.{third}.{fourth}"))),
    ]
}

fn request(asked: Asked<'_>) -> RequestHead {
    let values = [("a", asked[0]), ("b", asked[1])];
    let values: Vec<(&'static str, &[u8])> =
        values.into_iter().filter_map(|(name, value)| Some((name, value?.as_bytes()))).collect();
    RequestHead {
        method: http::Method::GET,
        scheme: crate::head::Scheme::Http,
        authority: "test".into(),
        path: "/".into(),
        upgrade: None,
        case: None,
        headers: headers(&values),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_leads_where_its_rules_say(tree in tree(), a in value(), b in value()) {
        let built = build(&tree.proto(), Layer::Http).unwrap();
        let asked = [a.as_deref(), b.as_deref()];
        let (info, request) = (stream_info(), request(asked));
        let found = built.find(&Facts::of_request(&info, &request, None));
        let expected = match tree.lead(asked) {
            Led::To(number) => Some(number.to_string()),
            Led::Nowhere | Led::Stuck => None,
        };
        prop_assert_eq!(found, expected.as_ref());
    }
}
