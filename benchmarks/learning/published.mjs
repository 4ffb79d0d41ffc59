// The published engine, asked in lines of JSON, one answer for each: {"new":..}, {"bend":..}, {"learn":..}, {"fit":..}
// Vectors are float32 in base64. `us` is what the engine itself took, with its own conversion of arrays.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const { SonaEngine } = createRequire(import.meta.url)('@ruvector/sona');
const KEPT = 16; // of the engines, the last ones: never do so many learn at once
const engines = new Map();

function numbers(text) {
  const bytes = Buffer.from(text, 'base64');
  return Array.from(new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4));
}

function learn(engine, order) {
  const query = numbers(order.vector);
  const shown = order.shown.map(numbers);
  const began = performance.now();
  const run = engine.beginTrajectory(query);
  shown.forEach((vector, place) => engine.addTrajectoryStep(run, vector, [order.rewards[place]], order.rewards[place]));
  engine.endTrajectory(run, order.quality);
  engine.flush();
  return { us: 1e3 * (performance.now() - began) };
}

function bend(engine, order) {
  const query = numbers(order.vector);
  const began = performance.now();
  const bent = engine.applyMicroLora(query);
  const us = 1e3 * (performance.now() - began);
  return { us, vector: Buffer.from(Float32Array.from(bent).buffer).toString('base64') };
}

function answer(order) {
  if (order.new) {
    engines.set(order.new, SonaEngine.withConfig(order.settings));
    engines.delete(order.new - KEPT);
  } else if (order.bend) {
    return bend(engines.get(order.bend), order);
  } else if (order.learn) {
    return learn(engines.get(order.learn), order);
  } else if (order.fit) {
    return { said: engines.get(order.fit).forceLearn() };
  }
  return {};
}

createInterface({ input: process.stdin }).on('line', (line) => process.stdout.write(`${JSON.stringify(answer(JSON.parse(line)))}\n`));
