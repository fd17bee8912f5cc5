//! A `serde` serializer for the canonical form of typed values.

use serde::Serialize;
use serde::ser::{
    Error, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::{CanonicalError, Members, number, of_text, write_string};

/// The struct name under which [`serde_json::value::RawValue`] is serialised.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

pub(super) fn canonical(value: &impl Serialize) -> Result<Vec<u8>, CanonicalError> {
    let mut out = Vec::new();
    if value.serialize(Writer(&mut out))? == Written::Absent {
        out.extend_from_slice(b"null");
    }
    Ok(out)
}

/// Whether a value was written, or is an absent optional value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Present,
    Absent,
}

struct Writer<'a>(&'a mut Vec<u8>);

/// An unfinished object or array.
struct Compound<'a> {
    out: &'a mut Vec<u8>,
    content: Content,
    /// Whether it is the value of an enum's variant, whose object must be closed after it.
    in_variant: bool,
}

enum Content {
    Array { is_empty: bool },
    Object { members: Members, name: Option<String> },
    Raw,
}

impl<'a> Writer<'a> {
    fn put(self, text: &str) -> Written {
        self.0.extend_from_slice(text.as_bytes());
        Written::Present
    }

    fn number(self, number: impl ToString) -> Written {
        number::write(&number.to_string(), self.0);
        Written::Present
    }

    fn float(self, number: f64) -> Result<Written, CanonicalError> {
        if !number.is_finite() {
            return Err(CanonicalError::custom("a number is finite"));
        }
        // Rust formats floats without an exponent, so the text is a JSON number.
        Ok(self.number(number))
    }

    fn open_variant(&mut self, variant: &str) {
        self.0.push(b'{');
        write_string(variant, self.0);
        self.0.push(b':');
    }

    fn array(self, in_variant: bool) -> Compound<'a> {
        self.0.push(b'[');
        Compound { out: self.0, content: Content::Array { is_empty: true }, in_variant }
    }

    fn object(self, in_variant: bool) -> Compound<'a> {
        let content = Content::Object { members: Members::default(), name: None };
        Compound { out: self.0, content, in_variant }
    }
}

impl Compound<'_> {
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CanonicalError> {
        if let Content::Array { is_empty } = &mut self.content
            && !std::mem::replace(is_empty, false)
        {
            self.out.push(b',');
        }
        self.out.extend_from_slice(&canonical(&value)?);
        Ok(())
    }

    fn member<T: Serialize + ?Sized>(&mut self, name: String, value: &T) -> Result<(), CanonicalError> {
        let mut written = Vec::new();
        let present = value.serialize(Writer(&mut written))? == Written::Present;
        match &mut self.content {
            Content::Object { members, .. } if present => members.0.push((name, written)),
            Content::Raw => {
                // The written value is the text as a JSON string.
                let text: String = serde_json::from_slice(&written).map_err(CanonicalError::custom)?;
                self.out.extend_from_slice(&of_text(text.as_bytes())?);
            }
            _ => {}
        }
        Ok(())
    }

    fn close(self) -> Result<Written, CanonicalError> {
        match self.content {
            Content::Array { .. } => self.out.push(b']'),
            Content::Object { members, .. } => members.write(self.out)?,
            Content::Raw => {}
        }
        if self.in_variant {
            self.out.push(b'}');
        }
        Ok(Written::Present)
    }
}

impl<'a> Serializer for Writer<'a> {
    type Ok = Written;
    type Error = CanonicalError;
    type SerializeSeq = Compound<'a>;
    type SerializeTuple = Compound<'a>;
    type SerializeTupleStruct = Compound<'a>;
    type SerializeTupleVariant = Compound<'a>;
    type SerializeMap = Compound<'a>;
    type SerializeStruct = Compound<'a>;
    type SerializeStructVariant = Compound<'a>;

    fn serialize_bool(self, value: bool) -> Result<Written, CanonicalError> {
        Ok(self.put(if value { "true" } else { "false" }))
    }

    fn serialize_i8(self, value: i8) -> Result<Written, CanonicalError> {
        Ok(self.number(value))
    }

    fn serialize_i16(self, value: i16) -> Result<Written, CanonicalError> {
        Ok(self.number(value))
    }

    fn serialize_i32(self, value: i32) -> Result<Written, CanonicalError> {
        Ok(self.number(value))
    }

    fn serialize_i64(self, value: i64) -> Result<Written, CanonicalError> {
        Ok(self.number(value))
    }

    fn serialize_i128(self, value: i128) -> Result<Written, CanonicalError> {
        Ok(self.number(value))
    }

    fn serialize_u8(self, value: u8) -> Result<Written, CanonicalError> {
        Ok(self.number(value))
    }

    fn serialize_u16(self, value: u16) -> Result<Written, CanonicalError> {
        Ok(self.number(value))
    }

    fn serialize_u32(self, value: u32) -> Result<Written, CanonicalError> {
        Ok(self.number(value))
    }

    fn serialize_u64(self, value: u64) -> Result<Written, CanonicalError> {
        Ok(self.number(value))
    }

    fn serialize_u128(self, value: u128) -> Result<Written, CanonicalError> {
        Ok(self.number(value))
    }

    fn serialize_f32(self, value: f32) -> Result<Written, CanonicalError> {
        self.float(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<Written, CanonicalError> {
        self.float(value)
    }

    fn serialize_char(self, value: char) -> Result<Written, CanonicalError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<Written, CanonicalError> {
        write_string(value, self.0);
        Ok(Written::Present)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Written, CanonicalError> {
        value.serialize(self)
    }

    fn serialize_none(self) -> Result<Written, CanonicalError> {
        Ok(Written::Absent)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Written, CanonicalError> {
        value.serialize(self)
    }

    /// A null in JSON data is content, not an absent field.
    fn serialize_unit(self) -> Result<Written, CanonicalError> {
        Ok(self.put("null"))
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<Written, CanonicalError> {
        Ok(self.put("null"))
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<Written, CanonicalError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<Written, CanonicalError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Written, CanonicalError> {
        self.open_variant(variant);
        self.0.extend_from_slice(&canonical(&value)?);
        self.0.push(b'}');
        Ok(Written::Present)
    }

    fn serialize_seq(self, _length: Option<usize>) -> Result<Compound<'a>, CanonicalError> {
        Ok(self.array(false))
    }

    fn serialize_tuple(self, _length: usize) -> Result<Compound<'a>, CanonicalError> {
        Ok(self.array(false))
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        _length: usize,
    ) -> Result<Compound<'a>, CanonicalError> {
        Ok(self.array(false))
    }

    fn serialize_tuple_variant(
        mut self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<Compound<'a>, CanonicalError> {
        self.open_variant(variant);
        Ok(self.array(true))
    }

    fn serialize_map(self, _length: Option<usize>) -> Result<Compound<'a>, CanonicalError> {
        Ok(self.object(false))
    }

    fn serialize_struct(self, name: &'static str, _length: usize) -> Result<Compound<'a>, CanonicalError> {
        if name == RAW_VALUE {
            return Ok(Compound { out: self.0, content: Content::Raw, in_variant: false });
        }
        Ok(self.object(false))
    }

    fn serialize_struct_variant(
        mut self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<Compound<'a>, CanonicalError> {
        self.open_variant(variant);
        Ok(self.object(true))
    }
}

/// The traits for arrays differ only in the name of the method.
macro_rules! array {
    ($interface:ident, $method:ident) => {
        impl $interface for Compound<'_> {
            type Ok = Written;
            type Error = CanonicalError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CanonicalError> {
                self.element(value)
            }

            fn end(self) -> Result<Written, CanonicalError> {
                self.close()
            }
        }
    };
}

array!(SerializeSeq, serialize_element);
array!(SerializeTuple, serialize_element);
array!(SerializeTupleStruct, serialize_field);
array!(SerializeTupleVariant, serialize_field);

/// The traits for structs differ only in their name.
macro_rules! object {
    ($interface:ident) => {
        impl $interface for Compound<'_> {
            type Ok = Written;
            type Error = CanonicalError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), CanonicalError> {
                self.member(name.to_owned(), value)
            }

            fn end(self) -> Result<Written, CanonicalError> {
                self.close()
            }
        }
    };
}

object!(SerializeStruct);
object!(SerializeStructVariant);

impl SerializeMap for Compound<'_> {
    type Ok = Written;
    type Error = CanonicalError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), CanonicalError> {
        let written = canonical(&key)?;
        // A key of a JSON object is a string, even if its Rust type is not.
        let text = serde_json::from_slice(&written).or_else(|_| String::from_utf8(written));
        if let Content::Object { name, .. } = &mut self.content {
            *name = Some(text.map_err(CanonicalError::custom)?);
        }
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CanonicalError> {
        let name = match &mut self.content {
            Content::Object { name, .. } => name.take().unwrap_or_default(),
            _ => String::new(),
        };
        self.member(name, value)
    }

    fn end(self) -> Result<Written, CanonicalError> {
        self.close()
    }
}
