//! Webhooks over HTTPS: the endpoint's certificate is checked against the authorities that the system trusts, which
//! `SSL_CERT_FILE` names here, and against the name in the address.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::eventually;
use crate::support::integration_site::Site;
use crate::support::product::send;
use crate::support::webhook_receiver::{Receiver, certificate};

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_behind_tls_is_delivered_to_when_its_certificate_is_trusted_and_its_own() {
    let authority = certificate("authority.pem");
    let site = Site::start(&[("SSL_CERT_FILE", authority.to_str().expect("text"))]);
    let tenant = site.product.tenant().await;
    let register = async |receiver: &Receiver| {
        let body = json!({"url": receiver.url, "after": 0});
        let (status, webhook) = send(tenant.admin(Method::POST, "/v1/webhooks").json(&body)).await;
        assert_eq!(status, StatusCode::CREATED, "{webhook}");
        webhook
    };
    let trusted = Receiver::over_tls("localhost").await;
    let webhook = register(&trusted).await;
    let head = tenant.events().await.len() as u64;
    trusted.has(head).await;
    let secret = webhook["secret"].as_str().expect("a secret");
    let received = trusted.received();
    assert!(received.iter().all(|received| received.is_signed_with(secret)));
    assert_eq!(received[0].event, tenant.stored_events().await[0]);

    for refused in ["elsewhere", "stranger"] {
        let receiver = Receiver::over_tls(refused).await;
        let webhook = register(&receiver).await;
        let path = format!("/v1/webhooks/{}/deliveries", webhook["id"].as_str().expect("an id"));
        let attempt = eventually("an attempt has failed", || async {
            let (_, log) = send(tenant.admin(Method::GET, &path)).await;
            log["deliveries"].as_array()?.first().cloned()
        })
        .await;
        assert_eq!((&attempt["outcome"], &attempt["error"]), (&json!("failed"), &json!("connection_failed")));
        assert_eq!(receiver.positions(), [0; 0], "{refused}: nothing is sent to it");
    }
}
