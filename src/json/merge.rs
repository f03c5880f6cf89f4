//! One object written over another one, as text: what stays as it is need not be understood.

use std::cmp::Ordering;

use bytes::Bytes;

use super::scanner::{Member, Members, NotAnObject};

/// The text of the object `current` with the members of `patch` written over it: objects are merged deeply, everything else is
/// replaced. `None` where the members of either cannot be compared as they stand: they have to be in order, each once, under names
/// without escapes. What is only in one of them, or the same in both, is taken as it is, and not looked into.
pub fn merged(current: &[u8], patch: &[u8]) -> Option<Bytes> {
    let (text, result) = super::written(|text| write_merged(current, patch, text));
    result.ok().map(|()| text)
}

/// The members of an object cannot be compared with others as they stand.
struct NotInOrder;

impl From<NotAnObject> for NotInOrder {
    fn from(_: NotAnObject) -> Self {
        Self
    }
}

/// Members whose names follow each other.
struct Ordered<'t> {
    members: Members<'t>,
    next: Option<Member<'t>>,
}

impl<'t> Ordered<'t> {
    fn of(text: &'t [u8]) -> Result<Self, NotInOrder> {
        let mut ordered = Self { members: Members::of(text)?, next: None };
        ordered.take()?;
        Ok(ordered)
    }

    /// The member that is next, and on to the one behind it.
    fn take(&mut self) -> Result<Option<Member<'t>>, NotInOrder> {
        let next = self.members.next().transpose()?;
        let is_in_order =
            |member: &Member<'_>| !member.is_name_escaped && self.next.is_none_or(|before| before.name < member.name);
        if next.as_ref().is_some_and(|member| !is_in_order(member)) {
            return Err(NotInOrder);
        }
        Ok(std::mem::replace(&mut self.next, next))
    }
}

fn write_merged(current: &[u8], patch: &[u8], text: &mut Vec<u8>) -> Result<(), NotInOrder> {
    let (mut current, mut patch) = (Ordered::of(current)?, Ordered::of(patch)?);
    let begin = text.len();
    text.push(b'{');
    loop {
        let order = match (&current.next, &patch.next) {
            (Some(old), Some(new)) => old.name.cmp(new.name),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => break,
        };
        let old = if order.is_le() { current.take()? } else { None };
        let new = if order.is_ge() { patch.take()? } else { None };
        let Some(member) = new.or(old) else { break };
        if text.len() > begin + 1 {
            text.push(b',');
        }
        text.push(b'"');
        text.extend_from_slice(member.name);
        text.extend_from_slice(b"\":");
        match (old, new) {
            (Some(old), Some(new)) if old.value != new.value && are_merged(old.value, new.value)? => {
                write_merged(old.value, new.value, text)?;
            }
            _ => text.extend_from_slice(member.value),
        }
    }
    text.push(b'}');
    Ok(())
}

/// Whether both are objects, and neither is a value of another kind.
fn are_merged(old: &[u8], new: &[u8]) -> Result<bool, NotInOrder> {
    Ok(has_members_of_its_own(old)? && has_members_of_its_own(new)?)
}

/// RethinkDB writes times and binary data as objects that are one value, never to be merged member by member.
fn has_members_of_its_own(value: &[u8]) -> Result<bool, NotInOrder> {
    if value.first() != Some(&b'{') {
        return Ok(false);
    }
    for member in Members::of(value)? {
        if member?.name == b"$reql_type$" {
            return Ok(false);
        }
    }
    Ok(true)
}
