//! A command on its way: it is decided on a state, and its events are appended.

use schemas::engine::canonical::CanonicalError;
use schemas::engine::{CommandTarget, Commands, Metadata, StreamName};
use store::{
    AppendError, DeploymentKey, ExpectedVersion, IdempotencyClaim, KeyUse, NewEvent, Receipt, RequestDigest,
    StreamAppend, TenantStore,
};
use uuid::Uuid;

use super::context::{CommandContext, CommandSideEffects};
use super::decider::{DecideError, Decider, Facts, ReservedKind, decide, reservation_changes};
use super::loading::LoadedAggregate;
use super::outcome::{ExecuteError, RecordedNow};

/// A command that is being executed.
pub(super) struct PreparedCommand<'a, A: Decider> {
    pub(super) context: &'a CommandContext,
    pub(super) tenant: TenantStore,
    pub(super) id: Uuid,
    pub(super) stream: StreamName,
    pub(super) command: A::Command,
    pub(super) facts: Facts,
    pub(super) metadata: Metadata,
    pub(super) claim: Option<IdempotencyClaim>,
    pub(super) side_effects: CommandSideEffects,
}

/// Result of a command without an error.
pub(super) enum DecisionOutcome<A> {
    Appended(Receipt, A, Option<RecordedNow>),
    Duplicate(Receipt),
    NoEffect(LoadedAggregate<A>),
}

impl<A: Decider> PreparedCommand<'_, A> {
    /// Decides first on the cached state. That state may lag, which only an append would detect.
    /// So if the result is anything but events, it decides again on the state from the log.
    /// A creating command is first decided on an empty state, and again if the stream exists.
    pub(super) async fn decide(
        &self,
        cached: Option<LoadedAggregate<A>>,
        first: bool,
    ) -> Result<(LoadedAggregate<A>, Vec<A::Event>), ExecuteError<A::Rejection>> {
        let creates = self.command.command_type().target != CommandTarget::Existing;
        if cached.is_some() || (creates && first) {
            let loaded = cached.clone().unwrap_or_default();
            if let Ok(events) = self.decide_on(&loaded)
                && !events.is_empty()
            {
                return Ok((loaded, events));
            }
        }
        let mut loaded = cached.unwrap_or_default();
        loaded.catch_up(&self.tenant, &self.stream).await?;
        let events = self.decide_on(&loaded)?;
        Ok((loaded, events))
    }

    fn decide_on(&self, loaded: &LoadedAggregate<A>) -> Result<Vec<A::Event>, ExecuteError<A::Rejection>> {
        if loaded.version == 0 && self.command.command_type().target == CommandTarget::Existing {
            return Err(ExecuteError::NotFound);
        }
        if self.context.expected_version.is_some_and(|expected| expected != loaded.version) {
            return Err(ExecuteError::VersionConflict { actual: loaded.version });
        }
        decide(&loaded.state, loaded.version, self.command.clone(), &self.facts).map_err(
            |error| match error {
                DecideError::Exists => ExecuteError::Exists { code: A::EXISTS },
                DecideError::NotFound => ExecuteError::NotFound,
                DecideError::Rejected(rejection) => ExecuteError::Rejected(rejection),
            },
        )
    }

    /// The append of the events, and the state after them.
    /// A command without effect stores its receipt at the version on which it was decided.
    pub(super) fn plan(
        &self,
        loaded: &LoadedAggregate<A>,
        events: &[A::Event],
    ) -> Result<(LoadedAggregate<A>, StreamAppend), ExecuteError<A::Rejection>> {
        let encoded: Vec<NewEvent> = events
            .iter()
            .map(NewEvent::encode)
            .collect::<Result<_, _>>()
            .map_err(|error| ExecuteError::internal("encoding an event", error))?;
        let LoadedAggregate { version, log_id: log, .. } = *loaded;
        let expected = if version == 0 { ExpectedVersion::NoStream } else { ExpectedVersion::Exact(version) };
        let mut after = loaded.clone();
        if let Some(claim) = self.claim.filter(|_| events.is_empty()) {
            let append =
                StreamAppend::without_effect(self.stream.clone(), expected, claim, self.metadata.clone());
            return Ok((after, StreamAppend { log, ..append }));
        }
        for event in events {
            after.apply(event.clone(), &self.stream);
        }
        let (reservations, releases) = reservation_changes(loaded.state.reserved(), after.state.reserved());
        let append = StreamAppend {
            log,
            claim: self.claim,
            reservations,
            releases,
            secrets: self.side_effects.secrets.clone(),
            digest_releases: self.side_effects.digest_releases.clone(),
            new_tenant: self.side_effects.new_tenant.clone(),
            tenant_status: self.side_effects.tenant_status,
            ..StreamAppend::new(self.stream.clone(), expected, encoded, self.metadata.clone())
        };
        Ok((after, append))
    }

    pub(super) async fn append(&self, append: StreamAppend) -> Result<Receipt, ExecuteError<A::Rejection>> {
        self.tenant.append(append).await.map_err(|error| match error {
            AppendError::Reserved { kind, holder } => {
                let declared = A::RESERVED_KINDS.iter().find(|declared| declared.name == kind);
                ExecuteError::Reserved { kind: declared.copied().unwrap_or(ReservedKind::OTHER), holder }
            }
            error => error.into(),
        })
    }

    /// The receipt of this command, if it was executed before.
    pub(super) async fn previous_receipt(&self) -> Result<Option<Receipt>, ExecuteError<A::Rejection>> {
        let Some(claim) = &self.claim else { return Ok(None) };
        match self.tenant.key_use(claim).await? {
            KeyUse::Unused => Ok(None),
            KeyUse::Repeat(receipt) => Ok(Some(receipt)),
            KeyUse::Other => Err(ExecuteError::CommandIdReused),
        }
    }

    /// The first answer again. A receipt of another aggregate is an error.
    pub(super) fn duplicate(
        &self,
        receipt: Receipt,
    ) -> Result<DecisionOutcome<A>, ExecuteError<A::Rejection>> {
        if receipt.stream == self.stream {
            Ok(DecisionOutcome::Duplicate(receipt))
        } else {
            Err(ExecuteError::CommandIdReused)
        }
    }
}

/// The keyed digest over name, target and command. It distinguishes a repeat from another command under the same key.
pub(super) fn digest(
    key: &DeploymentKey,
    name: &str,
    stream: &StreamName,
    command: &impl serde::Serialize,
) -> Result<[u8; 32], CanonicalError> {
    Ok(RequestDigest::new(key, name, stream.as_str()).value(command)?.finish())
}

#[cfg(test)]
mod tests {
    use schemas::crm::customer::{CustomerCommand, CustomerDetails};
    use schemas::engine::{Email, Name, Reason};

    use super::*;

    fn register(name: &str) -> CustomerCommand {
        let details = CustomerDetails {
            name: Name::parse(name).expect("a valid name"),
            email: Email::parse("ada@example.com").expect("a valid address"),
            company: None,
            notes: None,
        };
        CustomerCommand::RegisterCustomer { user_id: None, details }
    }

    fn stream(id: u128) -> StreamName {
        StreamName::new("crm.customer", Uuid::from_u128(id))
    }

    #[test]
    fn a_digest_tells_key_name_target_and_content_apart() {
        let key = DeploymentKey::generate();
        let of = |key: &DeploymentKey, name: &str, id: u128, command: &CustomerCommand| {
            digest(key, name, &stream(id), command).expect("a command serialises")
        };
        let first = of(&key, "RegisterCustomer", 1, &register("Ada"));
        assert_eq!(first, of(&key, "RegisterCustomer", 1, &register("Ada")));
        assert_ne!(first, of(&key, "RegisterCustomer", 1, &register("Bo")));
        assert_ne!(first, of(&key, "RegisterCustomer", 2, &register("Ada")));
        assert_ne!(first, of(&key, "RenameCustomer", 1, &register("Ada")));
        assert_ne!(first, of(&DeploymentKey::generate(), "RegisterCustomer", 1, &register("Ada")));
    }

    #[test]
    fn an_absent_field_does_not_count_in_a_digest() {
        #[derive(serde::Serialize)]
        #[serde(tag = "name", content = "command")]
        enum Later {
            SuspendCustomer { reason: Option<Reason>, introduced_later: Option<u32> },
        }
        let key = DeploymentKey::generate();
        let of = |command: &Later| digest(&key, "SuspendCustomer", &stream(1), command).expect("serialises");
        let reason = || Some(Reason::parse("arrears").expect("a valid reason"));
        let today = CustomerCommand::SuspendCustomer { reason: reason() };
        let today = digest(&key, "SuspendCustomer", &stream(1), &today).expect("serialises");
        assert_eq!(of(&Later::SuspendCustomer { reason: reason(), introduced_later: None }), today);
        assert_ne!(of(&Later::SuspendCustomer { reason: reason(), introduced_later: Some(1) }), today);
        assert_ne!(of(&Later::SuspendCustomer { reason: None, introduced_later: None }), today);
    }
}
