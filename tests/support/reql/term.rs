//! The numbers of the terms that the server knows.

pub(super) const MAKE_ARRAY: u64 = 2;
pub(super) const VAR: u64 = 10;
pub(super) const ERROR: u64 = 12;
pub(super) const DB: u64 = 14;
pub(super) const TABLE: u64 = 15;
pub(super) const GET: u64 = 16;
pub(super) const EQ: u64 = 17;
pub(super) const NE: u64 = 18;
pub(super) const LT: u64 = 19;
pub(super) const LE: u64 = 20;
pub(super) const GT: u64 = 21;
pub(super) const GE: u64 = 22;
pub(super) const NOT: u64 = 23;
pub(super) const GET_FIELD: u64 = 31;
pub(super) const HAS_FIELDS: u64 = 32;
pub(super) const PLUCK: u64 = 33;
pub(super) const WITHOUT: u64 = 34;
pub(super) const MERGE: u64 = 35;
pub(super) const FILTER: u64 = 39;
pub(super) const ORDER_BY: u64 = 41;
pub(super) const COUNT: u64 = 43;
pub(super) const UNION: u64 = 44;
pub(super) const COERCE_TO: u64 = 51;
pub(super) const TYPE_OF: u64 = 52;
pub(super) const UPDATE: u64 = 53;
pub(super) const DELETE: u64 = 54;
pub(super) const REPLACE: u64 = 55;
pub(super) const INSERT: u64 = 56;
pub(super) const DB_CREATE: u64 = 57;
pub(super) const DB_DROP: u64 = 58;
pub(super) const DB_LIST: u64 = 59;
pub(super) const TABLE_CREATE: u64 = 60;
pub(super) const TABLE_DROP: u64 = 61;
pub(super) const TABLE_LIST: u64 = 62;
pub(super) const BRANCH: u64 = 65;
pub(super) const OR: u64 = 66;
pub(super) const AND: u64 = 67;
pub(super) const FUNC: u64 = 69;
pub(super) const SKIP: u64 = 70;
pub(super) const LIMIT: u64 = 71;
pub(super) const ASC: u64 = 73;
pub(super) const DESC: u64 = 74;
pub(super) const INDEX_CREATE: u64 = 75;
pub(super) const INDEX_LIST: u64 = 77;
pub(super) const GET_ALL: u64 = 78;
pub(super) const INFO: u64 = 79;
pub(super) const DEFAULT: u64 = 92;
pub(super) const CONTAINS: u64 = 93;
pub(super) const INDEX_WAIT: u64 = 140;
pub(super) const CHANGES: u64 = 152;
pub(super) const BRACKET: u64 = 170;
pub(super) const WAIT: u64 = 177;
pub(super) const MINVAL: u64 = 180;
pub(super) const MAXVAL: u64 = 181;
pub(super) const BETWEEN: u64 = 182;

/// A term taken apart. What is not an array is a value, and has no number.
#[derive(Clone, Copy)]
pub(super) struct Term<'a> {
    pub(super) number: u64,
    pub(super) arguments: &'a [serde_json::Value],
    options: Option<&'a serde_json::Map<String, serde_json::Value>>,
}

impl<'a> Term<'a> {
    pub(super) fn of(value: &'a serde_json::Value) -> Option<Self> {
        let parts = value.as_array()?;
        let number = parts.first()?.as_u64()?;
        let arguments = parts.get(1).and_then(serde_json::Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Some(Self { number, arguments, options: parts.get(2).and_then(serde_json::Value::as_object) })
    }

    pub(super) fn option(&self, name: &str) -> Option<&'a serde_json::Value> {
        self.options?.get(name)
    }
}
