//! Commands on webhooks under an `Idempotency-Key`: a repeat gets the first answer, before anything else is looked at. The
//! answer is kept sealed, because it may hold a signing secret.

use axum::http::header;
use schemas::engine::clock;
use store::DeploymentKey;
use store::webhooks::WebhookReceipt;
use webhooks::secret::{SealError, open, seal};

use super::{
    Caller, ErrorCode, Gateway, IdempotencyKey, IntoResponse, Map, Problem, Response, StatusCode, TenantId,
    TenantStore, TenantTransaction, Uuid, Value,
};

/// A command on a webhook.
pub(super) struct Commanding<'a> {
    key: &'a DeploymentKey,
    handle: &'a TenantStore,
    tenant: TenantId,
    id: Option<Uuid>,
    digest: [u8; 32],
}

impl<'a> Commanding<'a> {
    /// A command of this name, which says what it is about, with this body.
    pub(super) fn new(
        gateway: &'a Gateway,
        caller: &'a Caller,
        IdempotencyKey(id): IdempotencyKey,
        name: &str,
        body: &Map<String, Value>,
    ) -> Self {
        let (key, tenant) = (gateway.store.key(), caller.record.id);
        // The members of a map come in the order of their names.
        let body = serde_json::to_vec(body).unwrap_or_default();
        let digest = key.mac("webhook-command", &[tenant.0.as_bytes(), name.as_bytes(), &body]);
        Self { key, handle: &caller.store, tenant, id, digest }
    }

    /// The first answer, where the command came before.
    pub(super) async fn earlier(&self, transaction: &TenantTransaction) -> Result<Option<Response>, Problem> {
        let Some(id) = self.id else { return Ok(None) };
        let Some(receipt) = transaction.webhook_receipt(id).await? else { return Ok(None) };
        if receipt.digest != self.digest {
            return Err(Problem::new(ErrorCode::CommandIdReused)
                .detail("the Idempotency-Key came with another request before"));
        }
        let sealed = |error: SealError| Problem::internal(error);
        let body = open(self.key, self.tenant, id, &receipt.answer).map_err(sealed)?;
        let status = StatusCode::from_u16(receipt.http_status).map_err(Problem::internal)?;
        Ok(Some(response(status, body)))
    }

    /// Makes the command's effect last, and its answer with it.
    pub(super) async fn answer(
        &self,
        transaction: TenantTransaction,
        status: StatusCode,
        body: Option<Value>,
    ) -> Result<Response, Problem> {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        if let Some(id) = self.id {
            let receipt = WebhookReceipt {
                digest: self.digest,
                http_status: status.as_u16(),
                answer: seal(self.key, self.tenant, id, &body).into(),
            };
            if !transaction.put_webhook_receipt(id, &receipt, clock::now()).await? {
                // The same command was quicker over another connection: it took effect, and its answer is the answer.
                drop(transaction);
                let transaction = self.handle.begin_projection().await?;
                let earlier = self.earlier(&transaction).await?;
                return earlier.ok_or(Problem::new(ErrorCode::Unavailable));
            }
        }
        transaction.commit().await?;
        Ok(response(status, body))
    }
}

fn response(status: StatusCode, body: Vec<u8>) -> Response {
    if body.is_empty() {
        return status.into_response();
    }
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
