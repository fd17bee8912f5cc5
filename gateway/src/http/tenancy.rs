//! Finds the tenant of a request. Anonymous callers name it with `X-Tenant-ID` or a subdomain. Signed-in callers have
//! it in their token. All names in a request must agree. Unknown and suspended tenants get the same answer.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use schemas::engine::TenantSlug;
use store::{Store, TenantRecord, TenantStore};

use super::request_log::RequestContext;
use access::ErrorCode;

use super::problem::Problem;

/// The header that names the tenant when there is no token.
pub const TENANT_HEADER: HeaderName = HeaderName::from_static("x-tenant-id");

/// The tenant that an anonymous caller named.
pub struct RequestTenant {
    /// Its entry in the directory.
    pub record: Arc<TenantRecord>,
    /// The handle to its data.
    pub store: TenantStore,
}

/// Finds the tenants that requests name. Cheap to clone.
#[derive(Clone)]
pub struct Tenancy {
    store: Store,
    public_host: Option<Arc<str>>,
}

impl Tenancy {
    /// `<tenant>.<public_host>` names a tenant. Without a public host there are no subdomains.
    pub fn new(store: Store, public_host: Option<&str>) -> Self {
        Self { store, public_host: public_host.map(Arc::from) }
    }

    /// The tenant that an anonymous request names. It is set as the tenant of the request.
    ///
    /// # Errors
    /// 400 when the request names no tenant; `tenant_mismatch` when its names disagree; `tenant_unknown` for an unknown
    /// or suspended tenant.
    pub async fn find(
        &self,
        headers: &HeaderMap,
        request: &RequestContext,
    ) -> Result<RequestTenant, Problem> {
        let requested_tenant = requested_tenant(headers, self.public_host.as_deref())?;
        let Some(requested_tenant) = requested_tenant else {
            return Err(Problem::bad_request("name the tenant in the header X-Tenant-ID"));
        };
        let slug =
            TenantSlug::parse(&requested_tenant).map_err(|_| Problem::new(ErrorCode::TenantUnknown))?;
        let record = self.store.tenant_by_slug(&slug).await?;
        let record =
            record.filter(|record| !record.suspended).ok_or(Problem::new(ErrorCode::TenantUnknown))?;
        request.set_tenant(&record);
        let store = self.store.tenant(record.id);
        Ok(RequestTenant { record, store })
    }

    /// Checks that the request names no other tenant than its token or ticket.
    ///
    /// # Errors
    /// `tenant_mismatch` when it does.
    pub fn check(&self, headers: &HeaderMap, claim: &TenantSlug) -> Result<(), Problem> {
        check_tenant(headers, self.public_host.as_deref(), claim)
    }
}

impl<S: Sync> FromRequestParts<S> for RequestTenant
where
    Tenancy: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let request = RequestContext::from_request_parts(parts, state).await?;
        Tenancy::from_ref(state).find(&parts.headers, &request).await
    }
}

/// The tenant in the header or the subdomain.
///
/// # Errors
/// 403 when header and subdomain disagree.
fn requested_tenant(headers: &HeaderMap, public_host: Option<&str>) -> Result<Option<String>, Problem> {
    let mut requested_tenant: Option<String> = None;
    let in_headers = headers.get_all(TENANT_HEADER).iter();
    let in_headers = in_headers.map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned());
    for name in in_headers.chain(subdomain(headers, public_host)) {
        if requested_tenant.as_ref().is_some_and(|before| *before != name) {
            return Err(
                Problem::new(ErrorCode::TenantMismatch).detail("the request names more than one tenant")
            );
        }
        requested_tenant = Some(name);
    }
    Ok(requested_tenant)
}

fn check_tenant(headers: &HeaderMap, public_host: Option<&str>, claim: &TenantSlug) -> Result<(), Problem> {
    match requested_tenant(headers, public_host)? {
        Some(requested_tenant) if requested_tenant != claim.as_str() => {
            Err(Problem::new(ErrorCode::TenantMismatch).detail("the token is of another tenant"))
        }
        _ => Ok(()),
    }
}

/// The slug, when the host is `<slug>.<public host>`.
fn subdomain(headers: &HeaderMap, public_host: Option<&str>) -> Option<String> {
    let base = public_host?.trim_matches('.').to_ascii_lowercase();
    let host = headers.get(header::HOST)?.to_str().ok()?.to_ascii_lowercase();
    let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _port)| name);
    let label = name.trim_end_matches('.').strip_suffix(&base)?.strip_suffix('.')?;
    (!label.is_empty() && !label.contains('.')).then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(host: &str, tenants: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).expect("valid"));
        for tenant in tenants {
            headers.append(TENANT_HEADER, HeaderValue::from_str(tenant).expect("valid"));
        }
        headers
    }

    fn tenant(host: &str, tenants: &[&str]) -> Result<Option<String>, ErrorCode> {
        requested_tenant(&headers(host, tenants), Some("annals.test")).map_err(|problem| problem.code())
    }

    #[test]
    fn the_header_names_a_tenant() {
        assert_eq!(tenant("annals.test", &["demo"]), Ok(Some("demo".to_owned())));
        assert_eq!(tenant("annals.test:8080", &[]), Ok(None));
    }

    #[test]
    fn one_label_before_the_public_host_names_a_tenant() {
        for host in ["demo.annals.test", "DEMO.annals.test:8080", "demo.annals.test."] {
            assert_eq!(tenant(host, &[]), Ok(Some("demo".to_owned())), "{host}");
        }
        for host in [
            "a.b.annals.test",
            "annals.test",
            ".annals.test",
            "demo.other.test",
            "demoannals.test",
            "[::1]:80",
        ] {
            assert_eq!(tenant(host, &[]), Ok(None), "{host}");
        }
        assert_eq!(
            requested_tenant(&headers("demo.annals.test", &[]), None).expect("nothing disagrees"),
            None
        );
    }

    #[test]
    fn what_disagrees_is_refused() {
        assert_eq!(tenant("demo.annals.test", &["demo"]), Ok(Some("demo".to_owned())));
        assert_eq!(tenant("demo.annals.test", &["other"]), Err(ErrorCode::TenantMismatch));
        assert_eq!(tenant("annals.test", &["demo", "other"]), Err(ErrorCode::TenantMismatch));
    }

    #[test]
    fn a_token_agrees_with_silence_and_with_its_own_tenant() {
        let claim = TenantSlug::parse("demo").expect("valid");
        let check_tenant = |tenants: &[&str]| check_tenant(&headers("annals.test", tenants), None, &claim);
        assert!(check_tenant(&[]).is_ok());
        assert!(check_tenant(&["demo"]).is_ok());
        for other in ["other", "", "Not A Slug"] {
            assert_eq!(check_tenant(&[other]).expect_err("another tenant").code(), ErrorCode::TenantMismatch);
        }
    }
}
