//! Fixtures of the tests in `tests/operators`.

use serde_json::Value;
use tokio_postgres::{Client, NoTls};

use crate::support::process::{output_of, run};
use crate::support::{Product, eventually};

/// A product of one's own: what is done here to its read models would be felt by the stories that share one.
pub struct Operated {
    pub product: Product,
    pub settings: String,
}

impl Operated {
    pub fn start() -> Self {
        let product = Product::start(&["--ephemeral"]);
        let settings = product.annals.settings();
        Self { product, settings }
    }

    /// A command's arguments with the product's settings in front.
    pub fn arguments<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        [&["--config", &self.settings], arguments].concat()
    }

    /// What a command that must succeed prints as JSON lines.
    pub fn rows(&self, arguments: &[&str]) -> Vec<Value> {
        let text = output_of(&self.arguments(&[arguments, &["--output", "jsonl"]].concat()));
        text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    pub fn exit_code(&self, arguments: &[&str]) -> Option<i32> {
        run(&self.arguments(arguments)).status.code()
    }

    /// A read model of a tenant, as `annals projection ls` shows it.
    pub fn read_model(&self, tenant: &str) -> Value {
        let rows = self.rows(&["projection", "ls"]);
        let is_meant = |row: &Value| row["projection"] == projections::CUSTOMERS && row["tenant"] == tenant;
        rows.into_iter().find(is_meant).expect("every read model is listed")
    }

    /// Waits until the read model of customers shows everything and is in this state.
    pub async fn settled(&self, tenant: &str, state: &str) {
        eventually("the read model has settled", || async {
            let row = self.read_model(tenant);
            (row["state"] == state && row["lag"] == 0).then_some(())
        })
        .await;
    }

    /// What the activity log of a tenant tells of operators.
    pub async fn told(&self, slug: &str) -> Vec<String> {
        let database = self.database().await;
        let statement = "select a.action from activities a join tenants t on t.tenant_id = a.tenant_id
                         where t.slug = $1 and a.kind = 'operator_access'";
        let rows = database.query(statement, &[&slug]).await.expect("reads");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The database, as its owner.
    pub async fn database(&self) -> Client {
        let url = self.product.annals.text("database_url");
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connects");
        tokio::spawn(connection);
        client
    }
}
