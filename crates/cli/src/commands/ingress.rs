//! `lateen ingress`: where the ingress gateway answers.

use std::process::ExitCode;

use lateen_galley::Kind;
use lateen_local::client::Client;
use lateen_local::controllers;
use serde_json::Value;

use crate::error::Error;
use crate::state_dir::StateDir;

pub const NAMESPACE: &str = "istio-system";
pub const SERVICE: &str = "istio-ingressgateway";

#[derive(clap::Args)]
pub struct Arguments {
    /// The HTTPS port
    #[arg(long)]
    https: bool,
    /// Host, and every port by its name, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state_dir: StateDir,
}

/// Prints `http://HOST:PORT`. An address that somebody else holds is not told, and the exit code is 1.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let client = arguments.state_dir.client();
    let ingress = super::block_on(Ingress::find(&client))?;
    if arguments.json {
        println!("{}", ingress.to_json());
        ingress.ports.iter().try_for_each(|port| ingress.authority(port.port).map(drop))?;
    } else {
        let (scheme, port) = if arguments.https { ("https", 443) } else { ("http", 80) };
        println!("{scheme}://{}", ingress.authority(port)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the ingress gateway answers on this machine, found as on any cluster: the load balancer's address with the
/// service's ports if it has one, else the node with the node ports.
#[derive(Debug, PartialEq)]
pub struct Ingress {
    host: String,
    ports: Vec<Port>,
}

#[derive(Debug, PartialEq)]
struct Port {
    name: String,
    /// The service's own port.
    port: u64,
    /// Where that is reached.
    reached: u64,
    /// Why it is not reached there, if somebody else is there.
    held: Option<String>,
}

impl Ingress {
    /// Asks for the gateway's service.
    ///
    /// # Errors
    /// When no mesh answers or it has no such service.
    pub async fn find(client: &Client) -> Result<Ingress, Error> {
        let service = client.get(Kind::Service, NAMESPACE, SERVICE).await?;
        Ok(Ingress::of(&service))
    }

    fn of(service: &Value) -> Ingress {
        let balancer = service.pointer("/status/loadBalancer/ingress/0");
        let external = balancer.and_then(|balancer| balancer["ip"].as_str().or(balancer["hostname"].as_str()));
        // Node ports of this one-machine cluster are on the loopback address.
        let host = external.unwrap_or("127.0.0.1");
        let ports = service.pointer("/spec/ports").and_then(Value::as_array);
        let read = |port: &Value| {
            let own = port["port"].as_u64()?;
            let reached = if external.is_some() { own } else { port["nodePort"].as_u64()? };
            Some(Port {
                name: port["name"].as_str().unwrap_or_default().to_string(),
                port: own,
                reached,
                held: controllers::unbound(service, &format!("{host}:{reached}")).map(str::to_owned),
            })
        };
        Ingress { host: host.to_string(), ports: ports.into_iter().flatten().filter_map(read).collect() }
    }

    /// `HOST:PORT` of one of the service's ports.
    ///
    /// # Errors
    /// When the service has no such port, or somebody else is where it is to be.
    pub fn authority(&self, port: u64) -> Result<String, Error> {
        let found = self.ports.iter().find(|candidate| candidate.port == port);
        let found =
            found.ok_or_else(|| Error::Usage(format!("{SERVICE} has no port {port} that is reached from here")))?;
        let authority = format!("{}:{}", self.host, found.reached);
        match &found.held {
            None => Ok(authority),
            Some(why) => Err(Error::Usage(format!(
                "{authority}, where {SERVICE} is to serve its port {port}, cannot be bound: {why}. Another mesh may be there; \
                 it is tried again, and `lateen get svc {SERVICE} -n {NAMESPACE} -o yaml` tells"
            ))),
        }
    }

    fn to_json(&self) -> Value {
        let served = self.ports.iter().filter(|port| port.held.is_none());
        let ports: serde_json::Map<String, Value> =
            served.map(|port| (port.name.clone(), port.reached.into())).collect();
        serde_json::json!({"host": self.host, "ports": ports})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service() -> Value {
        json!({"spec": {"ports": [{"name": "http2", "port": 80, "nodePort": 31380}, {"name": "https", "port": 443}]}})
    }

    #[test]
    fn without_an_external_address_the_node_port_is_used() {
        let ingress = Ingress::of(&service());
        assert_eq!(ingress.authority(80).unwrap(), "127.0.0.1:31380");
        assert!(ingress.authority(443).is_err());
        assert_eq!(ingress.to_json(), json!({"host": "127.0.0.1", "ports": {"http2": 31380}}));
    }

    #[test]
    fn an_address_that_another_holds_is_not_told() {
        let mut service = service();
        service["spec"]["ports"][1]["nodePort"] = json!(31390);
        let message = "127.0.0.1:31380: Address already in use (os error 98), 127.0.0.1:9: no";
        service["status"] = json!({"conditions": [
            {"type": controllers::HOST_PORTS_BOUND, "status": "False", "message": message}]});
        let ingress = Ingress::of(&service);
        let told = ingress.authority(80).unwrap_err().to_string();
        assert!(
            told.starts_with("127.0.0.1:31380, ") && told.contains("Address already in use (os error 98). "),
            "{told}"
        );
        assert_eq!(ingress.authority(443).unwrap(), "127.0.0.1:31390");
        assert_eq!(ingress.to_json(), json!({"host": "127.0.0.1", "ports": {"https": 31390}}));
    }

    #[test]
    fn an_external_address_has_the_services_own_ports() {
        let mut service = service();
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "127.0.0.10"}]}});
        let ingress = Ingress::of(&service);
        assert_eq!(ingress.authority(80).unwrap(), "127.0.0.10:80");
        assert_eq!(ingress.authority(443).unwrap(), "127.0.0.10:443");
    }
}
