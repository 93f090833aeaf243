//! What is demanded of a request: a tree of providers, all or any of whom must have vouched for it.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::head::RequestHead;
use xds_api::envoy::extensions::filters::http::jwt_authn::v3 as proto;
use xds_api::envoy::extensions::filters::http::jwt_authn::v3::jwt_requirement::RequiresType;

use super::JwtAuthnStats;
use super::location::{Found, Locations};
use super::provider::{Audiences, Now, Provider};
use proxy_core::jwt::{Failure, Token};

/// Where a host is told of a token that is not good and need not be, unless `verification_status_header` says where.
const UNVERIFIED: HeaderName = HeaderName::from_static("x-jwt-signature-verified");

/// The providers of a filter.
#[derive(Default)]
pub(super) struct Providers {
    pub(super) named: HashMap<String, Arc<Provider>>,
    /// Where any of them looks for tokens.
    pub(super) locations: Arc<Locations>,
}

impl Providers {
    /// Whose token of this issuer is: that of one that names it, else that of one that names none.
    fn of_issuer(&self, issuer: &str) -> Option<&Arc<Provider>> {
        let find = |name: &str| self.named.values().find(|provider| provider.issuer == name);
        find(issuer).or_else(|| find(""))
    }
}

/// What is demanded.
pub(super) enum Requirement {
    Nothing,
    /// Every token of the provider's must be good, and there must be one.
    Provider(Arc<Provider>, Option<Audiences>),
    Any {
        of: Vec<Requirement>,
        allows: Allows,
    },
    All(Vec<Requirement>),
    /// Whoever vouches, and what need not be.
    Anybody(Allows),
    /// Nothing: what good tokens say is passed on, and the host is told of others in this header.
    Extracted(HeaderName),
}

/// What is forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allows {
    Nothing,
    Missing,
    MissingOrFailed,
}

/// A request under judgement.
pub(super) struct Trial<'r> {
    pub(super) request: &'r mut RequestHead,
    pub(super) providers: &'r Providers,
    pub(super) stats: &'r JwtAuthnStats,
    pub(super) now: Now,
    /// Providers whose keys are not here, as far as it came to that.
    pub(super) lacking: Vec<Arc<Provider>>,
    /// What tokens said, for metadata.
    pub(super) extracted: Struct,
    pub(super) clears_route: bool,
}

impl Requirement {
    /// Builds it; names of providers must exist.
    pub(super) fn build(
        proto: &proto::JwtRequirement,
        providers: &Providers,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let provider = |name: &str, cx: &mut BuildCx<'_>| match providers.named.get(name) {
            Some(provider) => Ok(provider.clone()),
            None => Err(cx.reject(format!("Required provider ['{name}'] is not configured."))),
        };
        match &proto.requires_type {
            None => Ok(Self::Nothing),
            Some(RequiresType::ProviderName(name)) => {
                Ok(Self::Provider(cx.at("provider_name", |cx| provider(name, cx))?, None))
            }
            Some(RequiresType::ProviderAndAudiences(both)) => cx.at("provider_and_audiences", |cx| {
                let proto::ProviderWithAudiences { provider_name, audiences } = both;
                let provider = cx.at("provider_name", |cx| provider(provider_name, cx))?;
                let audiences = (!audiences.is_empty()).then(|| Audiences::new(audiences));
                Ok(Self::Provider(provider, audiences))
            }),
            Some(RequiresType::RequiresAny(list)) => cx.at("requires_any", |cx| {
                let mut allows = Allows::Nothing;
                let built = cx.each("requirements", &list.requirements, |one, cx| match one.requires_type {
                    Some(RequiresType::AllowMissingOrFailed(())) => {
                        allows = Allows::MissingOrFailed;
                        Ok(None)
                    }
                    Some(RequiresType::AllowMissing(())) => {
                        if allows == Allows::Nothing {
                            allows = Allows::Missing;
                        }
                        Ok(None)
                    }
                    _ => Self::build(one, providers, cx).map(Some),
                });
                let of: Vec<Self> = built?.into_iter().flatten().collect();
                Ok(if of.is_empty() { Self::Anybody(allows) } else { Self::Any { of, allows } })
            }),
            Some(RequiresType::RequiresAll(list)) => cx.at("requires_all", |cx| {
                let each =
                    cx.each("requirements", &list.requirements, |one, cx| Self::build(one, providers, cx));
                each.map(Self::All)
            }),
            Some(RequiresType::AllowMissing(())) => Ok(Self::Anybody(Allows::Missing)),
            Some(RequiresType::AllowMissingOrFailed(())) => Ok(Self::Anybody(Allows::MissingOrFailed)),
            Some(RequiresType::ExtractOnlyWithoutValidation(extract)) => {
                let name = &extract.verification_status_header;
                let parsed = if name.is_empty() { Ok(UNVERIFIED) } else { HeaderName::try_from(name) };
                parsed.map(Self::Extracted).map_err(|_| {
                    cx.at("extract_only_without_validation", |cx| {
                        cx.at("verification_status_header", |cx| {
                            cx.reject(format!("'{name}' is no name of a header"))
                        })
                    })
                })
            }
        }
    }

    /// Holds a request to it.
    pub(super) fn judge(&self, trial: &mut Trial<'_>) -> Result<(), Failure> {
        match self {
            Self::Nothing => Ok(()),
            Self::Provider(provider, audiences) => {
                provider.sanitize(trial.request);
                let tokens = provider.locations.find(trial.request);
                trial.judge_all(&tokens, Allows::Nothing, Some((provider, audiences.as_ref())))
            }
            Self::Any { of, allows } => {
                let mut worst = Failure::Missing;
                for requirement in of {
                    let Err(failure) = requirement.judge(trial) else { return Ok(()) };
                    // what is wrong with a token says more than that there is none, or that it is another's
                    let says_more = !matches!(failure, Failure::Missing | Failure::UnknownIssuer);
                    if says_more || worst == Failure::Missing {
                        worst = failure;
                    }
                }
                match allows {
                    Allows::MissingOrFailed => Ok(()),
                    Allows::Missing if worst == Failure::Missing => Ok(()),
                    _ => Err(worst),
                }
            }
            Self::All(requirements) => requirements.iter().try_for_each(|one| one.judge(trial)),
            Self::Anybody(allows) => {
                let locations = trial.begin_anybody();
                let tokens = locations.find(trial.request);
                trial.judge_all(&tokens, *allows, None)
            }
            Self::Extracted(header) => {
                let locations = trial.begin_anybody();
                let tokens = locations.find(trial.request);
                if trial.judge_all(&tokens, Allows::Missing, None).is_err() {
                    trial.request.headers.insert(header.clone(), HeaderValue::from_static("false"));
                }
                Ok(())
            }
        }
    }
}

/// The provider that is demanded, and the audiences in place of its own.
type Demanded<'p> = Option<(&'p Arc<Provider>, Option<&'p Audiences>)>;

impl<'r> Trial<'r> {
    pub(super) fn new(
        request: &'r mut RequestHead,
        providers: &'r Providers,
        stats: &'r JwtAuthnStats,
        now: Now,
    ) -> Self {
        let extracted = Struct::default();
        Self { request, providers, stats, now, lacking: Vec::new(), extracted, clears_route: false }
    }

    /// Takes away what only this filter may say; where any provider looks for tokens.
    fn begin_anybody(&mut self) -> Arc<Locations> {
        for provider in self.providers.named.values() {
            provider.sanitize(self.request);
        }
        self.providers.locations.clone()
    }

    /// All tokens must be good: the host might take one that is not for the one that was.
    fn judge_all(
        &mut self,
        tokens: &[Found<'_>],
        allows: Allows,
        demanded: Demanded<'_>,
    ) -> Result<(), Failure> {
        // whose the last token was that said so
        let mut of = None;
        let mut outcome = Err(Failure::Missing);
        for token in tokens {
            outcome = self.judge_one(token, demanded, &mut of);
            if let Err(failure) = outcome {
                self.tell_failure(failure, of.as_ref());
                if allows == Allows::Nothing {
                    break;
                }
            }
        }
        if tokens.is_empty() {
            self.tell_failure(Failure::Missing, None);
        }
        match allows {
            Allows::MissingOrFailed => Ok(()),
            Allows::Missing if tokens.is_empty() => Ok(()),
            _ => outcome,
        }
    }

    fn judge_one(
        &mut self,
        found: &Found<'_>,
        demanded: Demanded<'_>,
        of: &mut Option<Arc<Provider>>,
    ) -> Result<(), Failure> {
        let remembered = demanded.and_then(|(provider, _)| provider.remembers(&found.token));
        if let Some((provider, _)) = demanded {
            *of = Some(provider.clone());
            match remembered {
                Some(true) => self.stats.jwt_cache_hit.inc(),
                _ => self.stats.jwt_cache_miss.inc(),
            }
        }
        let token = Token::parse(&found.token)?;
        if !found.allows(token.issuer()) {
            return Err(Failure::UnknownIssuer);
        }
        let (provider, audiences) = match demanded {
            Some((provider, audiences)) => (provider.clone(), audiences),
            None => {
                let provider = self.providers.of_issuer(token.issuer()).ok_or(Failure::UnknownIssuer)?;
                *of = Some(provider.clone());
                (provider.clone(), None)
            }
        };
        let judged = provider.judge(&token, audiences, self.now, remembered == Some(true));
        if judged == Err(Failure::KeysNotFetched) {
            self.lacking.push(provider.clone());
        }
        judged?;
        if remembered == Some(false) {
            provider.remember(&found.token);
        }
        provider.apply(&token, found, self.request, &mut self.extracted);
        self.clears_route |= provider.clears_route;
        Ok(())
    }

    /// Leaves in metadata why a token was not accepted, as its provider says, or the only one there is.
    fn tell_failure(&mut self, failure: Failure, of: Option<&Arc<Provider>>) {
        let only = || self.providers.named.values().next().filter(|_| self.providers.named.len() == 1);
        let Some(provider) = of.or_else(only) else { return };
        if provider.failure_metadata.is_empty() {
            return;
        }
        let value = |kind| Value { kind: Some(kind) };
        let fields = [
            ("code".to_owned(), value(Kind::NumberValue(failure.number().into()))),
            ("message".to_owned(), value(Kind::StringValue(failure.text().to_owned()))),
        ];
        let kind = Some(Kind::StructValue(Struct { fields: fields.into() }));
        self.extracted.fields.insert(provider.failure_metadata.clone(), Value { kind });
    }
}
