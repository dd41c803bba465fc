//! The key that wraps every data key, and where it comes from.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use secrecy::{ExposeSecret, SecretBox};
use zeroize::Zeroizing;

use super::database_url::DatabaseUrl;
use super::settings::{MASTER_KEY, MASTER_KEY_FILE};
use super::sources::{Sources, path, read_bounded};

/// Length of the master key: 256 bits, for the AEAD that wraps data keys.
pub const MASTER_KEY_BYTES: usize = 32;

/// The master key itself. Never displayed, and wiped from memory when dropped.
#[derive(Debug)]
pub struct MasterKeyBytes(SecretBox<[u8; MASTER_KEY_BYTES]>);

impl MasterKeyBytes {
    /// Takes a key, such as one read from the file beside the database.
    pub fn new(key: [u8; MASTER_KEY_BYTES]) -> Self {
        let key = Zeroizing::new(key);
        Self(SecretBox::new(Box::new(*key)))
    }

    /// Reads base64, with or without its padding; white space around it is ignored.
    pub fn from_base64(text: &str) -> Option<Self> {
        let decoded = Zeroizing::new(LENIENT.decode(text.trim()).ok()?);

        Some(Self::new(decoded.as_slice().try_into().ok()?))
    }

    pub fn expose(&self) -> &[u8; MASTER_KEY_BYTES] {
        self.0.expose_secret()
    }
}

impl Clone for MasterKeyBytes {
    fn clone(&self) -> Self {
        Self::new(*self.expose())
    }
}

/// Some tools leave the padding out.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Where the master key is to be had.
#[derive(Debug, Clone)]
pub enum MasterKeySource {
    /// The operator gave it.
    Given(MasterKeyBytes),
    /// It lies in this file beside the SQLite database, and is created there with a new
    /// ledger.
    File(PathBuf),
    /// There is none, and the work at hand was said to need none.
    Absent,
}

/// Whether the work at hand seals or unseals anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyNeed {
    Required,
    Optional,
}

const EXPECTED: &str = "base64 of 32 bytes, as `openssl rand -base64 32` prints it";

/// The key that was given, or the file beside an SQLite database.
///
/// PostgreSQL without a key, or two keys, is a fault; what is answered then is a
/// stand-in that nobody sees.
pub(super) fn source(
    sources: &mut Sources<'_>,
    database_url: &DatabaseUrl,
    need: KeyNeed,
) -> MasterKeySource {
    let given = match (
        sources.is_given(&MASTER_KEY),
        sources.is_given(&MASTER_KEY_FILE),
    ) {
        (true, true) => {
            let sentence = "given together with master_key; give only one of them";
            sources.fault(&MASTER_KEY_FILE, sentence.to_owned());
            None
        }
        (true, false) => sources.optional(&MASTER_KEY, base64),
        (false, true) => from_file(sources),
        (false, false) => {
            if database_url.sqlite_path().is_none() && need == KeyNeed::Required {
                let sentence = format!("required with PostgreSQL; set it to {EXPECTED}");
                sources.fault(&MASTER_KEY, sentence);
            }
            None
        }
    };

    match (given, database_url.sqlite_path()) {
        (Some(key), _) => MasterKeySource::Given(key),
        (None, Some(path)) => MasterKeySource::File(beside(path)),
        (None, None) => MasterKeySource::Absent,
    }
}

fn base64(text: &str) -> Result<MasterKeyBytes, String> {
    MasterKeyBytes::from_base64(text).ok_or_else(|| EXPECTED.to_owned())
}

fn from_file(sources: &mut Sources<'_>) -> Option<MasterKeyBytes> {
    let file = sources.optional(&MASTER_KEY_FILE, path)?;

    let sentence = match read_bounded(&file).map(Zeroizing::new) {
        Ok(text) => match MasterKeyBytes::from_base64(&text) {
            Some(key) => return Some(key),
            None => format!("`{}` does not hold {EXPECTED}", file.display()),
        },
        Err(error) => format!("cannot read `{}`: {error}", file.display()),
    };
    sources.fault(&MASTER_KEY_FILE, sentence);
    None
}

/// `data/ledger.db` has its key in `data/ledger.db.key`.
fn beside(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".key");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn base64_of_32_bytes_is_a_key_with_and_without_padding() {
        let key = MasterKeyBytes::from_base64(KEY).unwrap();
        let bare = MasterKeyBytes::from_base64(KEY.trim_end_matches('=')).unwrap();
        let with_newline = MasterKeyBytes::from_base64(&format!("{KEY}\n")).unwrap();

        assert_eq!(key.expose()[31], 31);
        assert_eq!(bare.expose(), key.expose());
        assert_eq!(with_newline.expose(), key.expose());
    }

    #[test]
    fn other_lengths_and_alphabets_are_refused() {
        assert!(MasterKeyBytes::from_base64("").is_none());
        assert!(MasterKeyBytes::from_base64("AAEC").is_none());
        assert!(MasterKeyBytes::from_base64(&KEY.repeat(2)).is_none());
        assert!(MasterKeyBytes::from_base64(&"ab".repeat(32)).is_none());
    }

    #[test]
    fn a_key_is_never_shown() {
        let source = MasterKeySource::Given(MasterKeyBytes::new([7; 32]));
        let shown = format!("{source:?}");

        assert!(!shown.contains('7'), "{shown}");
    }

    #[test]
    fn the_key_of_an_embedded_ledger_lies_beside_it() {
        assert_eq!(
            beside(Path::new("data/ledger.db")),
            Path::new("data/ledger.db.key")
        );
    }
}
