//! The form of a key's secret: `nl_` and 32 bytes in base64url without padding.
//!
//! An operator's begins with `nlop_`, so that a scanner that finds a leaked one can tell how bad
//! it is. What is stored is the SHA-256 of the whole text. That needs no salt and no slow hash:
//! nobody can guess 32 bytes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::ledger::record::Hash;
use crate::ledger::sealing::NoRandomness;

const TENANT_PREFIX: &str = "nl_";
const OPERATOR_PREFIX: &str = "nlop_";
/// What 32 bytes come to in base64url without padding.
const ENCODED_CHARS: usize = 43;

pub(super) fn written(is_operator: bool, bytes: &Zeroizing<[u8; 32]>) -> SecretString {
    let prefix = if is_operator {
        OPERATOR_PREFIX
    } else {
        TENANT_PREFIX
    };
    // As long as it will be, so that no copy is left behind when it grows.
    let mut text = String::with_capacity(prefix.len() + ENCODED_CHARS);
    text.push_str(prefix);
    URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
    SecretString::from(text)
}

/// # Errors
///
/// [`NoRandomness`] when the operating system gives none.
pub(super) fn random() -> Result<Zeroizing<[u8; 32]>, NoRandomness> {
    let mut bytes = Zeroizing::new([0; 32]);
    SystemRandom::new()
        .fill(bytes.as_mut())
        .map_err(|_| NoRandomness)?;
    Ok(bytes)
}

pub(super) fn hash(secret: &str) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    hash
}

/// Anything else can't be a secret, and is neither hashed nor looked up.
pub(super) fn has_its_form(text: &str) -> bool {
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    [TENANT_PREFIX, OPERATOR_PREFIX]
        .into_iter()
        .filter_map(|prefix| text.strip_prefix(prefix))
        .any(|rest| rest.len() == ENCODED_CHARS && rest.bytes().all(is_base64url))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_secret_shows_whose_it_is() {
        let bytes = Zeroizing::new([0xFF; 32]);

        let encoded = format!("{}8", "_".repeat(42));
        assert_eq!(
            written(false, &bytes).expose_secret(),
            format!("nl_{encoded}")
        );
        assert_eq!(
            written(true, &bytes).expose_secret(),
            format!("nlop_{encoded}")
        );
    }

    #[test]
    fn only_texts_of_the_right_form_are_looked_up() {
        let rest = "a".repeat(43);
        for good in [format!("nl_{rest}"), format!("nlop_{rest}")] {
            assert!(has_its_form(&good), "{good}");
        }
        let cut = "a".repeat(41);
        for bad in [
            String::new(),
            "nl_".into(),
            rest.clone(),
            format!("nk_{rest}"),
            format!("nl_{rest}a"),
            format!("nl_{cut}"),
            format!("nl_{cut}é"),
            format!("nl_{cut}+/"),
            format!("NL_{rest}"),
        ] {
            assert!(!has_its_form(&bad), "{bad}");
        }
    }

    #[test]
    fn no_two_random_secrets_are_the_same() {
        assert_ne!(random().unwrap(), random().unwrap());
    }
}
