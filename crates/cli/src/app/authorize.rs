//! The service as one that says who may pass: it is asked with the requests of others, and looks at one header field.

/// A field of a request, and the value with which it may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowIf {
    name: String,
    value: String,
}

/// What the service says of a request.
pub struct Decision {
    pub status: u16,
    /// The value of [`RESULT`].
    pub result: &'static str,
    pub body: String,
}

/// Tells the decision without reading the status.
pub const RESULT: &str = "x-ext-authz-check-result";

/// Reads `NAME=VALUE`.
///
/// # Errors
/// When it is of another form, or the name is no header's.
pub fn parse(text: &str) -> Result<AllowIf, String> {
    let (name, value) = text.split_once('=').ok_or("should be NAME=VALUE")?;
    let name = hyper::header::HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no header"))?;
    Ok(AllowIf { name: name.as_str().to_owned(), value: value.to_owned() })
}

impl AllowIf {
    /// The field's name, in lower case.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Decides about a request in which the field says this.
    pub fn decide(&self, said: Option<&[u8]>) -> Decision {
        if said == Some(self.value.as_bytes()) {
            return Decision { status: 200, result: "allowed", body: String::new() };
        }
        let Self { name, value } = self;
        let body = format!("denied by ext_authz for not found header `{name}: {value}` in the request");
        Decision { status: 403, result: "denied", body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_of_one_field_may_pass() {
        let rule = parse("X-Ext-Authz=allow").unwrap();
        assert_eq!(rule.name(), "x-ext-authz");
        assert_eq!(rule.decide(Some(b"allow")).status, 200);
        for said in [None, Some(&b"Allow"[..]), Some(b"")] {
            let decision = rule.decide(said);
            assert_eq!((decision.status, decision.result), (403, "denied"));
        }
        assert!(parse("x-ext-authz").is_err() && parse("x y=1").is_err());
    }
}
