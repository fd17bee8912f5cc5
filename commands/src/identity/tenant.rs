//! The rules of a tenant. Its events are in the log of the tenant `platform`; registration opens the tenant's own log.

use access::ErrorCode;
use schemas::identity::tenant::{
    RegisterTenant, Registration, ResumeTenant, SuspendTenant, TenantEvent, TenantRegistered, TenantResumed,
    TenantSuspended, Tier,
};
use serde::{Deserialize, Serialize};
use store::Reservation;

use crate::engine::decider::{Decider, Rejection};

/// The kind of the reservation of a slug.
pub const SLUG: &str = "slug";

/// Slugs that no tenant may use: they are parts of the product or likely subdomains of a deployment.
pub const RESERVED_SLUGS: &[&str] = &["platform", "www", "api", "admin", "app", "static"];

crate::commands! {
    /// The commands of a tenant.
    pub enum TenantCommand {
        creates Register(RegisterTenant);
        changes Suspend(SuspendTenant), Resume(ResumeTenant);
    }
}

/// Why a tenant command was rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TenantRejection {
    /// A tenant with this id exists.
    #[error("the tenant is registered already")]
    AlreadyRegistered,
    /// The slug is in [`RESERVED_SLUGS`].
    #[error("the slug is reserved")]
    SlugReserved,
    /// The country is not an ISO 3166-1 alpha-2 code.
    #[error("the country must be two upper-case letters (ISO 3166-1 alpha-2)")]
    CountryInvalid,
    /// The tenant does not exist.
    #[error("there is no such tenant")]
    NotRegistered,
}

impl Rejection for TenantRejection {
    fn code(&self) -> ErrorCode {
        match self {
            Self::AlreadyRegistered => ErrorCode::TenantExists,
            Self::SlugReserved => ErrorCode::SlugReserved,
            Self::CountryInvalid => ErrorCode::CountryInvalid,
            Self::NotRegistered => ErrorCode::TenantUnknown,
        }
    }
}

/// A tenant, folded from its events.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Tenant {
    /// False before the first event.
    pub registered: bool,
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
    type Error = TenantRejection;

    fn apply(&mut self, event: TenantEvent) {
        let registered = match event {
            TenantEvent::Registered(registered) => registered,
            TenantEvent::Suspended(_) => return self.suspended = true,
            TenantEvent::Resumed(_) => return self.suspended = false,
        };
        *self = Self {
            registered: true,
            slug: registered.slug.into(),
            name: registered.name.into(),
            tier: registered.tier,
            registration: registered.registration,
            organisation: registered.organisation.map(Into::into),
            business_unit: registered.business_unit.map(Into::into),
            country: registered.country,
            suspended: false,
        };
    }

    fn decide(&self, command: TenantCommand) -> Result<Vec<TenantEvent>, TenantRejection> {
        let new = match (self.registered, command) {
            (false, TenantCommand::Register(new)) => new,
            (true, TenantCommand::Register(_)) => return Err(TenantRejection::AlreadyRegistered),
            (false, _) => return Err(TenantRejection::NotRegistered),
            (true, TenantCommand::Suspend(_)) if self.suspended => return Ok(Vec::new()),
            (true, TenantCommand::Suspend(SuspendTenant { reason })) => {
                return Ok(vec![TenantEvent::Suspended(TenantSuspended { reason })]);
            }
            (true, TenantCommand::Resume(_)) if !self.suspended => return Ok(Vec::new()),
            (true, TenantCommand::Resume(_)) => return Ok(vec![TenantEvent::Resumed(TenantResumed {})]),
        };
        if RESERVED_SLUGS.contains(&new.slug.as_str()) {
            return Err(TenantRejection::SlugReserved);
        }
        if new.country.as_deref().is_some_and(|code| !is_country_code(code)) {
            return Err(TenantRejection::CountryInvalid);
        }
        Ok(vec![TenantEvent::Registered(TenantRegistered {
            slug: new.slug,
            name: new.name,
            tier: new.tier,
            registration: new.registration,
            organisation: new.organisation,
            business_unit: new.business_unit,
            country: new.country,
        })])
    }

    fn exists(&self) -> bool {
        self.registered
    }

    fn reservations(event: &TenantEvent) -> Vec<Reservation> {
        let TenantEvent::Registered(registered) = event else { return Vec::new() };
        vec![Reservation { kind: SLUG, value: registered.slug.to_string() }]
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
    use crate::CqrsAggregate;

    fn register(slug: &str, country: Option<&str>) -> TenantCommand {
        TenantCommand::Register(RegisterTenant {
            slug: TenantSlug::parse(slug).expect("a valid slug"),
            name: Name::parse("Acme").expect("a valid name"),
            tier: Tier::Pro,
            registration: Registration::Open,
            organisation: None,
            business_unit: None,
            country: country.map(str::to_owned),
        })
    }

    fn registered(slug: &str) -> TenantEvent {
        TenantEvent::Registered(TenantRegistered {
            slug: TenantSlug::parse(slug).expect("a valid slug"),
            name: Name::parse("Acme").expect("a valid name"),
            tier: Tier::Pro,
            registration: Registration::Open,
            organisation: None,
            business_unit: None,
            country: None,
        })
    }

    fn given(events: Vec<TenantEvent>) -> AggregateTestExecutor<CqrsAggregate<Tenant>> {
        TestFramework::with(()).given(events)
    }

    #[test]
    fn a_tenant_registers_once() {
        given(vec![]).when(register("acme", None)).then_expect_events(vec![registered("acme")]);
        given(vec![registered("acme")])
            .when(register("acme", None))
            .then_expect_error(TenantRejection::AlreadyRegistered);
    }

    #[test]
    fn the_products_own_words_are_no_slugs() {
        for slug in RESERVED_SLUGS {
            given(vec![]).when(register(slug, None)).then_expect_error(TenantRejection::SlugReserved);
        }
    }

    #[test]
    fn a_country_is_two_upper_case_letters() {
        assert!(given(vec![]).when(register("acme", Some("GB"))).inspect_result().is_ok());
        for bad in ["gb", "GBR", "", "G1"] {
            given(vec![])
                .when(register("acme", Some(bad)))
                .then_expect_error(TenantRejection::CountryInvalid);
        }
    }

    #[test]
    fn a_tenant_is_put_on_hold_and_taken_off_it_once() {
        let suspend = || TenantCommand::from(SuspendTenant { reason: None });
        let resume = || TenantCommand::from(ResumeTenant {});
        let suspended = TenantEvent::Suspended(TenantSuspended { reason: None });
        let resumed = TenantEvent::Resumed(TenantResumed {});
        given(vec![registered("acme")]).when(suspend()).then_expect_events(vec![suspended.clone()]);
        given(vec![registered("acme"), suspended.clone()]).when(suspend()).then_expect_events(vec![]);
        given(vec![registered("acme")]).when(resume()).then_expect_events(vec![]);
        given(vec![registered("acme"), suspended.clone()])
            .when(resume())
            .then_expect_events(vec![resumed.clone()]);
        given(vec![registered("acme"), suspended.clone(), resumed])
            .when(suspend())
            .then_expect_events(vec![suspended]);
        given(vec![]).when(suspend()).then_expect_error(TenantRejection::NotRegistered);
    }

    #[test]
    fn registering_reserves_the_slug() {
        let reserved = Tenant::reservations(&registered("acme"));
        assert_eq!((reserved[0].kind, reserved[0].value.as_str()), ("slug", "acme"));
    }
}
