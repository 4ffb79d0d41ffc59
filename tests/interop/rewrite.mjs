// Writes to a .rvf file with the reference runtime: node rewrite.mjs FILE.rvf '{"delete":[1],"compact":true}'

import { createRequire } from 'node:module';

const { RvfDatabase } = createRequire(import.meta.url)('@ruvector/rvf-node');
const [file, what] = process.argv.slice(2);
const orders = JSON.parse(what);
const db = RvfDatabase.open(file);
const done = {};
if (orders.delete) done.deleted = db.delete(orders.delete);
if (orders.ingest) done.ingested = db.ingestBatch(Float32Array.from(orders.ingest.vector), [orders.ingest.id]);
if (orders.compact) done.compacted = db.compact();
db.close();
process.stdout.write(JSON.stringify(done));
