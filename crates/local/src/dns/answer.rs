//! From a DNS query and a [`Zone`] to what is to be done about it: an answer, a question for the
//! host's resolvers, or both. Pure: no socket, no clock.

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zone::{CLUSTER_DOMAIN, Found, Records, Zone};

/// How long clients may keep an answer, in seconds: short, as endpoints come and go. CoreDNS answers
/// 5 seconds for headless services and 30 for the others.
const TTL: u32 = 5;
/// Aliases followed inside the zone before giving up, so that a loop ends.
const ALIAS_LIMIT: usize = 8;
/// The largest UDP answer whatever the client offers, in bytes (DNS flag day 2020).
const UDP_LIMIT: usize = 1232;

/// What to do about a query.
#[derive(Debug)]
pub enum Outcome {
    /// Send this.
    Reply(Message),
    /// Ask the host's resolvers the same question.
    Forward,
    /// An alias leads out of the cluster: ask the host's resolvers for `target`, then send `reply`
    /// with their answers appended.
    Chase {
        /// The answer so far, holding the alias.
        reply: Message,
        /// The name to resolve.
        target: Name,
    },
}

/// Decides about one query.
pub fn answer(zone: &Zone, query: &Message) -> Outcome {
    let mut reply = reply_to(query);
    if query.metadata.op_code != OpCode::Query || query.metadata.message_type != MessageType::Query {
        reply.metadata.response_code = ResponseCode::NotImp;
        return Outcome::Reply(reply);
    }
    let [question] = query.queries.as_slice() else {
        reply.metadata.response_code = ResponseCode::FormErr;
        return Outcome::Reply(reply);
    };
    if question.query_class() != DNSClass::IN {
        reply.metadata.response_code = ResponseCode::Refused;
        return Outcome::Reply(reply);
    }
    let wanted = question.query_type();
    let mut name = question.name().clone();
    reply.metadata.authoritative = true;
    for step in 0..=ALIAS_LIMIT {
        let records = match zone.find(&name.to_ascii()) {
            Found::Records(records) => records,
            Found::Empty => break,
            Found::Missing => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                break;
            }
            Found::Elsewhere if step == 0 => return Outcome::Forward,
            Found::Elsewhere => return Outcome::Chase { reply, target: name },
        };
        let Some(alias) = &records.alias else {
            add_records(&mut reply, zone, &name, records, wanted);
            break;
        };
        let Ok(target) = absolute(alias) else { break };
        reply.add_answer(Record::from_rdata(name, TTL, RData::CNAME(CNAME(target.clone()))));
        if wanted == RecordType::CNAME || wanted == RecordType::ANY {
            break;
        }
        name = target;
    }
    if reply.answers.is_empty() {
        reply.authorities.extend(start_of_authority());
    }
    Outcome::Reply(reply)
}

/// The head of a reply to `query`, without any record.
pub fn reply_to(query: &Message) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_queries(query.queries.iter().take(1).cloned());
    if let Some(offered) = &query.edns {
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(UDP_LIMIT as u16);
        edns.set_version(0);
        if offered.version() != 0 {
            // BADVERS (RFC 6891 6.1.3) lives partly in the extended bits.
            reply.metadata.response_code = ResponseCode::BADVERS;
        }
        reply.set_edns(edns);
    }
    reply
}

/// A reply that says the query could not be resolved.
pub fn failure(query: &Message, code: ResponseCode) -> Message {
    let mut reply = reply_to(query);
    reply.metadata.response_code = code;
    if code == ResponseCode::NXDomain {
        reply.authorities.extend(start_of_authority());
    }
    reply
}

/// The bytes of a reply, truncated to what the querier can take if it came by UDP. `None` if it
/// cannot be encoded at all.
pub fn encode(reply: &Message, query: &Message, udp: bool) -> Option<Vec<u8>> {
    let bytes = reply.to_vec().ok()?;
    let limit = if udp {
        let offered = query.edns.as_ref().map_or(512, |edns| usize::from(edns.max_payload()));
        offered.clamp(512, UDP_LIMIT)
    } else {
        usize::from(u16::MAX)
    };
    if bytes.len() <= limit { Some(bytes) } else { reply.truncate().to_vec().ok() }
}

fn add_records(reply: &mut Message, zone: &Zone, name: &Name, records: &Records, wanted: RecordType) {
    let any = wanted == RecordType::ANY;
    let mut add = |data| {
        reply.add_answer(Record::from_rdata(name.clone(), TTL, data));
    };
    if any || wanted == RecordType::A {
        records.v4.iter().for_each(|address| add(RData::A(A(*address))));
    }
    if any || wanted == RecordType::AAAA {
        records.v6.iter().for_each(|address| add(RData::AAAA(AAAA(*address))));
    }
    if any || wanted == RecordType::PTR {
        let target = records.pointer.as_deref().and_then(|target| absolute(target).ok());
        target.into_iter().for_each(|target| add(RData::PTR(PTR(target))));
    }
    if any || wanted == RecordType::SRV {
        let weight = u16::try_from(100 / records.services.len().max(1)).unwrap_or(1).max(1);
        for service in &records.services {
            let Ok(target) = absolute(&service.target) else { continue };
            add_addresses_of(reply, zone, &target, &service.target);
            let data = RData::SRV(SRV::new(0, weight, service.port, target));
            reply.add_answer(Record::from_rdata(name.clone(), TTL, data));
        }
    }
}

/// SRV answers carry the addresses of their targets along.
fn add_addresses_of(reply: &mut Message, zone: &Zone, name: &Name, key: &str) {
    let Found::Records(records) = zone.find(key) else { return };
    let v4 = records.v4.iter().map(|address| RData::A(A(*address)));
    let v6 = records.v6.iter().map(|address| RData::AAAA(AAAA(*address)));
    for data in v4.chain(v6) {
        let record = Record::from_rdata(name.clone(), TTL, data);
        if !reply.additionals.contains(&record) {
            reply.add_additional(record);
        }
    }
}

/// Negative answers carry the SOA, whose minimum says how long they hold (RFC 2308).
fn start_of_authority() -> Option<Record> {
    let zone = absolute(CLUSTER_DOMAIN).ok()?;
    let server = absolute(&format!("ns.dns.{CLUSTER_DOMAIN}")).ok()?;
    let mailbox = absolute(&format!("hostmaster.{CLUSTER_DOMAIN}")).ok()?;
    let data = SOA::new(server, mailbox, 1, 7200, 1800, 86400, TTL);
    Some(Record::from_rdata(zone, TTL, RData::SOA(data)))
}

fn absolute(name: &str) -> Result<Name, hickory_proto::ProtoError> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    Ok(name)
}
