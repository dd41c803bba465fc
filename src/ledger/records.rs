//! Rows on their way into PostgreSQL, as one array of a row type: the database takes it apart once,
//! where an array for each column is taken apart and kept for itself.

use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgBindIterExt, PgTypeInfo};
use sqlx::{Postgres, Type};
use uuid::Uuid;

/// Types by number, which never changes: those of `pg_type.dat`.
mod oid {
    pub(super) const BOOL: u32 = 16;
    pub(super) const BYTEA: u32 = 17;
    pub(super) const INT8: u32 = 20;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const TEXT: u32 = 25;
    pub(super) const JSON: u32 = 114;
    pub(super) const UUID: u32 = 2950;
}

/// A parameter: rows as an array of a row type.
pub(crate) struct Records<R> {
    /// A type of the migrations.
    row_type: &'static str,
    rows: R,
}

impl<R> Records<R> {
    /// `rows` write the fields of `row_type`, in its order.
    pub(crate) fn new(row_type: &'static str, rows: R) -> Self {
        Self { row_type, rows }
    }
}

/// Something that can be a row.
pub(crate) trait Record {
    /// Writes all of its fields, in the order of its type.
    fn write(&self, fields: &mut Fields<'_>);
}

/// The fields of one row, as `record_send` has them: each with its type and its length.
pub(crate) struct Fields<'a> {
    bytes: &'a mut PgArgumentBuffer,
    count: i32,
}

impl Fields<'_> {
    pub(crate) fn small(&mut self, value: Option<i16>) {
        self.fixed(oid::INT2, value.map(i16::to_be_bytes));
    }

    pub(crate) fn int(&mut self, value: Option<i32>) {
        self.fixed(oid::INT4, value.map(i32::to_be_bytes));
    }

    pub(crate) fn big(&mut self, value: Option<i64>) {
        self.fixed(oid::INT8, value.map(i64::to_be_bytes));
    }

    pub(crate) fn bool(&mut self, value: Option<bool>) {
        self.fixed(oid::BOOL, value.map(|value| [u8::from(value)]));
    }

    pub(crate) fn uuid(&mut self, value: Option<Uuid>) {
        self.fixed(oid::UUID, value.map(Uuid::into_bytes));
    }

    pub(crate) fn text(&mut self, value: Option<&str>) {
        self.sized(oid::TEXT, value.map(str::as_bytes));
    }

    pub(crate) fn json(&mut self, value: &str) {
        self.sized(oid::JSON, Some(value.as_bytes()));
    }

    pub(crate) fn blob(&mut self, value: &[u8]) {
        self.sized(oid::BYTEA, Some(value));
    }

    fn fixed<const N: usize>(&mut self, oid: u32, value: Option<[u8; N]>) {
        self.sized(oid, value.as_ref().map(<[u8; N]>::as_slice));
    }

    fn sized(&mut self, oid: u32, value: Option<&[u8]>) {
        self.count += 1;
        self.bytes.extend_from_slice(&oid.to_be_bytes());
        // A parameter of 2 GiB does not get as far as here.
        let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap_or(i32::MAX));
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(value.unwrap_or_default());
    }
}

/// One row of [`Records`].
struct Row<R> {
    row_type: &'static str,
    row: R,
}

impl<R> Type<Postgres> for Records<R> {
    /// Which one it is, `produces` says.
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("record[]")
    }
}

impl<R> Encode<'_, Postgres> for Records<R>
where
    R: IntoIterator<Item: Record> + Clone,
{
    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::array_of(self.row_type))
    }

    fn encode_by_ref(&self, bytes: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let row_type = self.row_type;
        let rows = self.rows.clone().into_iter();
        rows.map(|row| Row { row_type, row })
            .bind_iter()
            .encode(bytes)
    }
}

impl<R> Type<Postgres> for Row<R> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("record")
    }
}

impl<R: Record> Encode<'_, Postgres> for Row<R> {
    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_name(self.row_type))
    }

    /// The number of fields, then the fields.
    fn encode_by_ref(&self, bytes: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let place = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        let mut fields = Fields { bytes, count: 0 };
        self.row.write(&mut fields);
        let count = fields.count.to_be_bytes();
        bytes[place..place + 4].copy_from_slice(&count);
        Ok(IsNull::No)
    }
}
