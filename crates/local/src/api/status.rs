//! Refusals of the API, as Kubernetes `Status` objects: the same codes, reasons and wording, so that
//! clients decide and people read as they do on any cluster.

use http::StatusCode;
use lateen_galley::Problems;
use serde_json::{Value, json};

use super::protobuf::Unread;

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such object.
    #[error("{resource} \"{name}\" not found")]
    NotFound {
        /// Plural with group, such as `virtualservices.networking.istio.io`.
        resource: String,
        /// The object's name.
        name: String,
    },
    /// No such path, or a resource nobody serves.
    #[error("the server could not find the requested resource")]
    NoSuchResource,
    /// Creating what is there.
    #[error("{resource} \"{name}\" already exists")]
    AlreadyExists {
        /// Plural with group.
        resource: String,
        /// The object's name.
        name: String,
    },
    /// The object changed since the client read it.
    #[error(
        "Operation cannot be fulfilled on {resource} \"{name}\": the object has been modified; please apply your \
         changes to the latest version and try again"
    )]
    Conflict {
        /// Plural with group.
        resource: String,
        /// The object's name.
        name: String,
    },
    /// The object is understood, and wrong.
    #[error("{kind} \"{name}\" is invalid: {}", causes_text(.causes))]
    Invalid {
        /// Kind with group, such as `VirtualService.networking.istio.io`.
        kind: String,
        /// The object's name.
        name: String,
        /// What is wrong where.
        causes: Vec<Cause>,
    },
    /// Of several objects that are all to be written or none, some are wrong: each place, one a line.
    #[error("nothing was changed:\n{0}")]
    Nothing(Problems),
    /// The request itself is wrong.
    #[error("{0}")]
    BadRequest(String),
    /// The revision asked for is no longer kept.
    #[error("{0}")]
    Expired(String),
    /// The verb makes no sense there.
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    /// The body's type is not one the server reads.
    #[error("the body of the request was in an unknown format - accepted media types include: {accepted}")]
    UnsupportedMediaType {
        /// What would be read.
        accepted: &'static str,
    },
    /// The body is protobuf that is not read.
    #[error("{0}; JSON and YAML are: -f FILE, or what --dry-run=client -o yaml prints, by way of kubectl apply -f -")]
    Protobuf(Unread),
    /// The body is over the limit.
    #[error("Request entity too large: limit is {limit}")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The server cannot do it now.
    #[error("{0}")]
    Unavailable(String),
    /// The server failed.
    #[error("Internal error occurred: {0}")]
    Internal(String),
}

/// One thing wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Path of the field, such as `spec.http[0].route`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

fn causes_text(causes: &[Cause]) -> String {
    let texts: Vec<String> =
        causes
            .iter()
            .map(|cause| {
                if cause.field.is_empty() {
                    cause.message.clone()
                } else {
                    format!("{}: {}", cause.field, cause.message)
                }
            })
            .collect();
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

impl Refusal {
    /// The HTTP status.
    pub fn code(&self) -> StatusCode {
        match self {
            Self::NotFound { .. } | Self::NoSuchResource => StatusCode::NOT_FOUND,
            Self::AlreadyExists { .. } | Self::Conflict { .. } => StatusCode::CONFLICT,
            Self::Invalid { .. } | Self::Nothing(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Expired(_) => StatusCode::GONE,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnsupportedMediaType { .. } | Self::Protobuf(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } | Self::NoSuchResource => "NotFound",
            Self::AlreadyExists { .. } => "AlreadyExists",
            Self::Conflict { .. } => "Conflict",
            Self::Invalid { .. } | Self::Nothing(_) => "Invalid",
            Self::BadRequest(_) => "BadRequest",
            Self::Expired(_) => "Expired",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::UnsupportedMediaType { .. } | Self::Protobuf(_) => "UnsupportedMediaType",
            Self::TooLarge { .. } => "RequestEntityTooLarge",
            Self::Unavailable(_) => "ServiceUnavailable",
            Self::Internal(_) => "InternalError",
        }
    }

    /// The `Status` object sent as the body.
    pub fn object(&self) -> Value {
        let split = |text: &str| match text.split_once('.') {
            Some((head, group)) => (head.to_owned(), Some(group.to_owned())),
            None => (text.to_owned(), None),
        };
        let details = match self {
            Self::NotFound { resource, name }
            | Self::AlreadyExists { resource, name }
            | Self::Conflict { resource, name } => {
                let (kind, group) = split(resource);
                json!({"name": name, "group": group, "kind": kind})
            }
            Self::Invalid { kind, name, causes } => {
                let (kind, group) = split(kind);
                let causes: Vec<Value> = causes
                    .iter()
                    .map(|cause| json!({"reason": "FieldValueInvalid", "message": cause.message, "field": cause.field}))
                    .collect();
                json!({"name": name, "group": group, "kind": kind, "causes": causes})
            }
            _ => Value::Null,
        };
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.to_string(), "reason": self.reason(), "code": self.code().as_u16(),
        });
        if let (Value::Object(mut details), Some(status)) = (details, status.as_object_mut()) {
            details.retain(|_, value| !value.is_null());
            status.insert("details".to_owned(), Value::Object(details));
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_object_names_its_fields() {
        let refusal = Refusal::Invalid {
            kind: "VirtualService.networking.istio.io".to_owned(),
            name: "reviews".to_owned(),
            causes: vec![Cause { field: "spec.http[0].rout".to_owned(), message: "unknown field".to_owned() }],
        };
        let status = refusal.object();
        assert_eq!(status["code"], 422);
        assert_eq!(status["details"]["causes"][0]["field"], "spec.http[0].rout");
        assert_eq!(status["details"]["kind"], "VirtualService");
        assert_eq!(
            status["message"],
            "VirtualService.networking.istio.io \"reviews\" is invalid: spec.http[0].rout: unknown field"
        );
    }
}
