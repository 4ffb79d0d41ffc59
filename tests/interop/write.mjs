// Writes .rvf files with the reference runtime and asks them, when all are closed: node write.mjs FOLDER '[{"create":"a.rvf",..},..]'

import { createRequire } from 'node:module';
import path from 'node:path';

const { RvfDatabase } = createRequire(import.meta.url)('@ruvector/rvf-node');
const [folder, orders] = process.argv.slice(2);
const at = (name) => path.join(folder, name);
const open = new Map();

const done = JSON.parse(orders).map((order) => {
  if (order.create) {
    open.set(order.create, RvfDatabase.create(at(order.create), { dimension: order.dimension, metric: order.metric }));
  } else if (order.branch) {
    open.set(order.branch, open.get(order.of).branch(at(order.branch)));
  } else if (order.open) {
    open.set(order.open, RvfDatabase.open(at(order.open)));
  } else if (order.ingest) {
    open.get(order.ingest).ingestBatch(Float32Array.from(order.vectors.flat()), order.ids);
  } else if (order.delete) {
    open.get(order.delete).delete(order.ids);
  } else if (order.compact) {
    open.get(order.compact).compact();
  } else if (order.close) {
    open.get(order.close).close();
    open.delete(order.close);
  } else if (order.ask) {
    const db = RvfDatabase.openReadonly(at(order.ask));
    const found = order.queries.map((query) => db.query(Float32Array.from(query), order.k).map(({ id, distance }) => [id, distance]));
    db.close();
    return found;
  }
  return null;
});
process.stdout.write(JSON.stringify({ done }));
