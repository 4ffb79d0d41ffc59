// One phase of the reference runtime of the format: node rvf_node.mjs load|query|open|append GIVEN STORE
// Does what system.py does for the others and prints the same JSON. It keeps vectors only: no texts.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const { RvfDatabase } = createRequire(import.meta.url)('@ruvector/rvf-node');
const WARM_QUERIES = 20;
const ROUNDS = 3;
const [phase, given, store, begin] = process.argv.slice(2);
const about = JSON.parse(readFileSync(join(given, 'about.json'), 'utf8'));
const file = join(store, 'memories.rvf');

// Rows of a .npy file of version 1, float32 in C order.
function rowsOf(name) {
  const bytes = readFileSync(join(given, `${name}.npy`));
  const start = 10 + bytes.readUInt16LE(8);
  const values = new Float32Array(bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + bytes.length));
  return { count: values.length / about.dim, part: (first, last) => values.subarray(first * about.dim, last * about.dim) };
}

function privateBytes() {
  const lines = readFileSync('/proc/self/smaps_rollup', 'utf8').matchAll(/^Anonymous:\s+(\d+) kB/gm);
  return [...lines].reduce((sum, [, kib]) => sum + 1024 * Number(kib), 0);
}

const numbers = (first, count) => Array.from({ length: count }, (_, place) => first + place);
const search = (db, query) => db.query(query, about.k).map((hit) => hit.id);

function load() {
  const rows = rowsOf('rows');
  const began = performance.now();
  const db = RvfDatabase.create(file, { dimension: about.dim, metric: 'cosine' });
  for (let first = 0; first < rows.count; first += about.batch) {
    const last = Math.min(rows.count, first + about.batch);
    db.ingestBatch(rows.part(first, last), numbers(first, last - first));
  }
  // The first search builds the graph, which takes far longer than the load; closing then keeps it.
  search(db, rows.part(0, 1));
  db.close();
  return { load_s: (performance.now() - began) / 1e3 };
}

function query() {
  const queries = rowsOf('queries');
  const db = RvfDatabase.open(file);
  for (let place = 0; place < WARM_QUERIES; place++) search(db, queries.part(place, place + 1));
  const times = new Array(queries.count).fill(Infinity), found = [];
  for (let round = 0; round < ROUNDS; round++) {
    for (let place = 0; place < queries.count; place++) {
      const began = performance.now();
      found[place] = search(db, queries.part(place, place + 1));
      times[place] = Math.min(times[place], performance.now() - began);
    }
  }
  db.close();
  return { query_ms: times, found };
}

function open() {
  const queries = rowsOf('queries');
  const first = Number(begin);
  const before = privateBytes();
  const began = performance.now();
  const db = RvfDatabase.open(file);
  search(db, queries.part(first, first + 1));
  const took = performance.now() - began;
  for (let place = first + 1; place <= first + WARM_QUERIES; place++) search(db, queries.part(place, place + 1));
  const after = privateBytes();
  db.close();
  return { open_ms: took, private_bytes: after - before };
}

function append() {
  const extra = rowsOf('extra');
  const db = RvfDatabase.open(file);
  search(db, extra.part(0, 1));
  let place = 0;
  const times = (size) =>
    Array.from({ length: about.appends }, () => {
      const began = performance.now();
      db.ingestBatch(extra.part(place, place + size), numbers(about.rows + place, size));
      place += size;
      return performance.now() - began;
    });
  const done = { append_ms: times(about.append_rows), append_one_ms: times(1) };
  done.is_found = search(db, extra.part(place - 1, place)).includes(about.rows + place - 1);
  db.close();
  return done;
}

process.stdout.write(JSON.stringify({ load, query, open, append }[phase]()));
