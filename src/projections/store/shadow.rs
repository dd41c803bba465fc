//! Shadow tables: what is being built to take the place of what people read.
//!
//! They are derived from the live tables as the database describes them, so the migrations alone
//! say what a table looks like. On PostgreSQL indexes are built after the rows are there, which is
//! much faster; on SQLite before, because building one holds up everybody who writes.

use sqlx::Row;

use super::{Place, Store, Transaction};
use crate::ledger::storage::StorageError;
use crate::projections::projection::Projection;
use crate::projections::table::{Cell, Column, Kind, Table, Writing};

/// An index that a shadow table needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowIndex {
    /// The statement that builds it, if it is not there yet.
    pub build: String,
    /// How large its table is, in bytes, where the database can tell.
    pub table_bytes: i64,
}

const TEXT: &[Column] = &[
    Column {
        name: "name",
        kind: Kind::Text,
    },
    Column {
        name: "definition",
        kind: Kind::Text,
    },
];

const SIZE: &[Column] = &[Column {
    name: "bytes",
    kind: Kind::Int,
}];

const POSTGRES_INDEXES: &str = "
    SELECT indexname::text, indexdef::text
    FROM pg_indexes
    WHERE schemaname = current_schema() AND tablename = $1
    ORDER BY indexname";

const POSTGRES_PRIMARY_KEY: &str = "
    SELECT conname::text, conname::text
    FROM pg_constraint
    WHERE contype = 'p' AND conrelid = to_regclass($1)";

// Privileges on the table and on single columns, and to whom.
const POSTGRES_GRANTS: &str = "
    SELECT g.privilege_type || COALESCE(' (' || quote_ident(g.attname) || ')', '') AS name,
        CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END
            || CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS definition
    FROM pg_class AS c
    CROSS JOIN LATERAL (
        SELECT NULL::name AS attname, t.* FROM aclexplode(c.relacl) AS t
        UNION ALL
        SELECT a.attname, t.*
        FROM pg_attribute AS a CROSS JOIN LATERAL aclexplode(a.attacl) AS t
        WHERE a.attrelid = c.oid AND NOT a.attisdropped
    ) AS g
    WHERE c.oid = to_regclass($1) AND g.grantee <> c.relowner";

const SQLITE_TABLE: &str = "
    SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name = $1";

const SQLITE_INDEXES: &str = "
    SELECT name, sql FROM sqlite_master
    WHERE type = 'index' AND tbl_name = $1 AND sql IS NOT NULL
    ORDER BY name";

impl Store {
    /// About how much space a projection's tables take, with their indexes, in bytes.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn size(&self, projection: Projection) -> Result<i64, StorageError> {
        const POSTGRES: &str = "SELECT pg_total_relation_size(to_regclass($1))";
        const SQLITE: &str = "
            SELECT SUM(pgsize)
            FROM dbstat
            WHERE name IN (SELECT name FROM sqlite_master WHERE tbl_name = $1)";
        let sql = if self.has_one_writer() {
            SQLITE
        } else {
            POSTGRES
        };
        let mut bytes = 0;
        for table in projection.tables() {
            let found = self.select(sql, &[table.name.into()], SIZE).await?;
            bytes += found
                .first()
                .and_then(|row| row[0].as_int())
                .unwrap_or_default();
        }
        Ok(bytes)
    }
}

impl Transaction {
    /// Makes a projection's shadow tables, empty, in place of any that were left behind.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn create_shadow(&mut self, projection: Projection) -> Result<(), StorageError> {
        self.drop_shadow(projection).await?;
        for table in projection.tables() {
            let shadow = Place::Shadow.table(table);
            if self.is_postgres() {
                self.execute(&format!(
                    "CREATE TABLE {shadow} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)",
                    table.name
                ))
                .await?;
                // Rows of these are added to while they are filled in.
                if table.writing == Writing::Add {
                    self.add_primary_key(table).await?;
                }
                continue;
            }
            for (_, definition) in self.described(SQLITE_TABLE, table.name).await? {
                if let Some(columns) = from_parenthesis(&definition) {
                    self.execute(&format!("CREATE TABLE {shadow} {columns}"))
                        .await?;
                }
            }
        }
        if !self.is_postgres() {
            for index in self.shadow_indexes(projection).await? {
                self.execute(&index.build).await?;
            }
        }
        Ok(())
    }

    /// What builds the indexes that a projection's shadow tables do not have yet.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn shadow_indexes(
        &mut self,
        projection: Projection,
    ) -> Result<Vec<ShadowIndex>, StorageError> {
        let mut indexes = Vec::new();
        for table in projection.tables() {
            let shadow = Place::Shadow.table(table);
            let described = if self.is_postgres() {
                self.described(POSTGRES_INDEXES, table.name).await?
            } else {
                self.described(SQLITE_INDEXES, table.name).await?
            };
            let table_bytes = self.shadow_bytes(table).await?;
            for (name, definition) in described {
                let unique = if definition.starts_with("CREATE UNIQUE") {
                    "UNIQUE "
                } else {
                    ""
                };
                let (name, rest) = if self.is_postgres() {
                    // `… ON schema.table USING btree (…) WHERE …`
                    let using = definition.split_once(" USING ").map(|(_, rest)| rest);
                    let rest = using.map(|using| format!("USING {using}"));
                    (shadow_index(&name), rest)
                } else {
                    let rest = from_parenthesis(&definition).map(ToOwned::to_owned);
                    (other_name(&name), rest)
                };
                if let Some(rest) = rest {
                    indexes.push(ShadowIndex {
                        build: format!(
                            "CREATE {unique}INDEX IF NOT EXISTS {name} ON {shadow} {rest}"
                        ),
                        table_bytes,
                    });
                }
            }
        }
        Ok(indexes)
    }

    /// Lets the planner know what is in a projection's shadow tables. Without, first pages would take
    /// a hundred times as long from the swap until the database looks by itself, about a minute later.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn analyze_shadow(&mut self, projection: Projection) -> Result<(), StorageError> {
        // A small sample, quickly taken, tells the common from the rare; the database's own look
        // refines it. SQLite plans without statistics.
        const SAMPLE: &str = "SET LOCAL default_statistics_target = 20";
        if !self.is_postgres() {
            return Ok(());
        }
        self.execute(SAMPLE).await?;
        for table in projection.tables() {
            let shadow = Place::Shadow.table(table);
            self.execute(&format!("ANALYZE {shadow}")).await?;
        }
        Ok(())
    }

    async fn shadow_bytes(&mut self, table: &Table) -> Result<i64, StorageError> {
        const BYTES: &str = "SELECT pg_relation_size(to_regclass($1))";
        if !self.is_postgres() {
            return Ok(0);
        }
        let shadow = Place::Shadow.table(table);
        let found = self.select(BYTES, &[shadow.into()], SIZE).await?;
        Ok(found.first().and_then(|row| row[0].as_int()).unwrap_or(0))
    }

    /// Makes the key of each shadow table its primary key. Its index must have been built.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn key_shadow(&mut self, projection: Projection) -> Result<(), StorageError> {
        if !self.is_postgres() {
            return Ok(());
        }
        for table in projection.tables() {
            if table.writing == Writing::Replace {
                self.add_primary_key(table).await?;
            }
        }
        Ok(())
    }

    async fn add_primary_key(&mut self, table: &Table) -> Result<(), StorageError> {
        let shadow = Place::Shadow.table(table);
        if !self
            .described(POSTGRES_PRIMARY_KEY, &shadow)
            .await?
            .is_empty()
        {
            return Ok(());
        }
        for (name, _) in self.described(POSTGRES_PRIMARY_KEY, table.name).await? {
            let index = shadow_index(&name);
            let key = Table::names(table.key_columns());
            self.execute(&format!(
                "CREATE UNIQUE INDEX IF NOT EXISTS {index} ON {shadow} ({key});
                ALTER TABLE {shadow} ADD CONSTRAINT {index} PRIMARY KEY USING INDEX {index}"
            ))
            .await?;
        }
        Ok(())
    }

    /// Keeps everybody away from a projection's tables until the transaction's end. On SQLite
    /// nobody else writes meanwhile, and whoever reads sees the tables as they were.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when readers do not leave in time, or the database failed.
    pub async fn lock_tables(&mut self, projection: Projection) -> Result<(), StorageError> {
        if !self.is_postgres() {
            return Ok(());
        }
        for table in projection.tables() {
            self.execute(&format!(
                "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
                table.name
            ))
            .await?;
        }
        Ok(())
    }

    /// Puts the shadow tables in the place of the live ones, which are dropped.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn swap(&mut self, projection: Projection) -> Result<(), StorageError> {
        for table in projection.tables() {
            let name = table.name;
            let shadow = Place::Shadow.table(table);
            let (indexes, grants) = if self.is_postgres() {
                (
                    self.described(POSTGRES_INDEXES, name).await?,
                    self.described(POSTGRES_GRANTS, name).await?,
                )
            } else {
                (Vec::new(), Vec::new())
            };
            self.execute(&format!(
                "DROP TABLE {name};
                ALTER TABLE {shadow} RENAME TO {name}"
            ))
            .await?;
            // SQLite can't rename an index: there the new ones keep their other names.
            for (index, _) in indexes {
                self.execute(&format!(
                    "ALTER INDEX {} RENAME TO {index}",
                    shadow_index(&index)
                ))
                .await?;
            }
            // Who was let read the old table, a dashboard perhaps, reads the new one.
            for (privilege, grantee) in grants {
                self.execute(&format!("GRANT {privilege} ON {name} TO {grantee}"))
                    .await?;
            }
        }
        Ok(())
    }

    /// Puts one partition's rows of the shadow tables in the place of the live ones.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn swap_partition(
        &mut self,
        projection: Projection,
        partition: crate::ledger::record::Partition,
    ) -> Result<(), StorageError> {
        for table in projection.tables() {
            let name = table.name;
            let columns = Table::names(table.columns);
            let shadow = Place::Shadow.table(table);
            self.execute(&format!(
                "DELETE FROM {name} WHERE partition = {partition};
                INSERT INTO {name} ({columns}) SELECT {columns} FROM {shadow};
                DROP TABLE {shadow}"
            ))
            .await?;
        }
        Ok(())
    }

    /// Drops a projection's shadow tables, if there are any.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn drop_shadow(&mut self, projection: Projection) -> Result<(), StorageError> {
        for table in projection.tables() {
            let shadow = Place::Shadow.table(table);
            self.execute(&format!("DROP TABLE IF EXISTS {shadow}"))
                .await?;
        }
        Ok(())
    }

    /// Number and checksum of a table's rows, in one partition or all. Equal rows give equal sums
    /// in whatever order they are; sums are compared within one database only.
    ///
    /// # Errors
    ///
    /// [`StorageError`] when the database failed.
    pub async fn checksum(
        &mut self,
        place: Place,
        table: &'static Table,
        partition: Option<crate::ledger::record::Partition>,
    ) -> Result<(i64, i64), StorageError> {
        let name = place.table(table);
        let only = partition.map_or(String::new(), |partition| {
            format!(" WHERE t.partition = {partition}")
        });
        match self {
            Self::Postgres(transaction) => {
                let sql = format!(
                    "SELECT COUNT(*), COALESCE(BIT_XOR(hash_record_extended(t, 0)), 0)
                    FROM {name} AS t{only}"
                );
                let row = sqlx::query(sqlx::AssertSqlSafe(sql))
                    .fetch_one(&mut **transaction)
                    .await?;
                Ok((row.try_get(0)?, row.try_get(1)?))
            }
            Self::Sqlite(transaction) => {
                let sql = format!(
                    "SELECT {} FROM {name} AS t{only}",
                    Table::names(table.columns)
                );
                super::sqlite::checksum(transaction, &sql, table.columns).await
            }
        }
    }

    fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Names and definitions from the database's own catalogue.
    async fn described(
        &mut self,
        sql: &str,
        name: &str,
    ) -> Result<Vec<(String, String)>, StorageError> {
        let rows = self.select(sql, &[name.into()], TEXT).await?;
        let text = |cell: &Cell<'_>| cell.as_text().unwrap_or_default().to_owned();
        Ok(rows
            .iter()
            .map(|row| (text(&row[0]), text(&row[1])))
            .collect())
    }
}

fn shadow_index(name: &str) -> String {
    format!("{name}_shadow")
}

/// The other of an index's two names, which it takes in turn.
fn other_name(name: &str) -> String {
    const OTHER: &str = "_b";
    match name.strip_suffix(OTHER) {
        Some(first) => first.to_owned(),
        None => format!("{name}{OTHER}"),
    }
}

/// From a definition's first parenthesis on.
fn from_parenthesis(definition: &str) -> Option<&str> {
    definition.find('(').map(|start| &definition[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_has_two_names_in_turn() {
        let first = "timeline_by_subscriber";

        assert_eq!(other_name(first), "timeline_by_subscriber_b");
        assert_eq!(other_name(&other_name(first)), first);
    }
}
