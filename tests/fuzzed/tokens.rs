//! Tokens that clients send: only those that were sealed here are opened, and as what they were.

use starfeed::change::{Epoch, Key, Seq};
use starfeed::store::StoreSecret;
use starfeed::summary::Summary;
use starfeed::token::{Place, Token, TokenError, TokenSeal};
use starfeed::view::Scope;

use super::input::Input;

pub(crate) fn target(data: &[u8]) {
    thread_local! {
        static SEALS: [TokenSeal; 2] = [1, 2].map(|byte| TokenSeal::new(StoreSecret([byte; 32])));
    }
    SEALS.with(|[seal, other]| {
        assert!(seal.open(data).is_err(), "a token was opened that nobody sealed");
        let mut input = Input(data);
        let token = token(&mut input);
        let sealed = seal.seal(&token);
        assert_eq!(seal.open(&sealed), Ok(token));
        assert_eq!(other.open(&sealed), Err(TokenError::OtherServer));
        let changed = changed(&sealed, &mut input);
        if changed != sealed {
            assert!(seal.open(&changed).is_err(), "a token was opened that was changed");
        }
    });
}

fn token(input: &mut Input<'_>) -> Token {
    let has_key = input.byte() % 2 == 1;
    let epoch = Epoch(u128::from_be_bytes(input.array()));
    let scope = Scope(input.array());
    let summary = Summary { count: input.number(), digest: input.number() };
    let seq = Seq(input.number());
    let place = if has_key {
        let len = usize::from(input.byte());
        Place::UpTo(Key::from_stored(input.bytes(len).to_vec()), seq)
    } else {
        Place::At(seq)
    };
    Token { epoch, scope, place, summary }
}

/// `sealed` with some of its bytes changed, and cut or longer.
fn changed(sealed: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let mut changed = sealed.to_vec();
    match input.byte() {
        0 => {}
        1 => changed.truncate(usize::from(input.byte())),
        2 => changed.extend_from_slice(input.bytes(16)),
        _ => {
            while !input.is_empty() {
                let at = usize::from(input.byte()) % changed.len();
                changed[at] ^= input.byte();
            }
        }
    }
    changed
}
