//! The rules of a tenant. Its events are in the log of the tenant `platform`; registration opens the tenant's own log.

use access::ErrorCode;
use describe::rejections;
use schemas::identity::tenant::{Registration, TenantCommand, TenantEvent, TenantOrganisation, Tier};
use serde::{Deserialize, Serialize};
use store::Reservation;

use crate::engine::decider::{Decider, Facts, ReservedKind};

/// The kind of the reservation of a slug.
pub const SLUG: ReservedKind = ReservedKind { name: "slug", taken: ErrorCode::SlugTaken, field: "slug" };

/// Slugs that no tenant may use: they are parts of the product or likely subdomains of a deployment.
pub const RESERVED_SLUGS: &[&str] = &["platform", "www", "api", "admin", "app", "static"];

/// Why a tenant command was rejected.
#[rejections]
pub enum TenantRejection {
    /// The slug is in [`RESERVED_SLUGS`].
    #[rejection(SlugReserved, "the slug is reserved", at = "slug")]
    SlugReserved,
    #[rejection(
        CountryInvalid,
        "the country must be two upper-case letters (ISO 3166-1 alpha-2)",
        at = "country"
    )]
    CountryInvalid,
}

/// What the rules know of a tenant.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Tenant {
    /// Unique name in URLs and subjects.
    pub slug: String,
    /// Display name.
    pub name: String,
    /// Tier of the tenant.
    pub tier: Tier,
    /// Whether anonymous callers may register users.
    pub registration: Registration,
    /// Legal organisation, if given.
    pub organisation: Option<String>,
    /// Part of the organisation, if given.
    pub business_unit: Option<String>,
    /// ISO 3166-1 alpha-2 code, if given.
    pub country: Option<String>,
    /// Whether it is suspended.
    #[serde(default)]
    pub suspended: bool,
}

impl Decider for Tenant {
    type Command = TenantCommand;
    type Event = TenantEvent;
    type Rejection = TenantRejection;

    const EXISTS: ErrorCode = ErrorCode::TenantExists;
    const RESERVED_KINDS: &'static [ReservedKind] = &[SLUG];

    fn decide(&self, command: TenantCommand, _facts: &Facts) -> Result<Vec<TenantEvent>, TenantRejection> {
        use TenantCommand as Command;
        use TenantEvent as Event;

        let event = match command {
            Command::RegisterTenant { slug, name, tier, registration, organisation } => {
                if RESERVED_SLUGS.contains(&slug.as_str()) {
                    return Err(TenantRejection::SlugReserved);
                }
                if organisation.country.as_deref().is_some_and(|code| !is_country_code(code)) {
                    return Err(TenantRejection::CountryInvalid);
                }
                Event::Registered { slug, name, tier, registration, organisation }
            }
            Command::SuspendTenant { .. } if self.suspended => return Ok(vec![]),
            Command::SuspendTenant { reason } => Event::Suspended { reason },
            Command::ResumeTenant {} if !self.suspended => return Ok(vec![]),
            Command::ResumeTenant {} => Event::Resumed {},
        };
        Ok(vec![event])
    }

    fn apply(&mut self, event: TenantEvent) {
        match event {
            TenantEvent::Registered { slug, name, tier, registration, organisation } => {
                let TenantOrganisation { organisation, business_unit, country } = organisation;
                *self = Self {
                    slug: slug.into(),
                    name: name.into(),
                    tier,
                    registration,
                    organisation: organisation.map(Into::into),
                    business_unit: business_unit.map(Into::into),
                    country,
                    suspended: false,
                };
            }
            TenantEvent::Suspended { .. } => self.suspended = true,
            TenantEvent::Resumed {} => self.suspended = false,
        }
    }

    fn reserved(&self) -> Vec<Reservation> {
        let slug = (!self.slug.is_empty()).then(|| self.slug.clone());
        slug.map(|value| Reservation { kind: SLUG.name, value }).into_iter().collect()
    }
}

fn is_country_code(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::{AggregateTestExecutor, TestFramework};
    use schemas::engine::{Name, TenantSlug};

    use super::*;
    use crate::{CqrsAggregate, DecideError};

    fn register(slug: &str, country: Option<&str>) -> TenantCommand {
        TenantCommand::RegisterTenant {
            slug: TenantSlug::parse(slug).expect("a valid slug"),
            name: Name::parse("Acme").expect("a valid name"),
            tier: Tier::Pro,
            registration: Registration::Open,
            organisation: TenantOrganisation {
                organisation: None,
                business_unit: None,
                country: country.map(str::to_owned),
            },
        }
    }

    fn registered(slug: &str) -> TenantEvent {
        TenantEvent::Registered {
            slug: TenantSlug::parse(slug).expect("a valid slug"),
            name: Name::parse("Acme").expect("a valid name"),
            tier: Tier::Pro,
            registration: Registration::Open,
            organisation: TenantOrganisation { organisation: None, business_unit: None, country: None },
        }
    }

    fn rejected(rejection: TenantRejection) -> DecideError<TenantRejection> {
        DecideError::Rejected(rejection)
    }

    fn given(events: Vec<TenantEvent>) -> AggregateTestExecutor<CqrsAggregate<Tenant>> {
        TestFramework::with(()).given(events)
    }

    #[test]
    fn a_tenant_registers_once() {
        given(vec![]).when(register("acme", None)).then_expect_events(vec![registered("acme")]);
        given(vec![registered("acme")]).when(register("acme", None)).then_expect_error(DecideError::Exists);
    }

    #[test]
    fn the_products_own_words_are_no_slugs() {
        for slug in RESERVED_SLUGS {
            given(vec![])
                .when(register(slug, None))
                .then_expect_error(rejected(TenantRejection::SlugReserved));
        }
    }

    #[test]
    fn a_country_is_two_upper_case_letters() {
        assert!(given(vec![]).when(register("acme", Some("GB"))).inspect_result().is_ok());
        for bad in ["gb", "GBR", "", "G1"] {
            given(vec![])
                .when(register("acme", Some(bad)))
                .then_expect_error(rejected(TenantRejection::CountryInvalid));
        }
    }

    #[test]
    fn a_tenant_is_put_on_hold_and_taken_off_it_once() {
        let suspend = || TenantCommand::SuspendTenant { reason: None };
        let resume = || TenantCommand::ResumeTenant {};
        let suspended = TenantEvent::Suspended { reason: None };
        let resumed = TenantEvent::Resumed {};
        given(vec![registered("acme")]).when(suspend()).then_expect_events(vec![suspended.clone()]);
        given(vec![registered("acme"), suspended.clone()]).when(suspend()).then_expect_events(vec![]);
        given(vec![registered("acme")]).when(resume()).then_expect_events(vec![]);
        given(vec![registered("acme"), suspended.clone()])
            .when(resume())
            .then_expect_events(vec![resumed.clone()]);
        given(vec![registered("acme"), suspended.clone(), resumed])
            .when(suspend())
            .then_expect_events(vec![suspended]);
        given(vec![]).when(suspend()).then_expect_error(DecideError::NotFound);
    }

    #[test]
    fn registering_reserves_the_slug() {
        let mut tenant = Tenant::default();
        tenant.apply(registered("acme"));
        let reserved = tenant.reserved();
        assert_eq!((reserved[0].kind, reserved[0].value.as_str()), ("slug", "acme"));
    }
}
