//! A user who registers as a member becomes a customer. Administrators do not: they run the business. The platform's
//! own tenant has no customers.

use commands::AnyCommand;
use schemas::crm::customer::{CustomerCommand, CustomerDetails};
use schemas::engine::{DecodeError, ids};
use schemas::identity::role::Role;
use schemas::identity::user::UserEvent;

use crate::engine::process::{Process, Reaction, Trigger, target_id};

const NAME: &str = "customer_onboarding";
const REGISTER_STEP: &str = "register_customer";

/// `identity.user.registered.v1` -> `RegisterCustomer`. An instance is a user.
pub struct CustomerOnboarding;

impl Process for CustomerOnboarding {
    fn name(&self) -> &'static str {
        NAME
    }

    fn react(&self, trigger: Trigger<'_>) -> Result<Option<Reaction>, DecodeError> {
        if trigger.tenant == ids::PLATFORM {
            return Ok(None);
        }
        let (Some(UserEvent::Registered { details, roles }), Some(user_id)) =
            (trigger.event.decode()?, trigger.event.stream.uuid())
        else {
            return Ok(None);
        };
        // A user who was erased before the saga reacts does not become a customer.
        let (true, Some(details)) = (roles.contains(&Role::Member), details.open()) else {
            return Ok(None);
        };
        let details =
            CustomerDetails { name: details.name, email: details.email, company: None, notes: None };
        let command = CustomerCommand::RegisterCustomer { user_id: Some(user_id), details };
        let command = AnyCommand::new(target_id(NAME, user_id, REGISTER_STEP), &command);
        Ok(Some(
            Reaction::new(user_id, "registering_customer").with_subject(user_id).step(REGISTER_STEP, command),
        ))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use schemas::engine::{
        Actor, Email, Event, EventType, LogId, Metadata, Name, RecordedEvent, Sealed, StreamName, TenantId,
        clock,
    };
    use schemas::identity::user::UserDetails;
    use uuid::Uuid;

    use super::*;
    use crate::{Instance, Step};

    const TENANT: TenantId = TenantId(Uuid::from_u128(5));
    const USER: Uuid = Uuid::from_u128(6);

    fn recorded(event: &UserEvent) -> RecordedEvent {
        RecordedEvent {
            log_id: LogId(Uuid::from_u128(1)),
            position: 3,
            stream: StreamName::new("identity.user", USER),
            version: 1,
            event_id: Uuid::from_u128(2),
            event_type: EventType::parse(event.type_name()).expect("a valid type"),
            recorded_at: clock::now(),
            payload: Bytes::from(event.encode().expect("encodes")),
            metadata: Metadata::new(Actor::anonymous(), Uuid::from_u128(4)),
        }
    }

    fn registered(roles: &[Role]) -> UserEvent {
        let details = UserDetails {
            email: Email::parse("ada@example.com").expect("valid"),
            name: Name::parse("Ada").expect("valid"),
        };
        UserEvent::Registered { details: Sealed::own(details), roles: roles.to_vec() }
    }

    fn react(tenant: TenantId, event: &UserEvent) -> Option<Reaction> {
        let trigger = Trigger { tenant, event: &recorded(event), instance: &Instance::default() };
        CustomerOnboarding.react(trigger).expect("decodes")
    }

    #[test]
    fn a_member_becomes_a_customer_under_an_id_that_repeats() {
        let reaction = react(TENANT, &registered(&[Role::Member])).expect("a reaction");
        assert_eq!(reaction.instance, USER);
        let [Step { command, .. }] = reaction.steps.as_slice() else {
            panic!("one step expected, not {:?}", reaction.steps);
        };
        let Some(CustomerCommand::RegisterCustomer { user_id, details }) = command.typed() else {
            panic!("RegisterCustomer expected, not {command:?}");
        };
        assert_eq!((user_id, details.name.as_str()), (Some(USER), "Ada"));
        assert_eq!(command.id(), target_id("customer_onboarding", USER, "register_customer"));
        assert_eq!(react(TENANT, &registered(&[Role::Member])), Some(reaction));
    }

    #[test]
    fn a_member_who_is_an_administrator_too_becomes_a_customer() {
        assert!(react(TENANT, &registered(&[Role::TenantAdmin, Role::Member])).is_some());
    }

    #[test]
    fn administrators_and_the_platforms_own_users_do_not() {
        assert_eq!(react(TENANT, &registered(&[Role::TenantAdmin])), None);
        assert_eq!(react(ids::PLATFORM, &registered(&[Role::PlatformAdmin, Role::Member])), None);
    }

    #[test]
    fn nobody_becomes_a_customer_who_was_erased() {
        let details = Sealed::Erased { subject: USER };
        let erased = UserEvent::Registered { details, roles: vec![Role::Member] };
        assert_eq!(react(TENANT, &erased), None);
    }

    #[test]
    fn other_events_do_not_concern_it() {
        assert_eq!(react(TENANT, &UserEvent::Deactivated { reason: None }), None);
    }

    #[test]
    fn a_payload_that_does_not_decode_is_an_error() {
        let mut event = recorded(&registered(&[Role::Member]));
        event.payload = Bytes::from_static(b"{}");
        let trigger = Trigger { tenant: TENANT, event: &event, instance: &Instance::default() };
        assert!(CustomerOnboarding.react(trigger).is_err());
    }
}
