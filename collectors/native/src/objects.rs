//! Python objects from raw memory: attributes, numbers and lengths.
//!
//! Nothing of the target is executed: only instance attributes are found, never properties or
//! other descriptors. No string value is ever read; attribute names are compared, and that is all.
//! Every pointer may be garbage (the target runs on while we read), so every length is bounded and
//! every failure is a [`Trouble`], never a panic.

use std::collections::HashMap;

use crate::events::UNKNOWN;
use crate::layout::{self, Layout, Managed};
use crate::memory::{Fields, Memory, Piece, Trouble};
use crate::spec::Reduce;

/// Containers larger than this are not read.
pub const MAX_ELEMENTS: usize = 8192;
/// Attribute dictionaries and tables larger than this are torn or not ours.
const MAX_ENTRIES: usize = 2 * MAX_ELEMENTS;
/// Items per block of a deque.
const DEQUE_BLOCK: u64 = 64;
const MAX_TUPLE: i64 = 16;
const MAX_MEMBER_NAME: usize = 64;
const MAX_BASES: usize = 16;
const MAX_CACHED: usize = 4096;
/// Attributes of an object that is asked for the length of its only container.
const MAX_HELD: usize = 32;
/// Elements whose attributes need a read of their own each (no shared layout).
const MAX_SLOW_ELEMENTS: usize = 256;

/// An object's head with the words in front of it and behind it that hold its attributes.
const BEFORE: u64 = 32;
pub const HEAD: usize = 56;
/// A container's own fields.
pub const CONTAINER: usize = 48;
/// An int with up to two digits; CPython allocates in units of 16 bytes.
pub const INT_BYTES: usize = 32;
const DIGIT_BITS: u32 = 30;
const DICT_BYTES: usize = 48;
const KEYS_BYTES: usize = 32;
const TYPE_BYTES: usize = 296;
/// No instance has more bytes of its own.
const MAX_BASIC_BYTES: u64 = 1 << 20;

/// A word that must stay as it is, as far as its mask goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    pub address: u64,
    mask: u64,
    expected: u64,
}

impl Guard {
    fn whole(address: u64, expected: u64) -> Self {
        Guard {
            address,
            mask: u64::MAX,
            expected,
        }
    }

    pub fn holds(&self, word: u64) -> bool {
        word & self.mask == self.expected
    }
}

/// Where an attribute's value pointer lives, and the words that must stay as they are for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slot {
    pub address: u64,
    pub guards: Vec<Guard>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Int,
    List,
    Tuple,
    Dict,
    Set,
    Deque,
    Float,
    None,
    Other,
}

/// What tells one object from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Int(i64),
    /// The bits of a float.
    Float(u64),
    Address(u64),
}

/// What is kept of a type.
#[derive(Debug, Clone, Copy)]
struct Class {
    managed: bool,
    /// Where values may lie in the object itself; 0 when they never do.
    values_behind: u64,
    dictoffset: i64,
    basic_bytes: u64,
    cached_keys: u64,
    /// 0 for built-in types, which are not searched.
    dict: u64,
    base: u64,
    /// A type of its own kind for which `len` is defined.
    sized: bool,
    shape: Shape,
}

impl Class {
    /// Whether [`Objects::head`] has what tells if values lie in the object.
    fn values_in_head(&self) -> bool {
        BEFORE + self.values_behind + 8 <= HEAD as u64
    }
}

/// Attribute storage of one object: a table of keys, and where the values are.
#[derive(Debug, Clone, Copy)]
struct Attributes {
    keys: u64,
    /// 0 when the values are in the table itself.
    values: u64,
}

/// Position of a name in a table of keys, with the key object it was found by.
#[derive(Debug, Clone, Copy)]
struct Place {
    index: u64,
    entries: u64,
    key: u64,
}

pub struct Objects<M> {
    pub memory: M,
    pub layout: &'static Layout,
    classes: HashMap<u64, Class>,
    places: HashMap<u64, Vec<(String, Place)>>,
    /// By type: where `__slots__` put a name, if they did.
    members: HashMap<u64, Vec<(String, Option<u64>)>>,
}

impl<M: Memory> Objects<M> {
    pub fn new(memory: M, layout: &'static Layout) -> Self {
        Objects {
            memory,
            layout,
            classes: HashMap::new(),
            places: HashMap::new(),
            members: HashMap::new(),
        }
    }

    /// Forgets types and key tables; a freed one could otherwise be mistaken for its successor.
    pub fn forget(&mut self) {
        self.classes.clear();
        self.places.clear();
        self.members.clear();
    }

    fn class(&mut self, address: u64) -> Result<Class, Trouble> {
        if let Some(class) = self.classes.get(&address) {
            return Ok(*class);
        }
        let layout = self.layout;
        let mut bytes = [0; TYPE_BYTES];
        self.memory.read(address, &mut bytes)?;
        let flags = bytes.u64_at(layout.type_flags);
        let basic_bytes = bytes.u64_at(layout.type_basicsize);
        let plausible = flags & layout::READY != 0 && basic_bytes <= MAX_BASIC_BYTES;
        if !plausible || bytes.u64_at(layout.object_type) == 0 {
            return Err(Trouble::Torn);
        }
        let heap = flags & layout::HEAP_TYPE != 0;
        let shape = match flags {
            f if f & layout::INT_SUBCLASS != 0 => Shape::Int,
            f if f & layout::LIST_SUBCLASS != 0 => Shape::List,
            f if f & layout::TUPLE_SUBCLASS != 0 => Shape::Tuple,
            f if f & layout::DICT_SUBCLASS != 0 => Shape::Dict,
            _ => self.builtin_shape(&bytes)?,
        };
        let managed = flags & layout::MANAGED_DICT != 0;
        let class = Class {
            managed,
            values_behind: if managed && flags & layout::INLINE_VALUES != 0 {
                basic_bytes
            } else {
                0
            },
            dictoffset: bytes.i64_at(layout.type_dictoffset),
            basic_bytes,
            cached_keys: if heap {
                let at = address.wrapping_add(layout.type_cached_keys as u64);
                self.memory.word(at)?
            } else {
                0
            },
            dict: if heap {
                bytes.u64_at(layout.type_dict)
            } else {
                0
            },
            base: bytes.u64_at(layout.type_base),
            sized: heap && shape == Shape::Other && self.defines_length(&bytes)?,
            shape,
        };
        if self.classes.len() >= MAX_CACHED {
            self.classes.clear();
        }
        self.classes.insert(address, class);
        Ok(class)
    }

    /// Whether instances have a `len`: a type made by a class statement has the table behind this
    /// pointer in itself.
    fn defines_length(&self, class: &[u8]) -> Result<bool, Trouble> {
        match class.u64_at(self.layout.type_as_sequence) {
            0 => Ok(false),
            table => Ok(self.memory.word(table)? != 0),
        }
    }

    /// Sets and deques have no flag of their own: go down to the built-in base and look at the
    /// name compiled into the interpreter.
    fn builtin_shape(&self, class: &[u8]) -> Result<Shape, Trouble> {
        let layout = self.layout;
        let mut bytes = [0; TYPE_BYTES];
        bytes.copy_from_slice(class);
        for _ in 0..MAX_BASES {
            let flags = bytes.u64_at(layout.type_flags);
            // A deque's type is on the heap since 3.12; no class statement makes an immutable one.
            if flags & layout::HEAP_TYPE == 0 || flags & layout::IMMUTABLE_TYPE != 0 {
                let mut name = [0; 18];
                let at = bytes.u64_at(layout.type_name);
                let arrived = self.memory.gather(&[(at, name.len())], &mut name)?;
                return Ok(match name[..arrived].split(|byte| *byte == 0).next() {
                    Some(b"set" | b"frozenset") => Shape::Set,
                    Some(b"collections.deque") => Shape::Deque,
                    Some(b"float") => Shape::Float,
                    Some(b"NoneType") => Shape::None,
                    _ => Shape::Other,
                });
            }
            let base = bytes.u64_at(layout.type_base);
            if base == 0 {
                break;
            }
            self.memory.read(base, &mut bytes)?;
        }
        Ok(Shape::Other)
    }

    /// An object's own head, and what kind it is; what lies behind a small object may be missing.
    fn inspect(&mut self, object: u64) -> Result<(Shape, [u8; CONTAINER]), Trouble> {
        let mut head = [0; CONTAINER];
        if self.memory.gather(&[(object, CONTAINER)], &mut head)? < INT_BYTES {
            return Err(Trouble::Torn);
        }
        let class = self.class(head.u64_at(self.layout.object_type))?;
        Ok((class.shape, head))
    }

    // ---- attributes

    /// The value slot of `object.name`, with the guards under which it stays valid.
    pub fn slot(&mut self, object: u64, name: &str) -> Result<Slot, Trouble> {
        let mut head = [0; HEAD];
        self.head(object, &mut head)?;
        match self.attribute_slot(object, &head, name) {
            Err(Trouble::Absent) => self.member_slot(object, &head, name),
            other => other,
        }
    }

    fn attribute_slot(&mut self, object: u64, head: &[u8], name: &str) -> Result<Slot, Trouble> {
        let (attributes, mut guards) = self.attributes(object, head)?;
        let place = self.place(attributes.keys, name)?;
        let address = value_address(attributes, place);
        // A key removed and added again lands elsewhere in the same table.
        if attributes.values == 0 {
            guards.push(Guard::whole(place.entries + 16 * place.index, place.key));
        }
        Ok(Slot { address, guards })
    }

    fn member_slot(&mut self, object: u64, head: &[u8], name: &str) -> Result<Slot, Trouble> {
        let class = head.u64_at(self.type_at());
        let offset = self.member(class, name)?;
        Ok(Slot {
            address: object.wrapping_add(offset),
            guards: vec![Guard::whole(object + self.layout.object_type as u64, class)],
        })
    }

    /// The object that `object.name` is.
    pub fn attribute(&mut self, object: u64, name: &str) -> Result<u64, Trouble> {
        let mut head = [0; HEAD];
        self.head(object, &mut head)?;
        let value = match self.instance_attribute(object, &head, name) {
            Err(Trouble::Absent) => {
                let slot = self.member_slot(object, &head, name)?;
                self.memory.word(slot.address)?
            }
            other => other?,
        };
        match value {
            0 => Err(Trouble::Absent),
            value => Ok(value),
        }
    }

    fn instance_attribute(&mut self, object: u64, head: &[u8], name: &str) -> Result<u64, Trouble> {
        let (attributes, _) = self.attributes(object, head)?;
        // Once with what is remembered of this table, once afresh.
        for _ in 0..2 {
            let place = self.place(attributes.keys, name)?;
            let mut words = [0; 16];
            self.memory.gather_all(
                &[
                    (place.entries + 16 * place.index, 8),
                    (value_address(attributes, place), 8),
                ],
                &mut words,
            )?;
            if words.u64_at(0) == place.key {
                return Ok(words.u64_at(8));
            }
            self.places.remove(&attributes.keys);
        }
        Err(Trouble::Torn)
    }

    /// Where `__slots__` of this type or of a base put `name`, from the object's start.
    fn member(&mut self, class: u64, name: &str) -> Result<u64, Trouble> {
        let known = self.members.get(&class).map_or(&[][..], Vec::as_slice);
        if let Some((_, found)) = known.iter().find(|(known, _)| known == name) {
            return found.ok_or(Trouble::Absent);
        }
        let found = match self.search_member(class, name) {
            Ok(offset) => Some(offset),
            Err(Trouble::Absent) => None,
            Err(other) => return Err(other),
        };
        if self.members.len() >= MAX_CACHED {
            self.members.clear();
        }
        let known = self.members.entry(class).or_default();
        known.push((name.to_owned(), found));
        found.ok_or(Trouble::Absent)
    }

    /// Slots extend what an object holds, so they are all on the way of the first bases.
    fn search_member(&mut self, class: u64, name: &str) -> Result<u64, Trouble> {
        let mut at = class;
        for _ in 0..MAX_BASES {
            if at == 0 {
                break;
            }
            let class = self.class(at)?;
            if class.dict == 0 {
                break;
            }
            match self.member_of_own(class.dict, name) {
                Err(Trouble::Absent) => at = class.base,
                other => return other,
            }
        }
        Err(Trouble::Absent)
    }

    fn member_of_own(&mut self, dict: u64, name: &str) -> Result<u64, Trouble> {
        let layout = self.layout;
        let attributes = self.dictionary(dict)?;
        let place = self.place(attributes.keys, name)?;
        let descriptor = self.memory.word(value_address(attributes, place))?;
        let class = self
            .memory
            .word(descriptor.wrapping_add(layout.object_type as u64))?;
        if !self.is_named(class, b"member_descriptor\0")? {
            return Err(Trouble::Absent);
        }
        let at = descriptor.wrapping_add(layout.descriptor_member);
        let mut member = [0; 24];
        let member_at = self.memory.word(at)?;
        self.memory.read(member_at, &mut member)?;
        match member.u32_at(layout.member_kind) {
            layout::MEMBER_OBJECT | layout::MEMBER_OBJECT_OR_ERROR => {
                Ok(member.u64_at(layout.member_offset))
            }
            _ => Err(Trouble::Absent),
        }
    }

    fn is_named(&self, class: u64, name: &[u8]) -> Result<bool, Trouble> {
        let at = class.wrapping_add(self.layout.type_name as u64);
        let mut found = vec![0; name.len()];
        let name_at = self.memory.word(at)?;
        let arrived = self.memory.gather(&[(name_at, name.len())], &mut found)?;
        Ok(arrived == name.len() && found == name)
    }

    /// The object at the end of a dotted path.
    pub fn follow(&mut self, object: u64, steps: &[String]) -> Result<u64, Trouble> {
        steps
            .iter()
            .try_fold(object, |object, name| self.attribute(object, name))
    }

    /// The slot at the end of a dotted path; the guards cover the whole way.
    pub fn resolve(&mut self, object: u64, steps: &[String]) -> Result<Slot, Trouble> {
        let (last, way) = steps.split_last().ok_or(Trouble::Absent)?;
        let mut object = object;
        let mut guards = Vec::new();
        for name in way {
            let slot = self.slot(object, name)?;
            object = self.memory.word(slot.address)?;
            if object == 0 {
                return Err(Trouble::Absent);
            }
            guards.extend(slot.guards);
            guards.push(Guard::whole(slot.address, object));
        }
        let mut slot = self.slot(object, last)?;
        guards.append(&mut slot.guards);
        Ok(Slot {
            address: slot.address,
            guards,
        })
    }

    fn head(&self, object: u64, out: &mut [u8; HEAD]) -> Result<(), Trouble> {
        let start = object.checked_sub(BEFORE).ok_or(Trouble::Torn)?;
        match self.memory.read(start, out) {
            // Nothing mapped in front of a static object.
            Err(Trouble::Torn) => {
                *out = [0; HEAD];
                self.memory.read(object, &mut out[BEFORE as usize..])
            }
            other => other,
        }
    }

    /// Where an object's type is in what [`head`](Self::head) reads.
    fn type_at(&self) -> usize {
        BEFORE as usize + self.layout.object_type
    }

    fn attributes(
        &mut self,
        object: u64,
        head: &[u8],
    ) -> Result<(Attributes, Vec<Guard>), Trouble> {
        let layout = self.layout;
        let class = self.class(head.u64_at(self.type_at()))?;
        if let Some((values, guards)) = self.own_values(class, object, head)? {
            let attributes = Attributes {
                keys: class.cached_keys,
                values,
            };
            return Ok((attributes, guards));
        }
        let (at, dict) = if class.managed {
            let before = match layout.managed {
                Managed::Apart { dict, .. } | Managed::Behind { dict, .. } => dict,
                Managed::Either { word } => word,
            };
            (object - before, head.u64_at((BEFORE - before) as usize))
        } else if class.dictoffset > 0 {
            let at = object.wrapping_add(class.dictoffset as u64);
            (at, self.memory.word(at)?)
        } else if class.dictoffset < 0 && class.shape == Shape::Int {
            // Behind the digits: members of an IntEnum before 3.12.
            let (digits, _) = self.int_size(&head[BEFORE as usize..]);
            let end = (class.basic_bytes + 4 * digits.min(3)).next_multiple_of(8);
            let at = object
                .wrapping_add(end)
                .wrapping_add_signed(class.dictoffset);
            (at, self.memory.word(at)?)
        } else {
            return Err(Trouble::Absent);
        };
        if dict == 0 {
            return Err(Trouble::Absent);
        }
        let mut words = [0; 16];
        let attributes = self.dictionary_words(dict, &mut words)?;
        let guards = vec![
            Guard::whole(at, dict),
            Guard::whole(dict + layout.dict_keys as u64, words.u64_at(0)),
            Guard::whole(dict + layout.dict_values as u64, words.u64_at(8)),
        ];
        Ok((attributes, guards))
    }

    /// The first of the values that an object has without a dictionary, by its class's keys.
    fn own_values(
        &self,
        class: Class,
        object: u64,
        head: &[u8],
    ) -> Result<Option<(u64, Vec<Guard>)>, Trouble> {
        if !class.managed {
            return Ok(None);
        }
        let before = |word: u64| (object - word, head.u64_at((BEFORE - word) as usize));
        Ok(match self.layout.managed {
            Managed::Apart { values, .. } => {
                let (at, values) = before(values);
                (values != 0).then(|| (values, vec![Guard::whole(at, values)]))
            }
            Managed::Either { word } => {
                let (at, tagged) = before(word);
                (tagged & 1 != 0).then(|| (tagged.wrapping_add(1), vec![Guard::whole(at, tagged)]))
            }
            Managed::Behind { .. } if class.values_behind == 0 => None,
            Managed::Behind { valid, .. } => {
                let at = object.wrapping_add(class.values_behind);
                let word = if class.values_in_head() {
                    head.u64_at((BEFORE + class.values_behind) as usize)
                } else {
                    self.memory.word(at)?
                };
                let valid = Guard {
                    address: at,
                    mask: 0xff << (8 * valid),
                    expected: 1 << (8 * valid),
                };
                let start = at.wrapping_add(self.layout.values_first);
                // Another class takes the flag away as well.
                valid.holds(word).then(|| (start, vec![valid]))
            }
        })
    }

    fn dictionary(&mut self, dict: u64) -> Result<Attributes, Trouble> {
        self.dictionary_words(dict, &mut [0; 16])
    }

    /// What a dictionary has its values by; `words` get the two pointers as they are there.
    fn dictionary_words(&mut self, dict: u64, words: &mut [u8; 16]) -> Result<Attributes, Trouble> {
        let layout = self.layout;
        let mut bytes = [0; DICT_BYTES];
        self.memory.read(dict, &mut bytes)?;
        if self.class(bytes.u64_at(layout.object_type))?.shape != Shape::Dict {
            return Err(Trouble::Torn);
        }
        words.copy_from_slice(&bytes[layout.dict_keys..layout.dict_keys + 16]);
        Ok(Attributes {
            keys: bytes.u64_at(layout.dict_keys),
            values: self.split_values(&bytes),
        })
    }

    /// The first value of a dictionary that shares its keys; 0 where the table has the values.
    fn split_values(&self, dict: &[u8]) -> u64 {
        match dict.u64_at(self.layout.dict_values) {
            0 => 0,
            values => values.wrapping_add(self.layout.values_first),
        }
    }

    fn place(&mut self, keys: u64, name: &str) -> Result<Place, Trouble> {
        if let Some(known) = self.places.get(&keys) {
            if let Some((_, place)) = known.iter().find(|(known, _)| known == name) {
                return Ok(*place);
            }
        }
        let place = self.search(keys, name)?;
        if self.places.len() >= MAX_CACHED {
            self.places.clear();
        }
        let known = self.places.entry(keys).or_default();
        known.retain(|(known, _)| known != name);
        known.push((name.to_owned(), place));
        Ok(place)
    }

    fn search(&self, keys: u64, name: &str) -> Result<Place, Trouble> {
        let layout = self.layout;
        let table = self.table(keys)?;
        if table.general {
            return Err(Trouble::Absent);
        }
        let mut entries = vec![0; table.count * 16];
        self.memory.read(table.entries, &mut entries)?;
        let candidates: Vec<(u64, u64)> = (0..table.count)
            .map(|index| (index as u64, entries.u64_at(index * 16)))
            .filter(|(_, key)| *key != 0)
            .collect();
        // Names are ASCII here: head of the text object, then its characters.
        let mut heads = vec![0; candidates.len() * 48];
        let pieces: Vec<Piece> = candidates.iter().map(|(_, key)| (*key, 48)).collect();
        self.memory.gather_all(&pieces, &mut heads)?;
        let is_alike = |head: &[u8]| {
            let ascii_and_compact = head.u32_at(layout.text_state) >> 5 & 3 == 3;
            ascii_and_compact && head.u64_at(layout.text_length) == name.len() as u64
        };
        let heads = heads.chunks_exact(48);
        let alike = heads.zip(candidates).filter(|(head, _)| is_alike(head));
        let alike: Vec<(u64, u64)> = alike.map(|(_, candidate)| candidate).collect();
        let mut texts = vec![0; alike.len() * name.len()];
        let text_at = |key: u64| key.wrapping_add(layout.text_ascii_data);
        let pieces = alike.iter().map(|(_, key)| (text_at(*key), name.len()));
        let pieces: Vec<Piece> = pieces.collect();
        self.memory.gather_all(&pieces, &mut texts)?;
        let mut texts = texts.chunks_exact(name.len().max(1));
        let found = texts.position(|text| text == name.as_bytes());
        let (index, key) = found.map(|at| alike[at]).ok_or(Trouble::Absent)?;
        Ok(Place {
            index,
            entries: table.entries,
            key,
        })
    }

    fn table(&self, keys: u64) -> Result<Table, Trouble> {
        let layout = self.layout;
        let mut bytes = [0; KEYS_BYTES];
        self.memory.read(keys, &mut bytes)?;
        let log2_index_bytes = bytes[layout.keys_log2_index_bytes];
        let kind = bytes[layout.keys_kind];
        let count = bytes.u64_at(layout.keys_nentries);
        if log2_index_bytes > 26 || kind > 2 || count > MAX_ENTRIES as u64 {
            return Err(Trouble::Torn);
        }
        Ok(Table {
            entries: keys
                .wrapping_add(layout.keys_indices)
                .wrapping_add(1 << log2_index_bytes),
            count: count as usize,
            general: kind == layout::KEYS_GENERAL,
        })
    }

    // ---- numbers

    /// The value of an int or bool.
    #[cfg(test)]
    pub fn int(&mut self, object: u64) -> Result<i64, Trouble> {
        let mut bytes = [0; INT_BYTES];
        self.memory.read(object, &mut bytes)?;
        self.decode_int(object, &bytes)
    }

    /// The value of an int whose first [`INT_BYTES`] bytes were read.
    pub fn decode_int(&mut self, object: u64, bytes: &[u8]) -> Result<i64, Trouble> {
        let layout = self.layout;
        if self.class(bytes.u64_at(layout.object_type))?.shape != Shape::Int {
            return Err(Trouble::Absent);
        }
        let (digits, negative) = self.int_size(bytes);
        let digit = |index: usize| u64::from(bytes.u32_at(layout.int_digits + 4 * index));
        let mut magnitude = match digits {
            0 => 0,
            1 => digit(0),
            2 | 3 => digit(0) | digit(1) << DIGIT_BITS,
            _ => return Err(Trouble::Absent),
        };
        if (0..digits.min(2) as usize).any(|index| digit(index) >> DIGIT_BITS != 0) {
            return Err(Trouble::Torn);
        }
        if digits == 3 {
            let third_at = layout.int_digits + 8;
            let mut third = [0; 4];
            match bytes.get(third_at..third_at + 4) {
                Some(there) => third.copy_from_slice(there),
                None => {
                    let at = object.wrapping_add(third_at as u64);
                    self.memory.read(at, &mut third)?;
                }
            }
            let third = u64::from(u32::from_le_bytes(third));
            if third >= 1 << 3 {
                return Err(Trouble::Absent);
            }
            magnitude |= third << (2 * DIGIT_BITS);
        }
        // At most 63 bits by the checks above, so the sign always fits.
        let magnitude = i64::try_from(magnitude).map_err(|_| Trouble::Torn)?;
        Ok(if negative { -magnitude } else { magnitude })
    }

    /// What tells this object from others, from its first bytes.
    pub fn content(&mut self, object: u64, bytes: &[u8]) -> Result<Content, Trouble> {
        match self.class(bytes.u64_at(self.layout.object_type))?.shape {
            Shape::Int => match self.decode_int(object, bytes) {
                Ok(number) => Ok(Content::Int(number)),
                // Too large for a number here.
                Err(Trouble::Absent) => Ok(Content::Address(object)),
                Err(other) => Err(other),
            },
            Shape::Float => Ok(Content::Float(bytes.u64_at(self.layout.object_size))),
            _ => Ok(Content::Address(object)),
        }
    }

    pub fn is_none(&mut self, object: u64) -> Result<bool, Trouble> {
        let class = self
            .memory
            .word(object.wrapping_add(self.layout.object_type as u64))?;
        Ok(self.class(class)?.shape == Shape::None)
    }

    pub fn is_deque(&mut self, object: u64) -> Result<bool, Trouble> {
        Ok(self.inspect(object)?.0 == Shape::Deque)
    }

    /// Which of `names` the member of an enum at the end of a path has.
    ///
    /// The name is compared here and goes no further.
    pub fn member_index(
        &mut self,
        start: u64,
        path: &crate::spec::Path,
        names: &[String],
    ) -> Result<i64, Trouble> {
        let member = self.follow(start, &path.steps)?;
        let text = self.attribute(member, "_name_")?;
        let layout = self.layout;
        let mut head = [0; 40];
        self.memory.read(text, &mut head)?;
        let length = head.u64_at(layout.text_length) as usize;
        let ascii_and_compact = head.u32_at(layout.text_state) >> 5 & 3 == 3;
        if !ascii_and_compact || length > MAX_MEMBER_NAME {
            return Err(Trouble::Absent);
        }
        let mut name = vec![0; length];
        let at = text.wrapping_add(layout.text_ascii_data);
        self.memory.read(at, &mut name)?;
        let found = names.iter().position(|known| known.as_bytes() == name);
        found.map(|index| index as i64).ok_or(Trouble::Absent)
    }

    /// How many digits an int has, and whether it is below zero.
    fn int_size(&self, bytes: &[u8]) -> (u64, bool) {
        let size = bytes.i64_at(self.layout.object_size);
        if self.layout.int_tagged {
            // Two bits of sign (0, 1 for zero, 2), one that is reserved.
            (size as u64 >> 3, size & 3 == 2)
        } else {
            (size.unsigned_abs(), size < 0)
        }
    }

    /// The values of many ints.
    fn ints(&mut self, objects: &[u64]) -> Result<Vec<i64>, Trouble> {
        self.numbers(objects, Self::decode_int)
    }

    /// The lengths of many containers.
    fn lengths(&mut self, objects: &[u64]) -> Result<Vec<i64>, Trouble> {
        self.numbers(objects, |this, _, head| {
            let class = this.class(head.u64_at(this.layout.object_type))?;
            this.length(class.shape, head)
        })
    }

    /// A number of each object, from its head; equal pointers are read once.
    fn numbers(
        &mut self,
        objects: &[u64],
        decode: impl Fn(&mut Self, u64, &[u8]) -> Result<i64, Trouble>,
    ) -> Result<Vec<i64>, Trouble> {
        let mut distinct = objects.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let pieces: Vec<Piece> = distinct.iter().map(|at| (*at, INT_BYTES)).collect();
        let mut bytes = vec![0; distinct.len() * INT_BYTES];
        self.memory.gather_all(&pieces, &mut bytes)?;
        let mut values = Vec::with_capacity(distinct.len());
        for (at, head) in distinct.iter().zip(bytes.chunks_exact(INT_BYTES)) {
            values.push(decode(self, *at, head)?);
        }
        objects
            .iter()
            .map(|at| {
                let index = distinct.binary_search(at).map_err(|_| Trouble::Torn)?;
                Ok(values[index])
            })
            .collect()
    }

    // ---- containers

    /// The number of elements of a list, tuple, dict, set, deque, or a subclass of one.
    fn length(&self, shape: Shape, head: &[u8]) -> Result<i64, Trouble> {
        let layout = self.layout;
        let offset = match shape {
            Shape::List | Shape::Tuple | Shape::Deque => layout.object_size,
            Shape::Dict => layout.dict_used,
            Shape::Set => layout.set_used,
            Shape::Int | Shape::Float | Shape::None | Shape::Other => return Err(Trouble::Absent),
        };
        match head.i64_at(offset) {
            length @ 0..=0xffff_ffff => Ok(length),
            _ => Err(Trouble::Torn),
        }
    }

    /// The elements of a list or tuple, or the values of a dict.
    fn elements(&self, object: u64, shape: Shape, head: &[u8]) -> Result<Vec<u64>, Trouble> {
        let layout = self.layout;
        if !matches!(shape, Shape::List | Shape::Tuple | Shape::Dict) {
            return Err(Trouble::Absent);
        }
        let length = self.length(shape, head)? as usize;
        if length > MAX_ELEMENTS {
            return Err(Trouble::Absent);
        }
        if length == 0 {
            return Ok(Vec::new());
        }
        let found: Vec<u64> = match shape {
            Shape::List => self.words(head.u64_at(layout.list_items), length)?,
            Shape::Tuple => self.words(object + layout.tuple_items, length)?,
            _ => self.dict_values(head)?,
        };
        if found.len() != length || found.contains(&0) {
            return Err(Trouble::Torn);
        }
        Ok(found)
    }

    /// The object of `like`'s class at the left end of a deque, by itself or in a tuple.
    pub fn newest(&mut self, start: u64, path: &[String], like: u64) -> Result<u64, Trouble> {
        let layout = self.layout;
        let class_at = layout.object_type as u64;
        // Asked for first, so that looking ahead fetches it together with the next.
        let class = self.memory.word(like.wrapping_add(class_at));
        let deque = self.follow(start, path)?;
        let (shape, head) = self.inspect(deque)?;
        if shape != Shape::Deque || self.length(shape, &head)? == 0 {
            return Err(Trouble::Absent);
        }
        let index = head.u64_at(layout.deque_left_index);
        if index >= DEQUE_BLOCK {
            return Err(Trouble::Torn);
        }
        let items = head
            .u64_at(layout.deque_left_block)
            .wrapping_add(layout.block_items);
        let item = self.memory.word(items.wrapping_add(8 * index))?;
        let class = class?;
        let (shape, head) = self.inspect(item)?;
        if head.u64_at(layout.object_type) == class {
            return Ok(item);
        }
        if shape != Shape::Tuple || self.length(shape, &head)? > MAX_TUPLE {
            return Err(Trouble::Absent);
        }
        let parts = self.elements(item, shape, &head)?;
        let pieces: Vec<Piece> = parts
            .iter()
            .map(|part| (part.wrapping_add(class_at), 8))
            .collect();
        let mut classes = vec![0; parts.len() * 8];
        self.memory.gather_all(&pieces, &mut classes)?;
        let is_like = |index: &usize| classes.u64_at(8 * index) == class;
        let found = (0..parts.len()).find(is_like).ok_or(Trouble::Absent)?;
        Ok(parts[found])
    }

    fn dict_values(&self, head: &[u8]) -> Result<Vec<u64>, Trouble> {
        let table = self.table(head.u64_at(self.layout.dict_keys))?;
        self.table_values(&table, self.split_values(head))
    }

    fn table_values(&self, table: &Table, values: u64) -> Result<Vec<u64>, Trouble> {
        let mut found = if values != 0 {
            self.words(values, table.count)?
        } else {
            let stride = if table.general { 3 } else { 2 };
            let entries = self.words(table.entries, table.count * stride)?;
            entries
                .chunks_exact(stride)
                .map(|entry| entry[stride - 1])
                .collect()
        };
        // Deleted entries keep their place with no value.
        found.retain(|value| *value != 0);
        Ok(found)
    }

    /// The length of the only container that an object holds, if it says that it has a length:
    /// queues are often a heap in a list, or a deque, under a class of the engine's own.
    fn held_length(&mut self, object: u64) -> Result<i64, Trouble> {
        let mut head = [0; HEAD];
        self.head(object, &mut head)?;
        if !self.class(head.u64_at(self.type_at()))?.sized {
            return Err(Trouble::Absent);
        }
        let (attributes, _) = self.attributes(object, &head)?;
        let table = self.table(attributes.keys)?;
        if table.general || table.count > MAX_HELD {
            return Err(Trouble::Absent);
        }
        let mut held = None;
        for value in self.table_values(&table, attributes.values)? {
            let (shape, head) = self.inspect(value)?;
            if self.length(shape, &head) == Err(Trouble::Absent) {
                continue;
            }
            if held.is_some() {
                return Err(Trouble::Absent);
            }
            held = Some(self.length(shape, &head)?);
        }
        held.ok_or(Trouble::Absent)
    }

    fn words(&self, address: u64, count: usize) -> Result<Vec<u64>, Trouble> {
        let mut bytes = vec![0; count * 8];
        self.memory.read(address, &mut bytes)?;
        Ok((0..count).map(|index| bytes.u64_at(index * 8)).collect())
    }

    /// `name` of every object; in a few reads when they share a class, as batch entries do.
    fn attribute_of_each(&mut self, objects: &[u64], name: &str) -> Result<Vec<u64>, Trouble> {
        if let Some(values) = self.attribute_of_alike(objects, name)? {
            return Ok(values);
        }
        if objects.len() > MAX_SLOW_ELEMENTS {
            return Err(Trouble::Absent);
        }
        objects
            .iter()
            .map(|object| self.attribute(*object, name))
            .collect()
    }

    fn attribute_of_alike(
        &mut self,
        objects: &[u64],
        name: &str,
    ) -> Result<Option<Vec<u64>>, Trouble> {
        let piece = |object: &u64| Ok((object.checked_sub(BEFORE).ok_or(Trouble::Torn)?, HEAD));
        let pieces: Vec<Piece> = objects.iter().map(piece).collect::<Result<_, _>>()?;
        let mut heads = vec![0; objects.len() * HEAD];
        self.memory.gather_all(&pieces, &mut heads)?;
        let heads: Vec<&[u8]> = heads.chunks_exact(HEAD).collect();
        let type_at = self.type_at();
        let Some(first) = heads.first().map(|head| head.u64_at(type_at)) else {
            return Ok(None);
        };
        if heads.iter().any(|head| head.u64_at(type_at) != first) {
            return Ok(None);
        }
        let class = self.class(first)?;
        let pieces: Vec<Piece> = if class.managed {
            if !class.values_in_head() {
                return Ok(None);
            }
            let mut starts = Vec::with_capacity(objects.len());
            for (head, object) in heads.iter().zip(objects) {
                match self.own_values(class, *object, head)? {
                    Some((start, _)) => starts.push(start),
                    None => return Ok(None),
                }
            }
            let index = self.place(class.cached_keys, name)?.index;
            let value = |start: &u64| (start.wrapping_add(8 * index), 8);
            starts.iter().map(value).collect()
        } else if class.dictoffset == 0 {
            let offset = self.member(first, name)?;
            let value = |object: &u64| (object.wrapping_add(offset), 8);
            objects.iter().map(value).collect()
        } else {
            return Ok(None);
        };
        let mut bytes = vec![0; objects.len() * 8];
        self.memory.gather_all(&pieces, &mut bytes)?;
        let values: Vec<u64> = (0..objects.len()).map(|i| bytes.u64_at(i * 8)).collect();
        if values.contains(&0) {
            return Err(Trouble::Absent);
        }
        Ok(Some(values))
    }

    // ---- fields

    /// All reductions of one path, sharing the reads; [`UNKNOWN`] where there is nothing to read.
    ///
    /// Fails only with what a second attempt could cure, or with the end of the process.
    pub fn reduce(
        &mut self,
        start: u64,
        path: &crate::spec::Path,
        reductions: &[Reduce],
    ) -> Result<Vec<i64>, Trouble> {
        match self.reduce_strictly(start, path, reductions) {
            Err(Trouble::Absent) => Ok(vec![UNKNOWN; reductions.len()]),
            other => other,
        }
    }

    fn reduce_strictly(
        &mut self,
        start: u64,
        path: &crate::spec::Path,
        reductions: &[Reduce],
    ) -> Result<Vec<i64>, Trouble> {
        let object = self.follow(start, &path.steps)?;
        let (shape, head) = self.inspect(object)?;
        let mut values: Option<Result<Vec<i64>, Trouble>> = None;
        let mut results = Vec::with_capacity(reductions.len());
        for reduction in reductions {
            let result = match reduction {
                Reduce::Int => self.decode_int(object, &head),
                Reduce::Bool => self.decode_int(object, &head).and_then(truth),
                Reduce::Len if shape == Shape::Other => self.held_length(object),
                Reduce::Len => self.length(shape, &head),
                Reduce::SumLen => self
                    .mapped(object, shape, &head, path)
                    .and_then(|elements| self.lengths(&elements))
                    .and_then(|lengths| fold(Reduce::Sum, &lengths)),
                other => {
                    let values = values.get_or_insert_with(|| {
                        let elements = self.mapped(object, shape, &head, path)?;
                        self.ints(&elements)
                    });
                    values
                        .as_ref()
                        .map_err(|t| *t)
                        .and_then(|v| fold(*other, v))
                }
            };
            results.push(match result {
                Err(Trouble::Absent) => UNKNOWN,
                other => other?,
            });
        }
        Ok(results)
    }

    /// The elements of a container, or the attributes of them that the path names.
    fn mapped(
        &mut self,
        object: u64,
        shape: Shape,
        head: &[u8],
        path: &crate::spec::Path,
    ) -> Result<Vec<u64>, Trouble> {
        let mut elements = self.elements(object, shape, head)?;
        if !elements.is_empty() {
            for name in path.each.iter().flatten() {
                elements = self.attribute_of_each(&elements, name)?;
            }
        }
        Ok(elements)
    }
}

struct Table {
    entries: u64,
    count: usize,
    general: bool,
}

fn value_address(attributes: Attributes, place: Place) -> u64 {
    if attributes.values == 0 {
        place.entries.wrapping_add(16 * place.index + 8)
    } else {
        attributes.values.wrapping_add(8 * place.index)
    }
}

fn truth(number: i64) -> Result<i64, Trouble> {
    match number {
        0 | 1 => Ok(number),
        _ => Err(Trouble::Absent),
    }
}

fn fold(reduction: Reduce, values: &[i64]) -> Result<i64, Trouble> {
    let sum = |above: i64| {
        values
            .iter()
            .filter(|value| **value > above)
            .try_fold(0i64, |sum, value| sum.checked_add(*value))
            .ok_or(Trouble::Absent)
    };
    match reduction {
        Reduce::Sum => values
            .iter()
            .try_fold(0i64, |sum, value| sum.checked_add(*value))
            .ok_or(Trouble::Absent),
        Reduce::SumAboveOne => sum(1),
        Reduce::CountOne => Ok(values.iter().filter(|value| **value == 1).count() as i64),
        Reduce::Max => values.iter().copied().max().ok_or(Trouble::Absent),
        Reduce::Int | Reduce::Len | Reduce::SumLen | Reduce::Bool | Reduce::Enum => {
            Err(Trouble::Absent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::tests::layout_of;
    use crate::memory::fake::FakeMemory;
    use crate::spec::Path;

    const INT: u64 = 0x1000;
    const LIST: u64 = 0x2000;
    const DICT: u64 = 0x3000;
    const SET: u64 = 0x4000;
    const DEQUE: u64 = 0x5000;
    const QUEUE: u64 = 0x6000;
    const THING: u64 = 0x7000;
    const OLD: u64 = 0x8000;
    const TYPE: u64 = 0x9000;
    const TUPLE: u64 = 0xa000;
    const MEMBER: u64 = 0xb000;
    /// From a type to its dictionary.
    const DICT_OF_TYPE: u64 = 0x800;
    /// Capacity, size, embedded, valid.
    const VALID_VALUES: u64 = 0x0101_021e;

    /// A made-up interpreter: a few types, and objects put where a test wants them.
    struct World {
        memory: FakeMemory,
        layout: &'static Layout,
    }

    fn in_every_version(test: impl Fn(World)) {
        for minor in 11..=14 {
            test(World::of(minor));
        }
    }

    impl World {
        fn new() -> Self {
            World::of(11)
        }

        fn of(minor: u64) -> Self {
            let world = World {
                memory: FakeMemory::default(),
                layout: layout_of(3, minor),
            };
            let heap = layout::HEAP_TYPE;
            world.class(INT, layout::INT_SUBCLASS, 0, "int", 0, 0);
            world.class(LIST, layout::LIST_SUBCLASS, 0, "list", 0, 0);
            world.class(DICT, layout::DICT_SUBCLASS, 0, "dict", 0, 0);
            world.class(SET, 0, 0, "set", 0, 0);
            let immutable = heap | layout::IMMUTABLE_TYPE;
            world.class(DEQUE, immutable, 0, "collections.deque", 0, 0);
            world.class(QUEUE, heap, DEQUE, "Queue", 0, 0);
            world.class(
                THING,
                heap | layout::MANAGED_DICT | layout::INLINE_VALUES,
                0,
                "Thing",
                u64::MAX,
                0x20_000,
            );
            world.class(OLD, heap, 0, "Old", 16, 0);
            world
        }

        fn class(&self, at: u64, flags: u64, base: u64, name: &str, dictoffset: u64, keys: u64) {
            let layout = self.layout;
            let mut words = [0; 111];
            words[1] = TYPE;
            words[layout.type_name / 8] = at + 0x400;
            words[layout.type_basicsize / 8] = 16;
            words[layout.type_flags / 8] = flags | layout::READY;
            words[layout.type_base / 8] = base;
            words[layout.type_dict / 8] = at + DICT_OF_TYPE;
            words[layout.type_dictoffset / 8] = dictoffset;
            words[layout.type_cached_keys / 8] = keys;
            self.memory.put_words(at, &words);
            let mut text = name.as_bytes().to_vec();
            text.resize(32, 0);
            self.memory.put(at + 0x400, &text);
            self.dict(at + DICT_OF_TYPE, &[]);
        }

        fn int(&self, at: u64, value: i64) -> u64 {
            let magnitude = value.unsigned_abs();
            let mask = (1 << 30) - 1;
            let digits = [magnitude & mask, magnitude >> 30 & mask, magnitude >> 60];
            let count = digits.iter().rposition(|d| *d != 0).map_or(0, |i| i + 1) as u64;
            let size = match (self.layout.int_tagged, value.signum()) {
                (false, -1) => count.wrapping_neg(),
                (false, _) => count,
                (true, sign) => count << 3 | (1 - sign) as u64,
            };
            let words = [1, INT, size, digits[0] | digits[1] << 32, digits[2], 0];
            self.memory.put_words(at, &words);
            at
        }

        fn text(&self, at: u64, text: &str) -> u64 {
            let start = self.layout.text_ascii_data as usize;
            let mut bytes = vec![0; start];
            bytes[16] = text.len() as u8;
            bytes[32] = 0b1110_0100;
            bytes.extend_from_slice(text.as_bytes());
            bytes.resize(bytes.len().max(48), 0);
            self.memory.put(at, &bytes);
            at
        }

        fn list(&self, at: u64, items: &[u64]) -> u64 {
            self.memory
                .put_words(at, &[1, LIST, items.len() as u64, at + 0x100, 0, 0]);
            self.memory.put_words(at + 0x100, items);
            at
        }

        /// A combined dict of text keys.
        fn dict(&self, at: u64, items: &[(&str, u64)]) -> u64 {
            let keys = at + 0x200;
            let used = items.iter().filter(|(_, value)| *value != 0).count() as u64;
            self.memory.put_words(at, &[1, DICT, used, 0, keys, 0]);
            let mut words = vec![1, 3 << 8 | 1 << 16, 0, items.len() as u64, 0];
            for (name, value) in items {
                let key = self.text(at + 0x800 + 0x80 * u64::from(name.as_bytes()[0] & 31), name);
                words.extend([key, *value]);
            }
            self.memory.put_words(keys, &words);
            at
        }

        /// An instance with values of its own; `Thing`'s shared keys must be put first.
        fn thing(&self, at: u64, values: &[u64]) -> u64 {
            let apart = at + 0x100;
            let mut words = match self.layout.managed {
                Managed::Apart { .. } => vec![apart, 0, 0, 0, 1, THING, 0],
                Managed::Either { .. } => vec![0, apart - 1, 0, 0, 1, THING, 0],
                Managed::Behind { .. } => vec![0, 0, 0, 0, 1, THING, VALID_VALUES],
            };
            match self.layout.managed {
                Managed::Behind { .. } => words.extend(values),
                _ => self.memory.put_words(apart, values),
            }
            self.memory.put_words(at - 32, &words);
            at
        }

        /// The same instance after somebody asked for its dictionary and it grew.
        fn thing_with_dict(&self, at: u64, dict: u64) -> u64 {
            let words = match self.layout.managed {
                Managed::Apart { .. } | Managed::Either { .. } => [0, dict, 0, 0, 1, THING, 0],
                Managed::Behind { .. } => [0, dict, 0, 0, 1, THING, 0x1e],
            };
            self.memory.put_words(at - 32, &words);
            at
        }

        /// A tuple's type, and a tuple.
        fn tuple(&self, at: u64, items: &[u64]) -> u64 {
            self.class(TUPLE, layout::TUPLE_SUBCLASS, 0, "tuple", 0, 0);
            let mut words = vec![1, TUPLE, items.len() as u64, 0];
            words.truncate(self.layout.tuple_items as usize / 8);
            words.extend(items);
            words.resize(words.len().max(6), 0);
            self.memory.put_words(at, &words);
            at
        }

        /// A class with `__slots__`, the offsets of which are given.
        fn slotted(&self, at: u64, base: u64, slots: &[(&str, u64)]) {
            self.class(MEMBER, 0, 0, "member_descriptor", 0, 0);
            self.class(at, layout::HEAP_TYPE, base, "Slotted", 0, 0);
            let mut members = Vec::new();
            for (index, (name, offset)) in slots.iter().enumerate() {
                let descriptor = at + 0x4000 + 0x80 * index as u64;
                let member = descriptor + 0x40;
                self.memory
                    .put_words(descriptor, &[1, MEMBER, 0, 0, 0, member]);
                let kind = u64::from(layout::MEMBER_OBJECT_OR_ERROR);
                self.memory.put_words(member, &[0, kind, *offset]);
                members.push((*name, descriptor));
            }
            self.dict(at + DICT_OF_TYPE, &members);
        }

        fn thing_keys(&self, names: &[&str]) {
            let mut words = vec![1, 3 << 8 | 2 << 16, 0, names.len() as u64, 0];
            for (index, name) in names.iter().enumerate() {
                words.extend([self.text(0x21_000 + 0x80 * index as u64, name), 0]);
            }
            self.memory.put_words(0x20_000, &words);
        }

        fn done(self) -> Objects<FakeMemory> {
            Objects::new(self.memory, self.layout)
        }
    }

    fn length(objects: &mut Objects<FakeMemory>, at: u64) -> Result<i64, Trouble> {
        let (shape, head) = objects.inspect(at)?;
        objects.length(shape, &head)
    }

    fn path(text: &str) -> Path {
        Path::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn ints_of_every_size_and_sign() {
        in_every_version(|world| {
            let values = [0, 1, -1, (1 << 30) - 1, 1 << 30, -(1 << 45), i64::MAX];
            for (index, value) in values.iter().enumerate() {
                world.int(0x50_000 + 0x100 * index as u64, *value);
            }
            let size = |digits: u64| digits << (3 * u32::from(world.layout.int_tagged));
            world
                .memory
                .put_words(0x60_000, &[1, INT, size(3), 7 | 7 << 32, u64::MAX]);
            world.memory.put_words(0x60_100, &[1, INT, size(900), 0, 0]);
            world
                .memory
                .put_words(0x60_200, &[1, INT, size(1), 1 << 30, 0]);
            let mut objects = world.done();
            for (index, value) in values.iter().enumerate() {
                assert_eq!(objects.int(0x50_000 + 0x100 * index as u64), Ok(*value));
            }
            assert_eq!(objects.int(0x60_000), Err(Trouble::Absent));
            assert_eq!(objects.int(0x60_100), Err(Trouble::Absent));
            assert_eq!(objects.int(0x60_200), Err(Trouble::Torn));
        });
    }

    #[test]
    fn lengths_of_containers_and_their_subclasses() {
        in_every_version(|world| {
            world.list(0x50_000, &[1, 2, 3]);
            world.dict(0x51_000, &[("a", 9), ("b", 0)]);
            world.memory.put_words(0x52_000, &[1, SET, 99, 4, 0, 0]);
            world.memory.put_words(0x53_000, &[1, QUEUE, 5, 0, 0, 0]);
            world.memory.put_words(0x54_000, &[1, THING, 6, 0, 0, 0]);
            world
                .memory
                .put_words(0x55_000, &[1, LIST, u64::MAX, 0, 0, 0]);
            let mut objects = world.done();
            assert_eq!(length(&mut objects, 0x50_000), Ok(3));
            assert_eq!(length(&mut objects, 0x51_000), Ok(1));
            assert_eq!(length(&mut objects, 0x52_000), Ok(4));
            assert_eq!(length(&mut objects, 0x53_000), Ok(5));
            assert_eq!(length(&mut objects, 0x54_000), Err(Trouble::Absent));
            assert_eq!(length(&mut objects, 0x55_000), Err(Trouble::Torn));
        });
    }

    #[test]
    fn attributes_are_found_in_inline_values_and_in_dictionaries() {
        in_every_version(|world| {
            world.thing_keys(&["first", "second"]);
            let seven = world.int(0x50_000, 7);
            world.thing(0x60_000, &[0, seven]);
            world.dict(0x70_000, &[("first", seven)]);
            world.memory.put_words(0x61_000, &[1, OLD, 0x70_000]);
            let mut objects = world.done();
            assert_eq!(objects.attribute(0x60_000, "second"), Ok(seven));
            assert_eq!(objects.attribute(0x60_000, "first"), Err(Trouble::Absent));
            assert_eq!(objects.attribute(0x60_000, "third"), Err(Trouble::Absent));
            assert_eq!(objects.attribute(0x61_000, "first"), Ok(seven));
        });
    }

    #[test]
    fn a_slot_comes_with_the_words_that_keep_it_valid() {
        in_every_version(|world| {
            world.thing_keys(&["scheduler"]);
            let step = world.int(0x50_000, 3);
            world.dict(0x70_000, &[("current_step", step)]);
            world.memory.put_words(0x61_000, &[1, OLD, 0x70_000]);
            world.thing(0x60_000, &[0x61_000]);
            let mut objects = world.done();
            let steps = path("scheduler.current_step").steps;
            let slot = objects.resolve(0x60_000, &steps).unwrap();
            assert_eq!(objects.memory.word(slot.address), Ok(step));
            assert!(slot.guards.iter().any(|guard| guard.expected == 0x61_000));
            let kept = |memory: &FakeMemory, guard: &Guard| {
                guard.holds(memory.word(guard.address).unwrap())
            };
            assert!(slot.guards.iter().all(|guard| kept(&objects.memory, guard)));
            let later = World {
                memory: std::mem::take(&mut objects.memory),
                layout: objects.layout,
            };
            later.thing_with_dict(0x60_000, 0x70_000);
            assert!(!slot.guards.iter().all(|guard| kept(&later.memory, guard)));
        });
    }

    #[test]
    fn slots_of_a_class_and_of_its_bases_are_attributes() {
        in_every_version(|world| {
            world.slotted(0x80_000, 0, &[("early", 16)]);
            world.slotted(0x90_000, 0x80_000, &[("late", 24), ("unset", 32)]);
            let (two, five) = (world.int(0x50_000, 2), world.int(0x50_100, 5));
            let object = [0, 0, 0, 0, 1, 0x90_000, two, five, 0];
            for at in [0x60_000, 0x61_000] {
                world.memory.put_words(at - 32, &object);
            }
            world.list(0x70_000, &[0x60_000, 0x61_000]);
            world.thing_keys(&["items"]);
            world.thing(0x62_000, &[0x70_000]);
            let mut objects = world.done();
            assert_eq!(objects.attribute(0x60_000, "early"), Ok(two));
            assert_eq!(objects.attribute(0x60_000, "late"), Ok(five));
            assert_eq!(objects.attribute(0x60_000, "unset"), Err(Trouble::Absent));
            assert_eq!(objects.attribute(0x60_000, "other"), Err(Trouble::Absent));
            let slot = objects.slot(0x60_000, "late").unwrap();
            assert_eq!(slot.address, 0x60_018);
            assert_eq!(slot.guards, [Guard::whole(0x60_008, 0x90_000)]);
            let sums = objects.reduce(0x62_000, &path("items[].late"), &[Reduce::Sum]);
            assert_eq!(sums, Ok(vec![10]));
        });
    }

    #[test]
    fn the_only_container_of_an_object_with_a_length_gives_it() {
        in_every_version(|world| {
            let sized = 0x80_000;
            let table = sized + 0x600;
            world.class(sized, layout::HEAP_TYPE, 0, "Queue", 16, 0);
            let at = sized + world.layout.type_as_sequence as u64;
            world.memory.patch(at, table);
            world.memory.put_words(table, &[0x1234]);
            let items = world.list(0x50_000, &[1, 2, 3]);
            let (limit, text) = (world.int(0x51_000, 9), world.text(0x52_000, "fcfs"));
            world.class(0xc0_000, 0, 0, "str", 0, 0);
            world.memory.patch(text + 8, 0xc0_000);
            world.dict(
                0x70_000,
                &[("limit", limit), ("heap", items), ("name", text)],
            );
            world.dict(0x73_000, &[("left", items), ("right", items)]);
            world
                .memory
                .put_words(0x60_000, &[1, sized, 0x70_000, 0, 0, 0]);
            world
                .memory
                .put_words(0x61_000, &[1, sized, 0x73_000, 0, 0, 0]);
            world
                .memory
                .put_words(0x62_000, &[1, OLD, 0x70_000, 0, 0, 0]);
            let mut objects = world.done();
            assert_eq!(objects.held_length(0x60_000), Ok(3));
            assert_eq!(objects.held_length(0x61_000), Err(Trouble::Absent));
            assert_eq!(objects.held_length(0x62_000), Err(Trouble::Absent));
        });
    }

    #[test]
    fn a_moved_key_is_searched_again() {
        let world = World::new();
        let (one, two) = (world.int(0x50_000, 1), world.int(0x50_100, 2));
        world.dict(0x70_000, &[("a", one), ("b", two)]);
        world.memory.put_words(0x61_000, &[1, OLD, 0x70_000]);
        let mut objects = world.done();
        assert_eq!(objects.attribute(0x61_000, "b"), Ok(two));
        let again = World {
            memory: std::mem::take(&mut objects.memory),
            layout: objects.layout,
        };
        again.dict(0x70_000, &[("other", one), ("a", one), ("b", two)]);
        objects.memory = again.memory;
        assert_eq!(objects.attribute(0x61_000, "b"), Ok(two));
    }

    #[test]
    fn reductions_of_one_path_share_its_values() {
        in_every_version(|world| {
            let (one, many) = (world.int(0x50_000, 1), world.int(0x50_100, 40));
            world.thing_keys(&["tokens"]);
            world.dict(
                0x70_000,
                &[("x", one), ("y", many), ("z", one), ("gone", 0)],
            );
            world.thing(0x60_000, &[0x70_000]);
            let mut objects = world.done();
            let all = [
                Reduce::Len,
                Reduce::Sum,
                Reduce::Max,
                Reduce::CountOne,
                Reduce::SumAboveOne,
                Reduce::Int,
            ];
            let values = objects.reduce(0x60_000, &path("tokens"), &all);
            assert_eq!(values, Ok(vec![3, 42, 40, 2, 40, UNKNOWN]));
            let values = objects.reduce(0x60_000, &path("absent"), &all[..1]);
            assert_eq!(values, Ok(vec![UNKNOWN]));
        });
    }

    #[test]
    fn the_lengths_of_containers_add_up() {
        in_every_version(|world| {
            let one = world.int(0x50_000, 1);
            let two = world.list(0x51_000, &[one, one]);
            let three = world.list(0x52_000, &[one, one, one]);
            let none = world.list(0x53_000, &[]);
            world.dict(0x70_000, &[("x", two), ("y", three), ("gone", 0)]);
            world.dict(0x71_000, &[]);
            world.dict(0x72_000, &[("x", two), ("y", two), ("z", none)]);
            world.dict(0x73_000, &[("x", two), ("y", one)]);
            world.thing_keys(&["drafts", "shared", "empty", "mixed"]);
            world.thing(0x60_000, &[0x70_000, 0x72_000, 0x71_000, 0x73_000]);
            let mut objects = world.done();
            let mut sum = |name| {
                let both = [Reduce::SumLen, Reduce::Len];
                objects.reduce(0x60_000, &path(name), &both)
            };
            assert_eq!(sum("drafts"), Ok(vec![5, 2]));
            assert_eq!(sum("shared"), Ok(vec![4, 3]));
            assert_eq!(sum("empty"), Ok(vec![0, 0]));
            // A number among them has no length, and nothing is guessed.
            assert_eq!(sum("mixed"), Ok(vec![UNKNOWN, 2]));
        });
    }

    #[test]
    fn an_attribute_of_each_element() {
        in_every_version(|world| {
            world.thing_keys(&["items", "size"]);
            let (two, five) = (world.int(0x50_000, 2), world.int(0x50_100, 5));
            let first = world.thing(0x61_000, &[0, two]);
            let second = world.thing(0x62_000, &[0, five]);
            world.list(0x70_000, &[first, second]);
            world.thing(0x60_000, &[0x70_000, two]);
            world.list(0x71_000, &[]);
            world.thing(0x63_000, &[0x71_000, two]);
            let mut objects = world.done();
            let both = [Reduce::Sum, Reduce::Len, Reduce::Max];
            let sums = objects.reduce(0x60_000, &path("items[].size"), &both);
            assert_eq!(sums, Ok(vec![7, 2, 5]));
            let none = objects.reduce(0x63_000, &path("items[].size"), &both);
            assert_eq!(none, Ok(vec![0, 0, UNKNOWN]));
        });
    }

    #[test]
    fn the_newest_batch_is_the_one_of_its_class_in_the_leftmost_tuple() {
        in_every_version(|world| {
            world.thing_keys(&["queue"]);
            let other = world.int(0x50_000, 7);
            let batch = world.thing(0x61_000, &[0]);
            let older = world.thing(0x62_000, &[0]);
            let tuple = world.tuple(0x71_000, &[other, batch]);
            let words = [1, DEQUE, 1, 0x73_000, 0x73_000, 5];
            world.memory.put_words(0x72_000, &words);
            world.memory.put_words(0x73_000 + 8 + 8 * 5, &[tuple]);
            world.thing(0x60_000, &[0x72_000]);
            world.memory.put_words(0x74_000, &[1, DEQUE, 0, 0, 0, 0]);
            world.thing(0x63_000, &[0x74_000]);
            let mut objects = world.done();
            let queue = path("queue").steps;
            assert_eq!(objects.newest(0x60_000, &queue, older), Ok(batch));
            assert_eq!(objects.newest(0x60_000, &queue, other), Ok(other));
            let empty = objects.newest(0x63_000, &queue, older);
            assert_eq!(empty, Err(Trouble::Absent));
        });
    }

    #[test]
    fn garbage_is_torn_or_absent_but_never_a_panic() {
        let mut state = 88172645463325252u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..300 {
            let world = World::new();
            let mut words: Vec<u64> = (0..400).map(|_| random()).collect();
            for word in words.iter_mut() {
                if *word % 3 == 0 {
                    *word = [INT, LIST, DICT, THING, OLD, 0x60_000][*word as usize % 6];
                }
            }
            world.memory.put_words(0x5f_000, &words);
            world.memory.put_words(0x60_000, &words);
            let mut objects = world.done();
            for at in (0x60_000..0x60_400).step_by(8) {
                let _ = objects.int(at);
                let _ = objects.resolve(at, &path("a.b").steps);
                let _ = objects.reduce(at, &path("a[].b"), &[Reduce::Sum, Reduce::Len]);
                if let Ok((shape, head)) = objects.inspect(at) {
                    let _ = objects
                        .elements(at, shape, &head)
                        .map(|all| objects.ints(&all));
                }
            }
        }
    }
}
