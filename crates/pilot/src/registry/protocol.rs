//! Which protocol a service port speaks, as its declaration says.
//!
//! Knows nothing of listeners or clusters. Source: Istio `pkg/config/kube/conversion.go`
//! (ConvertProtocol), `pkg/config/protocol/instance.go`.

/// A declared protocol. `Auto` is a port whose declaration says nothing: the proxy looks at the
/// first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Http,
    Http2,
    Grpc,
    GrpcWeb,
    HttpProxy,
    Tcp,
    Tls,
    Https,
    Mongo,
    Redis,
    MySql,
    Udp,
    Auto,
}

/// The shape of listener a protocol asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shape {
    Http,
    Tcp,
    Auto,
}

/// Ports whose protocols let the server speak first, where waiting for the client's bytes would
/// hang: undeclared, they are TCP.
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

impl Protocol {
    /// A protocol by its name, whatever its case; unknown names are [`Protocol::Auto`].
    pub fn parse(name: &str) -> Protocol {
        match name.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "grpc" => Protocol::Grpc,
            "grpc-web" => Protocol::GrpcWeb,
            "http" => Protocol::Http,
            "http_proxy" => Protocol::HttpProxy,
            "http2" => Protocol::Http2,
            "https" => Protocol::Https,
            "tls" => Protocol::Tls,
            "mongo" => Protocol::Mongo,
            "redis" => Protocol::Redis,
            "mysql" => Protocol::MySql,
            _ => Protocol::Auto,
        }
    }

    /// The protocol of a Kubernetes Service port: `appProtocol` if set, else the part of the port's
    /// name before the first `-`. `transport` is the port's `protocol` field.
    pub fn of_kubernetes_port(
        number: u16,
        name: &str,
        transport: Option<&str>,
        app_protocol: Option<&str>,
    ) -> Protocol {
        if transport.is_some_and(|transport| transport.eq_ignore_ascii_case("udp")) {
            return Protocol::Udp;
        }
        match app_protocol {
            Some("kubernetes.io/h2c") => return Protocol::Http2,
            Some("kubernetes.io/ws") => return Protocol::Http,
            Some("kubernetes.io/wss") => return Protocol::Https,
            _ => {}
        }
        let name = app_protocol.unwrap_or(name);
        if name.get(..8).is_some_and(|prefix| prefix.eq_ignore_ascii_case("grpc-web")) {
            return Protocol::GrpcWeb;
        }
        match Protocol::parse(name.split('-').next().unwrap_or_default()) {
            Protocol::Auto if SERVER_FIRST.contains(&number) => Protocol::Tcp,
            protocol => protocol,
        }
    }

    /// The listener shape, or `None` for UDP, which no listener takes.
    pub fn shape(self) -> Option<Shape> {
        match self {
            Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb | Protocol::HttpProxy => {
                Some(Shape::Http)
            }
            Protocol::Tcp | Protocol::Tls | Protocol::Https | Protocol::Mongo | Protocol::Redis | Protocol::MySql => {
                Some(Shape::Tcp)
            }
            Protocol::Auto => Some(Shape::Auto),
            Protocol::Udp => None,
        }
    }

    /// Declared to run on HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb)
    }

    /// Declared to be HTTP, of any version.
    pub fn is_http(self) -> bool {
        self.shape() == Some(Shape::Http)
    }

    /// HTTP, or found to be HTTP when looked at.
    pub fn may_be_http(self) -> bool {
        matches!(self.shape(), Some(Shape::Http | Shape::Auto))
    }

    /// TLS from the first byte, told apart by SNI.
    pub fn is_tls(self) -> bool {
        matches!(self, Protocol::Tls | Protocol::Https)
    }

    /// Protocols in which the server speaks first and no inspection is possible: they never share a
    /// listener with another protocol.
    pub fn is_server_first(self) -> bool {
        matches!(self, Protocol::Mongo | Protocol::MySql)
    }

    /// gRPC in either framing: retries on the inbound side are left to the caller.
    pub fn is_grpc(self) -> bool {
        matches!(self, Protocol::Grpc | Protocol::GrpcWeb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_ports() {
        let of = |number, name, transport, app| Protocol::of_kubernetes_port(number, name, transport, app);
        assert_eq!(of(80, "http-web", None, None), Protocol::Http);
        assert_eq!(of(80, "HTTP", Some("TCP"), None), Protocol::Http);
        assert_eq!(of(80, "web", None, None), Protocol::Auto);
        assert_eq!(of(80, "", None, None), Protocol::Auto);
        assert_eq!(of(80, "grpc-web-x", None, None), Protocol::GrpcWeb);
        assert_eq!(of(80, "grpc-x", None, None), Protocol::Grpc);
        assert_eq!(of(80, "tcp", None, Some("http")), Protocol::Http);
        assert_eq!(of(80, "tcp", None, Some("kubernetes.io/h2c")), Protocol::Http2);
        assert_eq!(of(53, "dns", Some("UDP"), None), Protocol::Udp);
        assert_eq!(of(3306, "db", None, None), Protocol::Tcp);
        assert_eq!(of(3306, "http", None, None), Protocol::Http);
    }
}
