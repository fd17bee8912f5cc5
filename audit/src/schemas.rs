//! The schemas of event types in an export: those of the product, and those that services registered in the tenant's
//! log.

use ::schemas::contracts;
use ::schemas::engine::StreamName;
use ::schemas::integration::event_type::family_id;
use ::schemas::integration::names::ExternalType;
use proofs::export::{REGISTRATION_EVENT_TYPES, Registration, TypeSchema};
use store::{StoreError, TenantStore};

/// The category of the streams of registrations.
const CATEGORY: &str = "integration.event_type";
/// Maximum registrations of one read.
const PAGE_SIZE_MAX: usize = 100;

/// The schema of a type as of a position, if any. For a registered type it is the last one, because each schema accepts
/// what the earlier ones accepted.
pub(crate) async fn of_type(
    tenant: &TenantStore,
    event_type: &str,
    to: u64,
) -> Result<Option<TypeSchema>, StoreError> {
    if let Some(schema) = contracts::schema(event_type) {
        let event_type = event_type.to_owned();
        let schema = serde_json::value::to_raw_value(schema).expect("JSON serialises");
        let product = Some(env!("CARGO_PKG_VERSION").to_owned());
        return Ok(Some(TypeSchema { event_type, schema, product, registered_at: None }));
    }
    let Ok(external) = ExternalType::parse(event_type) else { return Ok(None) };
    let stream = StreamName::new(CATEGORY, family_id(external.family()));
    let (mut at, mut last) = (0, None);
    loop {
        let rows = tenant.export_rows(at, to, Some(&stream), PAGE_SIZE_MAX).await?;
        let Some(end) = rows.last() else { return Ok(last) };
        at = end.position;
        for row in rows.iter().filter(|row| REGISTRATION_EVENT_TYPES.contains(&row.event_type.as_str())) {
            // An invalid registration gives no schema; the verifier reports the event.
            let Some(registration) = Registration::parse(&row.payload) else { continue };
            if registration.event_type == event_type {
                let Registration { event_type, schema } = registration;
                let registered_at = Some(row.position);
                last = Some(TypeSchema { event_type, schema, product: None, registered_at });
            }
        }
    }
}
