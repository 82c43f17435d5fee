//! A name server for a test's own network: a name that begins with a [`label`] has that address, all others do not exist.

use std::net::Ipv4Addr;

use tokio::net::UdpSocket;

/// Where it answers.
pub const SERVER: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The first label of names that have this address.
pub fn label(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("ip-{a}-{b}-{c}-{d}")
}

fn address(label: &[u8]) -> Option<Ipv4Addr> {
    let octets = std::str::from_utf8(label).ok()?.strip_prefix("ip-")?;
    octets.replace('-', ".").parse().ok()
}

/// Answers for ever.
///
/// # Panics
/// When the port is taken.
pub async fn serve() {
    let socket = UdpSocket::bind((SERVER, 53)).await.expect("the port of name servers");
    let mut query = [0; 512];
    while let Ok((length, client)) = socket.recv_from(&mut query).await {
        if let Some(answer) = answer(&query[..length]) {
            let _ = socket.send_to(&answer, client).await;
        }
    }
}

/// The answer to a query with one question (RFC 1035, 4.1).
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let question = query.get(12..)?;
    let first = question.get(1..1 + usize::from(*question.first()?))?;
    // The name, to the empty label, then type and class.
    let mut end = 0;
    while *question.get(end)? != 0 {
        end += 1 + usize::from(question[end]);
    }
    let question = question.get(..end + 5)?;
    let is_a = question.get(end + 1..end + 3)? == [0, 1];
    let found = address(first);
    let code = if found.is_some() { 0 } else { 3 };
    let record = found.filter(|_| is_a);
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(record.is_some()), 0, 0, 0, 0]);
    answer.extend(question);
    if let Some(address) = record {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
