//! A parser's events to a JSON value, refusing what a JSON value would silently lose.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How much one document may grow to when its anchors are spelled out: bytes of text plus 16 a value.
pub(super) const BUDGET: usize = 32 << 20;

/// Builds a value, counting what it takes.
#[derive(Clone, Copy)]
pub(super) struct Tree<'a> {
    budget: &'a Cell<usize>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(budget: &'a Cell<usize>) -> Self {
        Self { budget }
    }

    fn spend<E: Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.budget.get().checked_sub(bytes + 16);
        let left = left.ok_or_else(|| E::custom("the document is too large once its anchors are spelled out"))?;
        self.budget.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON knows")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.spend(0)?;
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom(format_args!("{value} is no JSON number")))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.spend(text.len())?;
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        self.spend(text.len())?;
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut fields = Map::new();
        let mut merged = Vec::new();
        while let Some(name) = access.next_key_seed(self)? {
            let name = match name {
                Value::String(name) => name,
                // As Kubernetes' reader does: `80: x` is `"80": x`.
                name @ (Value::Number(_) | Value::Bool(_)) => name.to_string(),
                _ => return Err(A::Error::custom("a field's name must be a string")),
            };
            let value = access.next_value_seed(self)?;
            if name == "<<" {
                merged.push(value);
                continue;
            }
            if fields.contains_key(&name) {
                return Err(A::Error::custom(format_args!("the field {name:?} is given twice")));
            }
            fields.insert(name, value);
        }
        for value in merged {
            merge(&mut fields, value).map_err(A::Error::custom)?;
        }
        Ok(Value::Object(fields))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _access: A) -> Result<Value, A::Error> {
        Err(A::Error::custom("YAML tags have no meaning here"))
    }
}

/// YAML's merge key: fields of the other map, or maps, that are not there yet.
fn merge(fields: &mut Map<String, Value>, value: Value) -> Result<(), &'static str> {
    match value {
        Value::Object(others) => {
            for (name, value) in others {
                fields.entry(name).or_insert(value);
            }
            Ok(())
        }
        Value::Array(items) if items.iter().all(Value::is_object) => {
            items.into_iter().try_for_each(|item| merge(fields, item))
        }
        _ => Err("the merge key << takes a map or a list of maps"),
    }
}
