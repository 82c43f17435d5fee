//! Decoding that names the place of what it does not understand.
//!
//! Kubernetes' types and Istio's come from serde's derive alike, and both skip fields they do not know. So the check sits
//! below them: a `Deserializer` that sees each struct's field names before the struct sees the map.
//! It follows Kubernetes in taking a `null` field for an absent one.

mod fault;
mod place;

use std::cell::RefCell;

use serde::Deserialize;
use serde::de::value::{StrDeserializer, StringDeserializer};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::nearest::did_you_mean;
use crate::problem::FieldProblem;
use fault::{Fault, found};
use place::{Place, Step};

/// What is said of a field that no type knows.
const UNKNOWN: &str = "unknown field";

/// How many faults of one document are looked for.
const MOST_PROBLEMS: usize = 32;

/// Decodes, and finds every unknown field and wrong type there is (up to a limit).
///
/// A wrong type ends serde's work, so the place is blanked and the rest decoded again.
pub(crate) fn decode<T: for<'de> Deserialize<'de>>(value: &Value) -> Result<T, Vec<FieldProblem>> {
    let mut problems: Vec<FieldProblem> = Vec::new();
    let mut blanked: Vec<Vec<Step>> = Vec::new();
    let mut patched: Option<Value> = None;
    loop {
        let unknown = RefCell::new(Vec::new());
        let root = Place::Root;
        let decoded =
            T::deserialize(Strict { value: patched.as_ref().unwrap_or(value), place: &root, unknown: &unknown });
        for problem in unknown.into_inner() {
            if problems.len() < MOST_PROBLEMS && !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        let fault = match decoded {
            Ok(decoded) if problems.is_empty() => return Ok(decoded),
            Ok(_) => return Err(problems),
            Err(fault) => fault,
        };
        let mut steps = fault.steps.unwrap_or_default();
        let follows_from_blank = blanked.iter().any(|blank| steps.starts_with(blank));
        if !follows_from_blank {
            problems.push(FieldProblem::new(place::show(&steps), fault.message));
        }
        while blanked.contains(&steps) && !steps.is_empty() {
            steps.pop();
        }
        if steps.is_empty() || problems.len() >= MOST_PROBLEMS {
            return Err(problems);
        }
        place::blank(patched.get_or_insert_with(|| value.clone()), &steps);
        blanked.push(steps);
    }
}

#[derive(Clone, Copy)]
struct Strict<'a, 'de> {
    value: &'de Value,
    place: &'a Place<'a>,
    unknown: &'a RefCell<Vec<FieldProblem>>,
}

impl<'de> Strict<'_, 'de> {
    fn wrong(&self, expected: &str) -> Fault {
        Fault::custom(format_args!("expected {expected}, found {}", found(self.value))).at(self.place)
    }

    fn whole<V: Visitor<'de>, N>(&self, visitor: V, least: N, most: N) -> Result<V::Value, Fault>
    where
        N: Into<i128> + std::fmt::Display + Copy,
    {
        let number = match self.value {
            Value::Number(number) => number.as_u64().map(i128::from).or_else(|| number.as_i64().map(i128::from)),
            _ => None,
        };
        match number {
            Some(number) if number >= least.into() && number <= most.into() => {
                let given = match (u64::try_from(number), i64::try_from(number)) {
                    (Ok(number), _) => visitor.visit_u64(number),
                    (_, Ok(number)) => visitor.visit_i64(number),
                    _ => Err(Fault::custom("the number is too large")),
                };
                given.map_err(|fault: Fault| fault.at(self.place))
            }
            Some(_) => Err(self.wrong(&format!("a number from {least} to {most}"))),
            None => Err(self.wrong("a whole number")),
        }
    }
}

macro_rules! whole_numbers {
    ($($method:ident $number:ty),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.whole(visitor, <$number>::MIN, <$number>::MAX)
        })*
    };
}

impl<'de> Deserializer<'de> for Strict<'_, 'de> {
    type Error = Fault;

    whole_numbers!(
        deserialize_i8 i8, deserialize_i16 i16, deserialize_i32 i32, deserialize_i64 i64,
        deserialize_u8 u8, deserialize_u16 u16, deserialize_u32 u32, deserialize_u64 u64
    );

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), _, _) => visitor.visit_u64(number),
                (_, Some(number), _) => visitor.visit_i64(number),
                (_, _, Some(number)) => visitor.visit_f64(number),
                _ => Err(Fault::custom("not a number that can be kept")),
            },
            Value::Array(items) => visitor.visit_seq(Items { parent: self, items: items.iter().enumerate() }),
            Value::Object(fields) => {
                visitor.visit_map(Fields { parent: self, known: None, fields: fields.iter(), next: None })
            }
        };
        result.map_err(|fault| fault.at(self.place))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Bool(value) => visitor.visit_bool(*value).map_err(|fault: Fault| fault.at(self.place)),
            // Kubernetes' tools read YAML 1.1, where these words are truth values too.
            Value::String(text) if ["yes", "no", "on", "off"].contains(&text.to_ascii_lowercase().as_str()) => {
                Err(self.wrong("true or false (YAML 1.2 has no other words for them)"))
            }
            _ => Err(self.wrong("true or false")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value.as_f64() {
            Some(number) => visitor.visit_f64(number).map_err(|fault: Fault| fault.at(self.place)),
            None => Err(self.wrong("a number")),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::String(text) => visitor.visit_borrowed_str(text).map_err(|fault: Fault| fault.at(self.place)),
            _ => Err(self.wrong("a string")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        let result = match self.value {
            // Kubernetes takes `cpu: 2` for `cpu: "2"`.
            Value::Number(number) if name == "Quantity" => {
                visitor.visit_newtype_struct(StringDeserializer::<Fault>::new(number.to_string()))
            }
            _ => visitor.visit_newtype_struct(self),
        };
        result.map_err(|fault| fault.at(self.place))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Array(items) => visitor
                .visit_seq(Items { parent: self, items: items.iter().enumerate() })
                .map_err(|fault: Fault| fault.at(self.place)),
            _ => Err(self.wrong("a list")),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Object(fields) => visitor
                .visit_map(Fields { parent: self, known: None, fields: fields.iter(), next: None })
                .map_err(|fault: Fault| fault.at(self.place)),
            _ => Err(self.wrong("an object")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.value {
            Value::Object(fields) => visitor
                .visit_map(Fields { parent: self, known: Some(known), fields: fields.iter(), next: None })
                .map_err(|fault: Fault| fault.at(self.place)),
            _ => Err(self.wrong("an object")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value::String(text) = self.value else {
            return Err(self.wrong(&format!("one of {}", variants.join(", "))));
        };
        if !variants.contains(&text.as_str()) {
            let meant = did_you_mean(text, variants.iter().copied());
            let message = format!("{text:?} is not one of {}{meant}", variants.join(", "));
            return Err(Fault::custom(message).at(self.place));
        }
        let variant: StrDeserializer<'_, Fault> = text.as_str().into_deserializer();
        visitor.visit_enum(variant).map_err(|fault| fault.at(self.place))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }
}

struct Items<'a, 'de> {
    parent: Strict<'a, 'de>,
    items: std::iter::Enumerate<std::slice::Iter<'de, Value>>,
}

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some((index, value)) = self.items.next() else { return Ok(None) };
        let place = Place::Index(self.parent.place, index);
        seed.deserialize(Strict { value, place: &place, unknown: self.parent.unknown })
            .map(Some)
            .map_err(|fault| fault.at(&place))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Fields<'a, 'de> {
    parent: Strict<'a, 'de>,
    /// A struct's fields; absent for maps, whose keys are free.
    known: Option<&'static [&'static str]>,
    fields: serde_json::map::Iter<'de>,
    next: Option<(&'de String, &'de Value)>,
}

impl<'de> MapAccess<'de> for Fields<'_, 'de> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        for (name, value) in self.fields.by_ref() {
            if let Some(known) = self.known {
                if !known.contains(&name.as_str()) {
                    let mut unknown = self.parent.unknown.borrow_mut();
                    if unknown.len() < MOST_PROBLEMS {
                        let place = Place::Field(self.parent.place, name);
                        let meant = did_you_mean(name, known.iter().copied());
                        unknown.push(FieldProblem::new(place.to_string(), format!("{UNKNOWN}{meant}")));
                    }
                    continue;
                }
                if value.is_null() {
                    continue;
                }
            }
            self.next = Some((name, value));
            let key: StrDeserializer<'_, Fault> = name.as_str().into_deserializer();
            return seed.deserialize(key).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let Some((name, value)) = self.next.take() else {
            return Err(Fault::custom("a value without a name"));
        };
        let place = Place::Field(self.parent.place, name);
        seed.deserialize(Strict { value, place: &place, unknown: self.parent.unknown })
            .map_err(|fault| fault.at(&place))
    }
}

#[cfg(test)]
mod tests;
