//! `annals deadletter`: an event that one read model of one tenant cannot take.

use serde_json::Value;

use crate::support::eventually;
use crate::support::operator_site::Operated;
use crate::support::process::output_of;

#[tokio::test]
async fn a_poisonous_event_is_shown_retried_and_discarded_by_command() {
    let operated = Operated::start();
    let (sick, well) = (operated.product.tenant().await, operated.product.tenant().await);
    // The database refuses the row, whichever of the tables serves.
    let database = operated.database().await;
    for table in ["customers_v2", "customers_v2_b"] {
        let refuse = format!("alter table {table} add constraint poison check (name <> 'Poison')");
        database.batch_execute(&refuse).await.expect("alters");
    }
    for (tenant, name) in [(&sick, "Ada"), (&sick, "Poison"), (&sick, "Bo"), (&well, "Cy")] {
        tenant.register(&format!("{}@poison.example", name.to_lowercase()), name).await;
    }
    let listed = || operated.rows(&["deadletter", "ls", "--tenant", &sick.slug]);
    eventually("the dead letter is listed", || async { (!listed().is_empty()).then_some(()) }).await;
    operated.settled(&well.slug, "live").await;
    let letter = listed().remove(0);
    let id = letter["id"].as_str().expect("it has an id").to_owned();
    assert_eq!(
        (letter["error_code"].as_str(), letter["status"].as_str()),
        (Some("CONSTRAINT_VIOLATION"), Some("open"))
    );
    assert_eq!(operated.read_model(&sick.slug)["state"], format!("stopped by dead letter {id}"));
    assert_eq!(operated.read_model(&sick.slug)["dead_letter"], id.as_str());

    let show = |id: &str| operated.rows(&["deadletter", "show", id]).remove(0);
    assert_eq!(operated.rows(&["deadletter", "retry", &id])[0]["status"], "retrying");
    eventually("it has failed again", || async {
        let letter = show(&id);
        (letter["status"] == "open" && letter["attempts"] == 2).then_some(())
    })
    .await;
    assert_eq!(show(&id)["history"].as_array().map(Vec::len), Some(2));
    let text = output_of(&operated.arguments(&["deadletter", "show", &id]));
    let attempts = text.lines().skip_while(|line| *line != "history").skip(1);
    assert_eq!(attempts.filter(|line| line.contains("CONSTRAINT_VIOLATION")).count(), 2, "{text}");

    for _ in 0..2 {
        assert_eq!(operated.rows(&["deadletter", "discard", &id])[0]["status"], "discarded");
    }
    operated.settled(&sick.slug, "live").await;
    let told = operated.told(&sick.slug).await;
    for verb in ["show", "retry", "discard"] {
        let line = format!("deadletter {verb} {id}");
        assert!(told.iter().any(|action| action.contains(&line)), "{line}: {told:?}");
    }
    assert!(operated.told(&well.slug).await.is_empty());
    assert_eq!(operated.exit_code(&["deadletter", "retry", &id]), Some(5));
    assert!(listed().is_empty(), "what is settled is not listed");
    let shown = sick.graphql("{ customers { totalCount } }", Value::Null).await;
    assert_eq!(shown["customers"]["totalCount"], 2);
    // The new version does without the event as well.
    let rebuilt = operated.rows(&["projection", "rebuild", "customers", "--tenant", &sick.slug]);
    assert_eq!(
        (rebuilt[0]["outcome"].as_str(), rebuilt[0]["generation"].as_u64()),
        (Some("switched"), Some(1))
    );

    let unknown = "01234567-89ab-7def-8123-456789abcdef";
    for verb in ["show", "retry", "discard"] {
        assert_eq!(operated.exit_code(&["deadletter", verb, unknown]), Some(3), "{verb}");
        assert_eq!(operated.exit_code(&["deadletter", verb, "no-id"]), Some(2), "{verb}");
    }
}
