//! Tokens over the API: issued for a service account (`TokenRequest`), judged (`TokenReview`), and the keys to judge
//! them by.

use std::time::{Duration, SystemTime};

use http::{Method, Response, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview, TokenReviewStatus, UserInfo};
use k8s_openapi::jiff::Timestamp;
use lateen_galley::{Key, Kind};
use serde_json::{Value, json};

use super::Server;
use super::objects::find;
use super::path::ObjectPath;
use super::request::Call;
use super::serve::{Body, json as answer};
use super::status::Refusal;
use crate::tokens::{Bound, Named};

/// The API group.
pub const GROUP: &str = "authentication.k8s.io";
/// Life of a token when its request says nothing (Kubernetes' default).
const LIFE: Duration = Duration::from_secs(3600);

/// What the group serves.
pub fn resources(version: &str) -> Option<Value> {
    let review = json!({"name": "tokenreviews", "singularName": "tokenreview", "namespaced": false,
        "kind": "TokenReview", "verbs": ["create"]});
    (version == "v1").then(|| {
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/v1"),
            "resources": [review]})
    })
}

/// `POST /apis/authentication.k8s.io/v1/tokenreviews`.
pub fn review(server: &Server, path: &ObjectPath, call: &Call) -> Result<Response<Body>, Refusal> {
    let served = (path.version.as_str(), path.resource.as_str()) == ("v1", "tokenreviews");
    if !served || path.namespace.is_some() || path.name.is_some() {
        return Err(Refusal::NoSuchResource);
    }
    let mut review: TokenReview = read(call)?;
    let token = review.spec.token.take().unwrap_or_default();
    let audiences = review.spec.audiences.clone().unwrap_or_default();
    let judged = server.tokens.review(&token, &audiences, &server.admission.store().snapshot());
    review.status = Some(match judged {
        Ok(reviewed) => {
            let groups = [
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{}", reviewed.bound.namespace),
                "system:authenticated".to_owned(),
            ];
            TokenReviewStatus {
                authenticated: Some(true),
                user: Some(UserInfo {
                    username: Some(reviewed.bound.user()),
                    uid: Some(reviewed.bound.service_account.uid),
                    groups: Some(groups.into()),
                    ..UserInfo::default()
                }),
                audiences: Some(reviewed.audiences),
                error: None,
            }
        }
        Err(error) => TokenReviewStatus { error: Some(error), ..TokenReviewStatus::default() },
    });
    created(&review)
}

/// `POST /api/v1/namespaces/NAMESPACE/serviceaccounts/NAME/token`, as `kubectl create token` does.
pub fn issue(server: &Server, path: &ObjectPath, call: &Call) -> Result<Response<Body>, Refusal> {
    let mut request: TokenRequest = read(call)?;
    let (namespace, name) = (path.namespace.as_deref().unwrap_or_default(), path.name.as_deref().unwrap_or_default());
    let object = |kind, name: &str| find(server, &Key::new(kind, namespace.to_owned(), name));
    let account = object(Kind::ServiceAccount, name)?;
    let pod = match &request.spec.bound_object_ref {
        None => None,
        Some(reference) if reference.kind.as_deref() == Some("Pod") => {
            let pod = object(Kind::Pod, reference.name.as_deref().unwrap_or_default())?;
            if reference.uid.as_deref().is_some_and(|uid| uid != pod.uid()) {
                return Err(Refusal::BadRequest("spec.boundObjectRef.uid: the pod of this name is another".to_owned()));
            }
            Some(Named { name: pod.name().to_owned(), uid: pod.uid().to_owned() })
        }
        Some(_) => {
            return Err(Refusal::BadRequest("spec.boundObjectRef.kind: only a Pod is supported".to_owned()));
        }
    };
    let bound = Bound {
        namespace: namespace.to_owned(),
        service_account: Named { name: name.to_owned(), uid: account.uid().to_owned() },
        pod,
    };
    let seconds = request.spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let life = seconds.map_or(LIFE, Duration::from_secs);
    let issued = server.tokens.issue(bound, &request.spec.audiences, life, SystemTime::now());
    let issued = issued.map_err(|error| Refusal::Internal(error.to_string()))?;
    let expires = i64::try_from(issued.expires).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let status = k8s_openapi::api::authentication::v1::TokenRequestStatus {
        token: issued.token,
        expiration_timestamp: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(expires.unwrap_or_default()),
    };
    request.status = Some(status);
    created(&request)
}

fn read<T: serde::de::DeserializeOwned>(call: &Call) -> Result<T, Refusal> {
    if call.method != Method::POST {
        return Err(Refusal::MethodNotAllowed);
    }
    call.must_be_document()?;
    let mut asked: Value =
        serde_norway::from_slice(&call.body).map_err(|error| Refusal::BadRequest(error.to_string()))?;
    if let Some(fields) = asked.as_object_mut() {
        // That is for the answer. Older kubectl sends one of empty fields, a time that is null among them.
        fields.remove("status");
    }
    serde_json::from_value(asked).map_err(|error| Refusal::BadRequest(error.to_string()))
}

fn created(object: &impl serde::Serialize) -> Result<Response<Body>, Refusal> {
    let value = serde_json::to_value(object).map_err(|error| Refusal::Internal(error.to_string()))?;
    Ok(answer(StatusCode::CREATED, &value))
}
