//! Sealing: personal data is stored only encrypted, under a key per subscriber, and forgetting
//! somebody means destroying that key.
//!
//! A sealed text is `1.<key id>.<nonce ‖ ciphertext ‖ tag>`, both parts base64url without padding,
//! encrypted with AES-256-GCM (NIST SP 800-38D). The associated data binds tenant, stream and
//! event, so a box can't be moved to another. Data keys are 32 random bytes, stored wrapped by
//! the master key in the same way.
//!
//! A key's id follows from tenant, subject and generation, so that it is found without an index
//! of its own; after an erasure the next generation begins.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lru::LruCache;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::LedgerError;
use super::coalesce::Coalescer;
use super::record::{StreamKey, TenantPlace};
use super::storage::{DataKeyPlace, Storage, StoredDataKey, UsedDataKey};
use crate::clock::Clock;
use crate::domain::event::Sealed;
use crate::domain::ids::{EventId, StreamId, SubscriberId, TenantId};
use crate::domain::sealing::Subject;
use crate::tasks::Tasks;

/// The form of sealed and wrapped texts.
const FORM: &str = "1";
/// Namespace of data-key ids.
const KEY_IDS: Uuid = Uuid::from_u128(0x6f1c_55c6_9a3b_4a53_8d1e_2f5d_9c1b_7e01);
/// A subscriber erased more often than this is being used to fill the table.
pub(super) const GENERATIONS_MAX: u32 = 10_000;

/// The key above all others. Comes from configuration and never leaves the process.
pub struct MasterKey {
    wrapping: LessSafeKey,
    deriving: hmac::Key,
}

/// A text that can't be opened with the key at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text does not open: it was sealed under another key, or altered")]
pub struct Unopenable;

/// No key material could be had from the operating system.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness;

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

impl MasterKey {
    /// # Errors
    ///
    /// [`Unopenable`] never happens for 32 bytes; it stands for a cipher that refuses the key.
    pub fn new(bytes: &[u8; 32]) -> Result<Self, Unopenable> {
        // One key per purpose, all from the same 32 bytes.
        let root = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let wrapping = hmac::sign(&root, b"notification-ledger/wrapping/1");
        let deriving = hmac::sign(&root, b"notification-ledger/deriving/1");
        Ok(Self {
            wrapping: cipher(wrapping.as_ref())?,
            deriving: hmac::Key::new(hmac::HMAC_SHA256, deriving.as_ref()),
        })
    }

    /// Encrypts `secret` for the place `context` names; it opens only with the same context.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] when the operating system gives no nonce.
    pub fn wrap(&self, context: &str, secret: &[u8]) -> Result<String, NoRandomness> {
        let mut wrapped = String::with_capacity(FORM.len() + 1 + sealed_length(secret));
        wrapped.push_str(FORM);
        wrapped.push('.');
        encrypt(&self.wrapping, context.as_bytes(), secret, &mut wrapped)?;
        Ok(wrapped)
    }

    /// Opens what [`Self::wrap`] made.
    ///
    /// # Errors
    ///
    /// [`Unopenable`] for another master key, another context or an altered text.
    pub fn unwrap(&self, context: &str, wrapped: &str) -> Result<Zeroizing<Vec<u8>>, Unopenable> {
        let (form, sealed) = wrapped.split_once('.').ok_or(Unopenable)?;
        if form != FORM {
            return Err(Unopenable);
        }
        decrypt(&self.wrapping, context.as_bytes(), sealed)
    }

    /// 32 bytes that follow from the master key and `context`: the same every time, unknown to
    /// anybody without the key.
    pub fn derive(&self, context: &str) -> Zeroizing<[u8; 32]> {
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(hmac::sign(&self.deriving, context.as_bytes()).as_ref());
        bytes
    }
}

fn cipher(bytes: &[u8]) -> Result<LessSafeKey, Unopenable> {
    let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| Unopenable)?;
    Ok(LessSafeKey::new(key))
}

/// Adds what is encrypted to `text`.
fn encrypt(
    key: &LessSafeKey,
    context: &[u8],
    plain: &[u8],
    text: &mut String,
) -> Result<(), NoRandomness> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new()
        .fill(&mut nonce)
        .map_err(|_| NoRandomness)?;
    let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let tag = key
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(context),
            &mut sealed[NONCE_LEN..],
        )
        .map_err(|_| NoRandomness)?;
    sealed.extend_from_slice(tag.as_ref());
    URL_SAFE_NO_PAD.encode_string(sealed, text);
    Ok(())
}

/// How many characters [`encrypt`] adds.
fn sealed_length(plain: &[u8]) -> usize {
    let bytes = NONCE_LEN + plain.len() + AES_256_GCM.tag_len();
    base64::encoded_len(bytes, false).unwrap_or_default()
}

fn decrypt(
    key: &LessSafeKey,
    context: &[u8],
    sealed: &str,
) -> Result<Zeroizing<Vec<u8>>, Unopenable> {
    let mut sealed = Zeroizing::new(URL_SAFE_NO_PAD.decode(sealed).map_err(|_| Unopenable)?);
    let (nonce, text) = sealed.split_at_mut_checked(NONCE_LEN).ok_or(Unopenable)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unopenable)?;
    let length = key
        .open_in_place(nonce, Aad::from(context), text)
        .map_err(|_| Unopenable)?
        .len();
    let end = NONCE_LEN + length;
    sealed.truncate(end);
    sealed.drain(..NONCE_LEN);
    Ok(sealed)
}

/// One subscriber's key.
struct DataKey {
    key_id: Uuid,
    cipher: LessSafeKey,
}

/// What the cache knows of a key.
#[derive(Clone)]
enum Known {
    Key {
        key: Arc<DataKey>,
        /// Set until an append has stored it.
        unstored: Option<StoredDataKey>,
        /// How many erasures its partition had seen when it was known to be on record.
        as_of: i64,
    },
    Erased,
}

/// What is known of a key, and since when.
struct Remembered {
    known: Known,
    /// When the database said so.
    read: Instant,
    /// When that was last found to be still so.
    confirmed: Instant,
}

impl Remembered {
    fn of(known: Known, read: Instant) -> Self {
        Self {
            known,
            read,
            confirmed: read,
        }
    }
}

/// What a text was sealed under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealedUnder {
    /// A key made for it, which must be stored in the same transaction.
    Made(StoredDataKey),
    /// A key on record, which must still be there in that transaction.
    Stored(UsedDataKey),
}

impl SealedUnder {
    /// The key that is still to be stored.
    pub fn made(self) -> Option<StoredDataKey> {
        match self {
            Self::Made(key) => Some(key),
            Self::Stored(_) => None,
        }
    }
}

/// Finds, makes and remembers data keys.
pub struct Keyring {
    master: Arc<MasterKey>,
    clock: Arc<dyn Clock>,
    stored: Coalescer<DataKeyPlace, Option<(StoredDataKey, i64)>>,
    /// Namespace of the subscribers' own streams: nobody outside can tell where they are.
    subscriber_streams: Uuid,
    cache: Mutex<LruCache<DataKeyPlace, Remembered>>,
    /// How long an erasure elsewhere may go unnoticed.
    cache_ttl: Duration,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").finish_non_exhaustive()
    }
}

/// How many times their time keys in use are believed to be there before they are read again.
const CONFIRMATIONS_MAX: u32 = 12;
/// Most keys remembered. About 300 bytes each.
const KEYS_REMEMBERED: std::num::NonZeroUsize = std::num::NonZeroUsize::new(20_000).unwrap();

impl Keyring {
    pub fn new(
        storage: Arc<dyn Storage>,
        master: Arc<MasterKey>,
        clock: Arc<dyn Clock>,
        cache_ttl: Duration,
        tasks: &Tasks,
    ) -> Self {
        let stored = Coalescer::start(tasks, move |places: Vec<DataKeyPlace>| {
            let storage = Arc::clone(&storage);
            async move {
                let found = storage.data_keys_as_of(&places).await?;
                Ok(found
                    .into_iter()
                    .map(|(key, as_of)| (key.place.clone(), Some((key, as_of))))
                    .collect::<HashMap<_, _>>())
            }
        });
        let mut namespace = [0; 16];
        namespace.copy_from_slice(&master.derive("subscriber-streams/1")[..16]);
        Self {
            subscriber_streams: Uuid::from_bytes(namespace),
            master,
            clock,
            stored,
            cache: Mutex::new(LruCache::new(KEYS_REMEMBERED)),
            cache_ttl,
        }
    }

    /// Where a subscriber's erasures are kept. Callers choose the ids of their notifications, so it
    /// follows from the master key as well: else somebody could be there first.
    pub fn subscriber_stream(
        &self,
        tenant_id: &TenantId,
        subscriber_id: &SubscriberId,
    ) -> StreamId {
        // Neither has control characters, so no two pairs give the same text.
        let name = format!("{tenant_id}\n{subscriber_id}");
        StreamId(Uuid::new_v5(&self.subscriber_streams, name.as_bytes()))
    }

    /// Seals `text` to one event, and says under which key.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when the key can't be read or made.
    pub async fn seal(
        &self,
        stream: &StreamKey,
        subject: &Subject,
        event_id: EventId,
        text: &str,
    ) -> Result<(Sealed, SealedUnder), LedgerError> {
        let (key, under) = self.current(stream, subject).await?;
        let context = context(stream, event_id);
        let plain = text.as_bytes();
        let mut text = String::with_capacity(PREFIX_LENGTH + sealed_length(plain));
        push_prefix(&mut text, key.key_id);
        encrypt(&key.cipher, &context, plain, &mut text).map_err(|_| LedgerError::NoRandomness)?;
        Ok((Sealed(text.into()), under))
    }

    /// Opens what was sealed to one event. `None` once the subject was erased.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Unopenable`] if the text was altered or moved.
    pub async fn open(
        &self,
        stream: &StreamKey,
        event_id: EventId,
        sealed: &Sealed,
    ) -> Result<Option<Zeroizing<String>>, LedgerError> {
        let (key_id, text) = parts(&sealed.0).ok_or(LedgerError::Unopenable)?;
        let place = DataKeyPlace {
            partition: stream.partition,
            tenant_id: stream.tenant_id.clone(),
            key_id,
        };
        let Some(Known::Key { key, .. }) = self.on_record(&place).await? else {
            // Erased; or never stored, which only an erasure of its row could explain.
            return Ok(None);
        };
        let plain = decrypt(&key.cipher, &context(stream, event_id), text)
            .map_err(|_| LedgerError::Unopenable)?;
        let text = String::from_utf8(plain.to_vec()).map_err(|_| LedgerError::Unopenable)?;
        Ok(Some(Zeroizing::new(text)))
    }

    /// Whether what was sealed is gone for good.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when the key can't be read.
    pub async fn is_erased(
        &self,
        stream: &StreamKey,
        sealed: &Sealed,
    ) -> Result<bool, LedgerError> {
        let place = DataKeyPlace {
            partition: stream.partition,
            tenant_id: stream.tenant_id.clone(),
            key_id: key_id(sealed).ok_or(LedgerError::Unopenable)?,
        };
        let known = self.on_record(&place).await?;
        Ok(!matches!(known, Some(Known::Key { .. })))
    }

    /// An append that was planned then has stored these keys, when their partition had seen so many
    /// erasures.
    pub fn stored(&self, keys: &[StoredDataKey], erasures: i64, then: Instant) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            // It may hold another one by now, which is still to be stored.
            if let Some(Remembered {
                known: Known::Key {
                    unstored, as_of, ..
                },
                confirmed,
                ..
            }) = cache.peek_mut(&key.place)
                && unstored.as_ref() == Some(key)
            {
                *unstored = None;
                *as_of = erasures;
                *confirmed = then;
            }
        }
    }

    /// An append that was planned then has found that these keys were not destroyed, when their
    /// partition had seen so many erasures. Now and then they are read again all the same: a ledger
    /// that is restored under a running process has lost its last ones.
    pub fn living(&self, keys: &[UsedDataKey], erasures: i64, then: Instant) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            if let Some(Remembered {
                known: Known::Key { as_of, .. },
                read,
                confirmed,
            }) = cache.peek_mut(&key.place)
                && *as_of == key.as_of
            {
                *as_of = erasures;
                if read.elapsed() < CONFIRMATIONS_MAX * self.cache_ttl {
                    *confirmed = then.max(*confirmed);
                }
            }
        }
    }

    /// These keys turned out to be others, or erased: ask again.
    pub fn forget<'a>(&self, keys: impl IntoIterator<Item = &'a DataKeyPlace>) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        for place in keys {
            cache.pop(place);
        }
    }

    /// These keys were just destroyed. Whoever is reading one of them at this moment must not put
    /// it back.
    pub fn destroyed(&self, keys: &[DataKeyPlace]) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        for place in keys {
            cache.put(place.clone(), Remembered::of(Known::Erased, Instant::now()));
        }
    }

    /// The subject's living key: a stored one, else a new one.
    async fn current(
        &self,
        stream: &StreamKey,
        subject: &Subject,
    ) -> Result<(Arc<DataKey>, SealedUnder), LedgerError> {
        for generation in 0..GENERATIONS_MAX {
            let place = place(stream, subject, generation);
            match self.known(&place).await? {
                Some((Known::Erased, _)) => {}
                Some((
                    Known::Key {
                        key,
                        unstored,
                        as_of,
                    },
                    since,
                )) => {
                    let used = UsedDataKey {
                        place,
                        as_of,
                        since,
                    };
                    let under = unstored.map_or(SealedUnder::Stored(used), SealedUnder::Made);
                    return Ok((key, under));
                }
                None => return self.make(place),
            }
        }
        Err(LedgerError::TooManyErasures)
    }

    /// From the cache, else from the database.
    async fn known(&self, place: &DataKeyPlace) -> Result<Option<(Known, Instant)>, LedgerError> {
        if let Some(known) = self.cached(place) {
            return Ok(Some(known));
        }
        let loaded = self.load(place).await?;
        // Another command of this process may have just made it.
        Ok(loaded.or_else(|| self.cached(place)))
    }

    /// The key that events on record were sealed under. One that was made here and is not stored
    /// yet may never be: its command may have turned out to be a repeat, while another process
    /// stored a key of its own.
    async fn on_record(&self, place: &DataKeyPlace) -> Result<Option<Known>, LedgerError> {
        match self.cached(place) {
            None
            | Some((
                Known::Key {
                    unstored: Some(_), ..
                },
                _,
            )) => Ok(self.load(place).await?.map(|(known, _)| known)),
            known => Ok(known.map(|(known, _)| known)),
        }
    }

    /// From the database, and into the cache.
    async fn load(&self, place: &DataKeyPlace) -> Result<Option<(Known, Instant)>, LedgerError> {
        let asked = Instant::now();
        let Some((stored, as_of)) = self.stored.get(place.clone()).await? else {
            return Ok(None);
        };
        let known = match &stored.wrapped_key {
            None => Known::Erased,
            Some(wrapped) => {
                let bytes = self.master.unwrap(&wrapping_context(place), wrapped)?;
                Known::Key {
                    key: Arc::new(DataKey {
                        key_id: place.key_id,
                        cipher: cipher(&bytes)?,
                    }),
                    unstored: None,
                    as_of,
                }
            }
        };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        // It was destroyed while it was read.
        if let Some(Known::Erased) = cache.peek(place).map(|remembered| &remembered.known) {
            return Ok(Some((Known::Erased, asked)));
        }
        cache.put(place.clone(), Remembered::of(known.clone(), asked));
        Ok(Some((known, asked)))
    }

    fn cached(&self, place: &DataKeyPlace) -> Option<(Known, Instant)> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let Remembered {
            known, confirmed, ..
        } = cache.get(place)?;
        // One that is not stored yet can't have been erased.
        let unstored = matches!(
            known,
            Known::Key {
                unstored: Some(_),
                ..
            }
        );
        if unstored || confirmed.elapsed() < self.cache_ttl {
            return Some((known.clone(), *confirmed));
        }
        // A key that turns out to be gone from the database must not pass for a new one.
        cache.pop(place);
        None
    }

    fn make(&self, place: DataKeyPlace) -> Result<(Arc<DataKey>, SealedUnder), LedgerError> {
        let mut bytes = Zeroizing::new([0; 32]);
        SystemRandom::new()
            .fill(bytes.as_mut())
            .map_err(|_| LedgerError::NoRandomness)?;
        let wrapped = self
            .master
            .wrap(&wrapping_context(&place), bytes.as_ref())
            .map_err(|_| LedgerError::NoRandomness)?;
        let stored = StoredDataKey {
            place: place.clone(),
            wrapped_key: Some(wrapped),
            created_at: self.clock.now(),
        };
        let new = Known::Key {
            key: Arc::new(DataKey {
                key_id: place.key_id,
                cipher: cipher(bytes.as_ref())?,
            }),
            unstored: Some(stored),
            as_of: 0,
        };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let standing = cache.get_or_insert(place.clone(), || Remembered::of(new, Instant::now()));
        match &standing.known {
            Known::Key {
                key,
                unstored,
                as_of,
            } => {
                let used = UsedDataKey {
                    place,
                    as_of: *as_of,
                    since: standing.confirmed,
                };
                let made = unstored.clone().map(SealedUnder::Made);
                Ok((Arc::clone(key), made.unwrap_or(SealedUnder::Stored(used))))
            }
            Known::Erased => Err(LedgerError::TooManyErasures),
        }
    }
}

/// Where the key of a subject's generation lives.
pub fn place(stream: &StreamKey, subject: &Subject, generation: u32) -> DataKeyPlace {
    let tenant_id = &stream.tenant_id;
    let (tenant, generation) = (tenant_id.as_str(), &generation.to_string());
    let name = match subject {
        Subject::Subscriber(id) => {
            [tenant, "\n", generation, "\nsubscriber\n", id.as_str()].concat()
        }
        Subject::Stream => format!("{tenant}\n{generation}\nstream\n{}", stream.stream_id),
    };
    DataKeyPlace {
        partition: stream.partition,
        tenant_id: tenant_id.clone(),
        key_id: Uuid::new_v5(&KEY_IDS, name.as_bytes()),
    }
}

/// A place for sealing what belongs to no stream, such as a quarantined webhook.
pub fn outside_streams(tenant: &TenantPlace, owner: Uuid) -> StreamKey {
    StreamKey {
        partition: tenant.partition,
        tenant_id: tenant.tenant_id.clone(),
        stream_id: StreamId(owner),
    }
}

/// The id of the key that something is sealed under.
pub fn key_id(sealed: &Sealed) -> Option<Uuid> {
    parts(&sealed.0).map(|(key_id, _)| key_id)
}

/// Stands where something sealed was, and never opens: no key has this id.
pub fn nothing() -> Sealed {
    let mut text = String::with_capacity(PREFIX_LENGTH);
    push_prefix(&mut text, Uuid::nil());
    Sealed(text.into())
}

/// Of a sealed text, the form, the key's id, and the dots after them.
const PREFIX_LENGTH: usize = 25;

fn push_prefix(text: &mut String, key_id: Uuid) {
    text.push_str(FORM);
    text.push('.');
    URL_SAFE_NO_PAD.encode_string(key_id.as_bytes(), text);
    text.push('.');
}

fn wrapping_context(place: &DataKeyPlace) -> String {
    let mut key_id = Uuid::encode_buffer();
    let key_id = place.key_id.hyphenated().encode_lower(&mut key_id);
    ["data-key/", place.tenant_id.as_str(), "/", key_id].concat()
}

/// What a box is bound to.
fn context(stream: &StreamKey, event_id: EventId) -> Vec<u8> {
    let mut context = Vec::with_capacity(32 + stream.tenant_id.as_str().len());
    context.extend_from_slice(stream.stream_id.0.as_bytes());
    context.extend_from_slice(event_id.0.as_bytes());
    context.extend_from_slice(stream.tenant_id.as_str().as_bytes());
    context
}

fn parts(sealed: &str) -> Option<(Uuid, &str)> {
    let (key_id, text) = sealed
        .strip_prefix(FORM)?
        .strip_prefix('.')?
        .split_once('.')?;
    let bytes: [u8; 16] = URL_SAFE_NO_PAD.decode(key_id).ok()?.try_into().ok()?;
    Some((Uuid::from_bytes(bytes), text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::System;
    use crate::domain::ids::TenantId;
    use crate::ledger::memory::MemoryStorage;
    use crate::ledger::record::Partition;

    fn keyring(storage: &Arc<dyn Storage>) -> Keyring {
        let master = Arc::new(MasterKey::new(&[7; 32]).unwrap());
        let ttl = Duration::from_secs(5);
        Keyring::new(
            Arc::clone(storage),
            master,
            Arc::new(System),
            ttl,
            &Tasks::new(),
        )
    }

    #[tokio::test]
    async fn a_key_that_was_never_stored_is_not_used_for_opening() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(1, Uuid::nil()));
        let (here, elsewhere) = (keyring(&storage), keyring(&storage));
        let tenant = TenantPlace {
            tenant_id: TenantId::new("acme").unwrap(),
            partition: Partition(0),
        };
        let stream = tenant.stream(StreamId(Uuid::from_u128(1)));
        let (subject, event_id) = (Subject::Stream, EventId(Uuid::from_u128(2)));
        // Made for a command that then turned out to be a repeat of one elsewhere.
        here.seal(&stream, &subject, event_id, "never appended")
            .await
            .unwrap();

        let sealed = elsewhere
            .seal(&stream, &subject, event_id, "on record")
            .await;
        let (sealed, made) = sealed.unwrap();
        storage.add_data_key(&made.made().unwrap()).await.unwrap();

        let opened = here
            .open(&stream, event_id, &sealed)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(opened.as_str(), "on record");
        // From now on this is the subject's key here as well.
        let (_, made) = here
            .seal(&stream, &subject, event_id, "next")
            .await
            .unwrap();
        assert_eq!(made.made(), None);
    }

    #[test]
    fn a_wrapped_secret_opens_only_in_its_place_and_under_its_key() {
        let master = MasterKey::new(&[7; 32]).unwrap();
        let wrapped = master.wrap("here", b"secret").unwrap();

        assert_eq!(
            master.unwrap("here", &wrapped).unwrap().as_slice(),
            b"secret"
        );
        assert_eq!(master.unwrap("there", &wrapped), Err(Unopenable));
        let other = MasterKey::new(&[8; 32]).unwrap();
        assert_eq!(other.unwrap("here", &wrapped), Err(Unopenable));
    }

    #[test]
    fn an_altered_text_does_not_open() {
        let master = MasterKey::new(&[7; 32]).unwrap();
        let wrapped = master.wrap("here", b"secret").unwrap();

        for at in 2..wrapped.len() {
            let mut altered = wrapped.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            assert_eq!(
                master.unwrap("here", &altered),
                Err(Unopenable),
                "byte {at}"
            );
        }
        for short in ["", "1", "1.", "1.AAAA", "2.AAAA"] {
            assert_eq!(master.unwrap("here", short), Err(Unopenable), "{short}");
        }
    }
}
