//! Personal data is open to whoever may read it and sealed to everybody else, on every way out.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::erasures::{customer_of, erase};
use crate::support::eventually;
use crate::support::integration_site::Site;
use crate::support::product::{PASSWORD, Product, Tenant, send};
use crate::support::webhook_receiver::Receiver;

fn of_type<'a>(events: &'a [Value], event_type: &str) -> &'a Value {
    events.iter().find(|event| event["type"] == event_type).expect("the event is there")
}

async fn events_as(tenant: &Tenant<'_>, token: &str) -> Vec<Value> {
    let request = tenant.product.request(Method::GET, "/v1/events?limit=1000").bearer_auth(token);
    let (status, mut page) = send(request).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    let Value::Array(events) = page["events"].take() else { panic!("no events in {page}") };
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_open_to_those_who_may_read_personal_data_and_sealed_to_others() {
    let tenant = Product::shared().tenant().await;
    let user = tenant.register("ada@example.com", "Ada Lovelace").await["user"]["id"].clone();
    customer_of(&tenant, &user).await;
    let plain = tenant.service(&["events:read"]).await;
    let personal = tenant.service(&["events:read", "pii:read"]).await;
    for open in [tenant.token.as_str(), &personal] {
        let events = events_as(&tenant, open).await;
        for event_type in ["identity.user.registered.v1", "crm.customer.registered.v1"] {
            let of_ada = events.iter().filter(|event| event["type"] == event_type);
            let data: Vec<&Value> =
                of_ada.map(|event| &event["data"]).filter(|data| data["name"] == "Ada Lovelace").collect();
            assert_eq!((data.len(), &data[0]["email"]), (1, &json!("ada@example.com")));
        }
    }
    let sealed = events_as(&tenant, &plain).await;
    let text = Value::from(sealed.clone()).to_string();
    assert!(!text.contains("Lovelace") && !text.contains("ada@example.com"));
    let data = &of_type(&sealed, "crm.customer.registered.v1")["data"];
    assert_eq!((&data["user_id"], &data["$sealed"]["subject"]), (&user, &user));
    let path = format!("/v1/streams/identity.user/{}/events", user.as_str().expect("an id"));
    for (token, name) in [(&personal, json!("Ada Lovelace")), (&plain, Value::Null)] {
        let (_, page) = send(tenant.product.request(Method::GET, &path).bearer_auth(token)).await;
        assert_eq!((&page["version"], &page["events"][0]["data"]["name"]), (&json!(1), &name), "{page}");
    }
    let reaction = &of_type(&sealed, "saga.customer_onboarding.reacted.v1")["data"]["steps"][0];
    assert_eq!(reaction["command"]["$sealed"]["alg"], "A256GCM");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_gets_personal_data_only_where_an_administrator_said_so() {
    let site = Site::shared();
    let tenant = site.product.tenant().await;
    tenant.register("ada@example.com", "Ada Lovelace").await;
    for personal in [None, Some(true)] {
        let receiver = Receiver::start().await;
        let body = json!({"url": receiver.url, "after": 0, "types": ["identity.user.registered.v1"], "personal_data": personal});
        let (status, webhook) = send(tenant.admin(Method::POST, "/v1/webhooks").json(&body)).await;
        assert_eq!((status, &webhook["personal_data"]), (StatusCode::CREATED, &json!(personal.is_some())));
        let delivered = eventually("both users are delivered", || async {
            let delivered = receiver.events();
            (delivered.len() >= 2).then_some(delivered)
        })
        .await;
        let is_open = Value::from(delivered).to_string().contains("Ada Lovelace");
        assert_eq!(is_open, personal.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_person_cannot_sign_in_is_shown_as_erased_and_may_come_back_as_another() {
    let tenant = Product::shared().tenant().await;
    let user = tenant.register("ada@example.com", "Ada Lovelace").await["user"]["id"].clone();
    let customer = customer_of(&tenant, &user).await;
    let (status, refused) =
        send(tenant.admin(Method::POST, "/v1/erasures").json(&json!({"user_id": uuid::Uuid::nil()}))).await;
    assert_eq!((status, &refused["code"]), (StatusCode::NOT_FOUND, &json!("not_found")));
    let both = json!({"user_id": user, "customer_id": customer["id"]});
    assert_eq!(
        send(tenant.admin(Method::POST, "/v1/erasures").json(&both)).await.0,
        StatusCode::UNPROCESSABLE_ENTITY
    );
    let member = tenant.login("ada@example.com").await;
    let by_herself = tenant.product.request(Method::POST, "/v1/erasures").bearer_auth(&member);
    assert_eq!(send(by_herself.json(&json!({"user_id": user}))).await.0, StatusCode::FORBIDDEN);

    // By her customer: the subject is the user that she is.
    let done = erase(&tenant, json!({"customer_id": customer["id"], "reason": "asked for"})).await;
    assert_eq!(done["subject"], user);
    assert_eq!(done["streams"].as_array().map(Vec::len), Some(3), "user, customer, saga: {done}");
    let shown = customer_of(&tenant, &user).await;
    assert_eq!(
        shown,
        json!({"id": customer["id"], "name": "", "email": "", "erased": true, "status": "CLOSED"})
    );
    let query = "query($id: ID!, $customer: ID!) { user(id: $id) { name email erased status } \
                 customer(id: $customer, asOf: {version: 1}) { name erased } }";
    let answer = tenant.graphql(query, json!({"id": user, "customer": customer["id"]})).await;
    assert_eq!(answer["user"], json!({"name": "", "email": "", "erased": true, "status": "DEACTIVATED"}));
    assert_eq!(answer["customer"], json!({"name": "", "erased": true}), "the past does not know her either");
    let body = json!({"email": "ada@example.com", "password": PASSWORD});
    let (status, _) = send(tenant.anonymous(Method::POST, "/v1/auth/login").json(&body)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let rename = "mutation($input: ChangeUserNameInput!) { changeUserName(input: $input) { outcome userErrors { code } } }";
    let renamed = tenant.graphql(rename, json!({"input": {"id": user, "name": "Ada"}})).await;
    assert_eq!(renamed["changeUserName"]["userErrors"][0]["code"], "USER_ERASED");

    let events = tenant.events().await;
    let data = &of_type(&events, "crm.customer.registered.v1")["data"];
    assert_eq!(data["$erased"]["subject"], user);
    let certificate = &events[done["position"].as_u64().expect("a position") as usize - 1];
    assert_eq!(
        (&certificate["type"], &certificate["data"]["key"]),
        (&json!("privacy.subject.erased.v1"), &done["key"])
    );

    let again = tenant.register("ada@example.com", "Ada Lovelace").await;
    assert_ne!(again["user"]["id"], user);
    // Asking again for what is done changes nothing.
    let (_, repeated) =
        send(tenant.admin(Method::POST, "/v1/erasures").json(&json!({"user_id": user}))).await;
    assert_eq!((&repeated["status"], &repeated["position"]), (&json!("erased"), &done["position"]));
}
