//! What became of the requests of a step, however they were sent.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What became of one request.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Which of the step's requests, from 0, in the order in which they were sent.
    pub number: u64,
    /// Which client sent it, from 0.
    pub client: u64,
    /// From sending to the end of the answer.
    pub latency: Duration,
    /// HTTP's; TCP that was answered has 200.
    pub status: Option<u16>,
    /// Why there is no whole answer; empty if there is one.
    pub failure: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// The pod that answered, `NAMESPACE/NAME` or, as it says itself, `NAME`; empty where no pod did.
    pub pod: String,
}

impl Outcome {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fits = |(candidate, _): &&(String, String)| candidate.eq_ignore_ascii_case(name);
        self.headers.iter().find(fits).map(|(_, value)| value.as_str())
    }

    /// Reads which pod answered from what the answer says of itself, as the sample service does: the field `pod` of a
    /// JSON object, which may be followed by more lines.
    pub fn name_pod(&mut self) {
        #[derive(Deserialize)]
        struct Answer {
            pod: Option<String>,
        }
        let mut objects = serde_json::Deserializer::from_str(&self.body).into_iter::<Answer>();
        if let Some(Ok(Answer { pod: Some(pod) })) = objects.next() {
            self.pod = pod;
        }
    }

    /// The answer's body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// A step's requests, and who got them.
#[derive(Debug, Clone, Default)]
pub struct Outcomes {
    /// In order of their numbers.
    pub requests: Vec<Outcome>,
    /// How many of the step's requests each pod got, by the pod's name; asked only when the test expects something of it.
    pub received: BTreeMap<String, u64>,
}
