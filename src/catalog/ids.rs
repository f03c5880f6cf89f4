//! The ids of rows: 16 bytes in a message, text in a row.

use uuid::Uuid;

use crate::change::Key;

/// Bytes that a key of text may have; the database takes no longer ones.
pub(super) const KEY_BYTES_MAX: usize = 127;

/// The id in the field `name` of a request, which must have one.
pub(super) fn required(name: &str, bytes: &[u8]) -> Result<Uuid, String> {
    Uuid::from_slice(bytes).map_err(|_| format!("Invalid {name}: must be 16 bytes"))
}

/// The id in the field `name` of a request. Absent and empty mean the same: no id.
pub(super) fn optional(name: &str, bytes: Option<&[u8]>) -> Result<Option<Uuid>, String> {
    match bytes {
        None | Some([]) => Ok(None),
        Some(bytes) => required(name, bytes).map(Some),
    }
}

/// The key of the row with this id.
pub(super) fn key(id: Uuid) -> Key {
    Key::text(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
}

/// Whether a text can be a key in every database behind this server.
pub(super) fn is_key(text: &str) -> bool {
    text.len() <= KEY_BYTES_MAX && !text.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_sixteen_bytes_or_none() {
        assert_eq!(optional("policy_id", None), Ok(None));
        assert_eq!(optional("policy_id", Some(&[])), Ok(None));
        assert_eq!(optional("policy_id", Some(&[1; 16])), Ok(Some(Uuid::from_bytes([1; 16]))));
        for length in [1, 15, 17] {
            let text = "Invalid policy_id: must be 16 bytes".to_owned();
            assert_eq!(optional("policy_id", Some(&vec![1; length])), Err(text));
        }
        assert_eq!(required("schedule_id", &[]), Err("Invalid schedule_id: must be 16 bytes".to_owned()));
    }

    #[test]
    fn a_key_is_written_one_way() {
        let id = Uuid::from_bytes(*b"\x12\x34\x56\x78\x12\x34\x56\x78\x12\x34\x56\x78\xab\xcd\xef\x00");
        assert_eq!(key(id), Key::text("12345678-1234-5678-1234-5678abcdef00"));
    }
}
