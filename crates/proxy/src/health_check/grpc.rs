//! A call of `grpc.health.v1.Health/Check` (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).

use lateen_traffic::RequestHead;
use lateen_traffic::health_check::Outcome;
use prost::Message as _;

use super::NoAnswer;
use super::connection::Connection;
use super::http::{self, Answer};

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

/// Compressed-flag and length before each message.
const PREFIX: usize = 5;

/// An answer is a number of a few bytes; fields that are not known here may follow.
const LONGEST_ANSWER: usize = 4096;

/// Whether the server serves what is asked about.
pub async fn ask(connection: &mut Connection, request: &RequestHead, service: &str) -> Result<Outcome, NoAnswer> {
    let message = HealthCheckRequest { service: service.to_owned() }.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len())?.to_be_bytes());
    body.extend(message);
    let answer = http::ask(connection, request, &body, LONGEST_ANSWER).await?;
    Ok(if is_serving(&answer) { Outcome::Good } else { Outcome::Bad })
}

fn is_serving(answer: &Answer) -> bool {
    let type_of_grpc = answer.head.headers.get_str("content-type").is_some_and(|content_type| {
        content_type.strip_prefix("application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with('+'))
    });
    let status = answer.trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
    if answer.head.status != 200 || !type_of_grpc || answer.head_only || status != Some(b"0") {
        return false;
    }
    let mut rest = answer.body.as_slice();
    let mut said = None;
    while let Some((prefix, after)) = rest.split_at_checked(PREFIX) {
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        let Some((message, next)) = after.split_at_checked(length) else { return false };
        rest = next;
        if length > 0 {
            // One message, not compressed.
            if said.is_some() || prefix[0] != 0 {
                return false;
            }
            said = HealthCheckResponse::decode(message).ok().map(|response| response.status);
        }
    }
    said == Some(SERVING)
}
