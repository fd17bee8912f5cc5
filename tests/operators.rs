//! What operators do with the command line: read models held up and built anew, dead letters settled.

mod dead_letters;
mod looking_back;
mod read_models;
mod saga_instances;

use serde_json::Value;
use tokio_postgres::{Client, NoTls};

use crate::support::process::{output_of, run};
use crate::support::{Product, eventually};

/// A product of one's own: what is done here to its read models would be felt by the stories that share one.
struct Operated {
    product: Product,
    settings: String,
}

impl Operated {
    fn start() -> Self {
        let product = Product::start(&["--ephemeral"]);
        let settings = product.annals.settings();
        Self { product, settings }
    }

    /// A command's arguments with the product's settings in front.
    fn arguments<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        [&["--config", &self.settings], arguments].concat()
    }

    /// What a command that must succeed prints as JSON lines.
    fn rows(&self, arguments: &[&str]) -> Vec<Value> {
        let text = output_of(&self.arguments(&[arguments, &["--output", "jsonl"]].concat()));
        text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    fn exit_code(&self, arguments: &[&str]) -> Option<i32> {
        run(&self.arguments(arguments)).status.code()
    }

    /// A read model of a tenant, as `annals projection ls` shows it.
    fn read_model(&self, tenant: &str) -> Value {
        let rows = self.rows(&["projection", "ls"]);
        let is_meant = |row: &Value| row["projection"] == projections::CUSTOMERS && row["tenant"] == tenant;
        rows.into_iter().find(is_meant).expect("every read model is listed")
    }

    /// Waits until the read model of customers shows everything and is in this state.
    async fn settled(&self, tenant: &str, state: &str) {
        eventually("the read model has settled", || async {
            let row = self.read_model(tenant);
            (row["state"] == state && row["lag"] == 0).then_some(())
        })
        .await;
    }

    /// What the activity log of a tenant tells of operators.
    async fn told(&self, slug: &str) -> Vec<String> {
        let database = self.database().await;
        let statement = "select a.action from activities a join tenants t on t.tenant_id = a.tenant_id
                         where t.slug = $1 and a.kind = 'operator_access'";
        let rows = database.query(statement, &[&slug]).await.expect("reads");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The database, as its owner.
    async fn database(&self) -> Client {
        let url = self.product.annals.text("database_url");
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connects");
        tokio::spawn(connection);
        client
    }
}
