//! A client's cookies. Only names and values: a test's requests go to one host, and last for moments.

use std::collections::BTreeMap;

/// The cookies a client was given.
#[derive(Debug, Default)]
pub struct Jar(BTreeMap<String, String>);

impl Jar {
    /// Keeps what `set-cookie` headers give; a cookie that ends at once goes.
    pub fn keep<'a>(&mut self, given: impl Iterator<Item = &'a str>) {
        for cookie in given {
            let mut parts = cookie.split(';').map(str::trim);
            let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { continue };
            let over = parts.any(|attribute| attribute.eq_ignore_ascii_case("max-age=0"));
            if over {
                self.0.remove(name);
            } else {
                self.0.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    /// The value of the `cookie` header, if there is a cookie.
    pub fn header(&self) -> Option<String> {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_sent() {
        let mut jar = Jar::default();
        assert_eq!(jar.header(), None);
        jar.keep(["user=\"e7c6\"; Max-Age=60; HttpOnly", "b=1=2; Path=/", "nonsense"].into_iter());
        assert_eq!(jar.header().as_deref(), Some("b=1=2; user=\"e7c6\""));
        jar.keep(["b=; max-age=0"].into_iter());
        assert_eq!(jar.header().as_deref(), Some("user=\"e7c6\""));
    }
}
