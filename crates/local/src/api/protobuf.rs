//! Kubernetes' protobuf bodies, which kubectl's commands with a kind in place of a file send (`kubectl create secret`,
//! `kubectl create token`) and never fall back from: made the JSON that the rest of the API reads.
//!
//! Described are the kinds those commands make, with the fields they can set. What is not described is refused with its
//! path and number, and never dropped. Source: `generated.proto` of kubernetes/api and kubernetes/apimachinery; the envelope is
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What a body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Why a body is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    #[error("the body is no protobuf of Kubernetes'")]
    Malformed,
    #[error("{0} is not read from protobuf")]
    Kind(String),
    #[error("{kind}: field {number} of {place:?} is not read from protobuf")]
    Field { kind: String, place: String, number: u64 },
}

/// Fields by their numbers.
type Message = [(u64, &'static str, Type)];

/// What a field holds. Go's encoder writes zero values of what is no pointer: they mean nothing.
#[derive(Clone, Copy)]
enum Type {
    Text,
    Texts,
    TextMap,
    /// Of bytes, which JSON has in base64.
    BytesMap,
    Flag,
    Number,
    /// Pointers, of which zero means zero.
    SomeFlag,
    SomeNumber,
    SomeText,
    IntOrString,
    One(&'static Message),
    Many(&'static Message),
    /// Whoever creates an object has no say in it.
    Disregarded,
}

use Type::{
    BytesMap, Disregarded, Flag, IntOrString, Many, Number, One, SomeFlag, SomeNumber, SomeText, Text, TextMap, Texts,
};

const METADATA: &Message = &[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (4, "selfLink", Disregarded),
    (5, "uid", Text),
    (6, "resourceVersion", Text),
    (7, "generation", Disregarded),
    (8, "creationTimestamp", Disregarded),
    (11, "labels", TextMap),
    (12, "annotations", TextMap),
    (14, "finalizers", Texts),
    (17, "managedFields", Disregarded),
];
const CONFIG_MAP: &Message =
    &[(1, "metadata", One(METADATA)), (2, "data", TextMap), (3, "binaryData", BytesMap), (4, "immutable", SomeFlag)];
const SECRET: &Message = &[
    (1, "metadata", One(METADATA)),
    (2, "data", BytesMap),
    (3, "type", Text),
    (4, "stringData", TextMap),
    (5, "immutable", SomeFlag),
];
const NAMESPACE: &Message =
    &[(1, "metadata", One(METADATA)), (2, "spec", One(&[(1, "finalizers", Texts)])), (3, "status", Disregarded)];
const SERVICE_ACCOUNT: &Message = &[(1, "metadata", One(METADATA)), (4, "automountServiceAccountToken", SomeFlag)];
const SERVICE: &Message = &[(1, "metadata", One(METADATA)), (2, "spec", One(SERVICE_SPEC)), (3, "status", Disregarded)];
const SERVICE_SPEC: &Message = &[
    (1, "ports", Many(SERVICE_PORT)),
    (2, "selector", TextMap),
    (3, "clusterIP", Text),
    (4, "type", Text),
    (5, "externalIPs", Texts),
    (7, "sessionAffinity", Text),
    (8, "loadBalancerIP", Text),
    (9, "loadBalancerSourceRanges", Texts),
    (10, "externalName", Text),
    (11, "externalTrafficPolicy", Text),
    (12, "healthCheckNodePort", Number),
    (13, "publishNotReadyAddresses", Flag),
    (17, "ipFamilyPolicy", SomeText),
    (18, "clusterIPs", Texts),
    (19, "ipFamilies", Texts),
    (20, "allocateLoadBalancerNodePorts", SomeFlag),
    (21, "loadBalancerClass", SomeText),
    (22, "internalTrafficPolicy", SomeText),
    (23, "trafficDistribution", SomeText),
];
const SERVICE_PORT: &Message = &[
    (1, "name", Text),
    (2, "protocol", Text),
    (3, "port", Number),
    (4, "targetPort", IntOrString),
    (5, "nodePort", Number),
    (6, "appProtocol", SomeText),
];
const DEPLOYMENT: &Message =
    &[(1, "metadata", One(METADATA)), (2, "spec", One(DEPLOYMENT_SPEC)), (3, "status", Disregarded)];
const DEPLOYMENT_SPEC: &Message = &[
    (1, "replicas", SomeNumber),
    (2, "selector", One(&[(1, "matchLabels", TextMap)])),
    (3, "template", One(&[(1, "metadata", One(METADATA)), (2, "spec", One(POD_SPEC))])),
    (4, "strategy", One(&[(1, "type", Text)])),
    (5, "minReadySeconds", Number),
    (6, "revisionHistoryLimit", SomeNumber),
    (7, "paused", Flag),
    (9, "progressDeadlineSeconds", SomeNumber),
];
const POD_SPEC: &Message = &[
    (2, "containers", Many(CONTAINER)),
    (3, "restartPolicy", Text),
    (4, "terminationGracePeriodSeconds", SomeNumber),
    (5, "activeDeadlineSeconds", SomeNumber),
    (6, "dnsPolicy", Text),
    (7, "nodeSelector", TextMap),
    (8, "serviceAccountName", Text),
    (9, "serviceAccount", Text),
    (10, "nodeName", Text),
    (11, "hostNetwork", Flag),
    (12, "hostPID", Flag),
    (13, "hostIPC", Flag),
    (16, "hostname", Text),
    (17, "subdomain", Text),
    (19, "schedulerName", Text),
    (24, "priorityClassName", Text),
];
const CONTAINER: &Message = &[
    (1, "name", Text),
    (2, "image", Text),
    (3, "command", Texts),
    (4, "args", Texts),
    (5, "workingDir", Text),
    (6, "ports", Many(CONTAINER_PORT)),
    (7, "env", Many(&[(1, "name", Text), (2, "value", Text)])),
    (8, "resources", One(&[])),
    (13, "terminationMessagePath", Text),
    (14, "imagePullPolicy", Text),
    (16, "stdin", Flag),
    (17, "stdinOnce", Flag),
    (18, "tty", Flag),
    (20, "terminationMessagePolicy", Text),
];
const CONTAINER_PORT: &Message = &[
    (1, "name", Text),
    (2, "hostPort", Number),
    (3, "containerPort", Number),
    (4, "protocol", Text),
    (5, "hostIP", Text),
];
const TOKEN_REQUEST: &Message =
    &[(1, "metadata", One(METADATA)), (2, "spec", One(TOKEN_REQUEST_SPEC)), (3, "status", Disregarded)];
const TOKEN_REQUEST_SPEC: &Message =
    &[(1, "audiences", Texts), (3, "boundObjectRef", One(BOUND_OBJECT)), (4, "expirationSeconds", SomeNumber)];
const BOUND_OBJECT: &Message = &[(1, "kind", Text), (2, "apiVersion", Text), (3, "name", Text), (4, "uid", Text)];

const KINDS: [(&str, &str, &Message); 7] = [
    ("v1", "ConfigMap", CONFIG_MAP),
    ("v1", "Secret", SECRET),
    ("v1", "Namespace", NAMESPACE),
    ("v1", "ServiceAccount", SERVICE_ACCOUNT),
    ("v1", "Service", SERVICE),
    ("apps/v1", "Deployment", DEPLOYMENT),
    ("authentication.k8s.io/v1", "TokenRequest", TOKEN_REQUEST),
];

/// The object in a body.
///
/// # Errors
/// What of it is not read.
pub fn read(body: &[u8]) -> Result<Value, Unread> {
    let envelope = body.strip_prefix(MAGIC).ok_or(Unread::Malformed)?;
    let (mut about, mut raw) = (&[][..], &[][..]);
    for field in Fields(envelope) {
        match field? {
            (1, Wire::Bytes(bytes)) => about = bytes,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            // Of the content: none, and this very type.
            (3 | 4, Wire::Bytes([])) => {}
            _ => return Err(Unread::Malformed),
        }
    }
    let about = message(&[(1, "apiVersion", Text), (2, "kind", Text)], about, "", "")?;
    let said = |name: &str| about.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (said("apiVersion"), said("kind"));
    let known = KINDS.iter().find(|(known, name, _)| (*known, *name) == (version, kind));
    let (_, _, fields) = known.ok_or_else(|| Unread::Kind(format!("{version} {kind}")))?;
    let mut object = message(fields, raw, kind, "")?;
    object.extend(about.clone());
    Ok(Value::Object(object))
}

fn message(fields: &Message, bytes: &[u8], kind: &str, place: &str) -> Result<Map<String, Value>, Unread> {
    let mut object = Map::new();
    for field in Fields(bytes) {
        let (number, wire) = field?;
        let Some((_, name, r#type)) = fields.iter().find(|(known, ..)| *known == number) else {
            return Err(Unread::Field { kind: kind.to_owned(), place: place.to_owned(), number });
        };
        let inner = |fields, bytes| {
            let place = if place.is_empty() { (*name).to_owned() } else { format!("{place}.{name}") };
            message(fields, bytes, kind, &place)
        };
        let value = match (r#type, wire) {
            (Disregarded, _) => continue,
            (Text, Wire::Bytes([])) | (Flag | Number, Wire::Number(0)) => continue,
            (Text | SomeText, Wire::Bytes(bytes)) => text(bytes)?.into(),
            (Flag | SomeFlag, Wire::Number(number)) => (number != 0).into(),
            (Number | SomeNumber, Wire::Number(number)) => signed(number).into(),
            (IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
            (Texts, Wire::Bytes(bytes)) => {
                append(&mut object, name, text(bytes)?.into());
                continue;
            }
            (Many(fields), Wire::Bytes(bytes)) => {
                let one = inner(fields, bytes)?;
                append(&mut object, name, Value::Object(one));
                continue;
            }
            (TextMap | BytesMap, Wire::Bytes(bytes)) => {
                let (key, value) = entry(bytes)?;
                let value = if matches!(r#type, TextMap) { text(value)? } else { STANDARD.encode(value) };
                if let Value::Object(map) = object.entry(*name).or_insert_with(|| json!({})) {
                    map.insert(text(key)?, value.into());
                }
                continue;
            }
            (One(fields), Wire::Bytes(bytes)) => match inner(fields, bytes)? {
                empty if empty.is_empty() => continue,
                one => Value::Object(one),
            },
            _ => return Err(Unread::Malformed),
        };
        object.insert((*name).to_owned(), value);
    }
    Ok(object)
}

fn append(object: &mut Map<String, Value>, name: &str, one: Value) {
    if let Value::Array(list) = object.entry(name).or_insert_with(|| json!([])) {
        list.push(one);
    }
}

fn text(bytes: &[u8]) -> Result<String, Unread> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Unread::Malformed)
}

/// Negative numbers are written as what they are modulo 2^64.
fn signed(number: u64) -> i64 {
    i64::from_ne_bytes(number.to_ne_bytes())
}

/// A map's entry: key and value.
fn entry(bytes: &[u8]) -> Result<(&[u8], &[u8]), Unread> {
    let (mut key, mut value) = (&[][..], &[][..]);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(bytes)) => key = bytes,
            (2, Wire::Bytes(bytes)) => value = bytes,
            _ => return Err(Unread::Malformed),
        }
    }
    Ok((key, value))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Unread> {
    let (mut is_text, mut number, mut words) = (false, 0, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Number(r#type)) => is_text = r#type != 0,
            (2, Wire::Number(value)) => number = signed(value),
            (3, Wire::Bytes(bytes)) => words = text(bytes)?,
            _ => return Err(Unread::Malformed),
        }
    }
    Ok(if is_text { words.into() } else { number.into() })
}

/// What a field is written as. Fixed widths are in none of the messages.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message: their numbers, and what is in them.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), Unread>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            // Nothing that comes after it can be told apart.
            self.0 = &[];
        }
        Some(field.ok_or(Unread::Malformed))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let key = self.number()?;
        let wire = match key & 7 {
            0 => Wire::Number(self.number()?),
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Wire::Bytes(bytes)
            }
            _ => return None,
        };
        Some((key >> 3, wire))
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
