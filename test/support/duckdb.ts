// DuckDB, in memory: it reads Parquet with code that is independent of ours.
import { DuckDBInstance } from '@duckdb/node-api';

export type Rows = Record<string, unknown>[];
/** The rows of the statement's result, with bigints where its columns are BIGINT. */
export type Query = (sql: string) => Promise<Rows>;

/** Calls body with a new database, which is gone afterwards. */
export async function withDuckDB<T>(body: (query: Query) => Promise<T>): Promise<T> {
  const instance = await DuckDBInstance.create(':memory:', { threads: '2' });
  const connection = await instance.connect();
  try {
    return await body(async (sql) => (await connection.runAndReadAll(sql)).getRowObjectsJS());
  } finally {
    connection.closeSync();
    instance.closeSync();
  }
}
