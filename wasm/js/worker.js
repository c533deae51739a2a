// The heavy side: a WebAssembly instance, one model in it, and what a page asks of them.

import { openEngine } from "./engine.js";
import { read } from "./source.js";
import { parent } from "./port.js";

const port = await parent();
const cancelled = new Set();
const talks = new Map();
const lessons = new Map();
let engine;
let model;
let handles = 0;
let panicked;
globalThis.mynahPanicked = (message) => (panicked = message);

const abort = () => Object.assign(new Error("cancelled"), { name: "AbortError" });

/** Calls `next` until it has nothing more; between two calls messages are heard. */
async function pieces(call, next) {
  for (;;) {
    if (cancelled.has(call.id)) return false;
    const piece = next();
    if (piece === undefined) return true;
    if (piece) call.event(piece);
    await port.turn();
  }
}

const of = (map, handle) => {
  const found = map.get(handle);
  if (!found) throw Object.assign(new Error("it was closed, or its worker is gone"), { code: "gone" });
  return found;
};

const methods = {
  async load(call, source, { cache, ...how } = {}) {
    engine = await openEngine(how, (hire, helpers) => port.send({ hire, helpers }));
    const { file, notes } = await read(source, engine, call, { cache, cancelled: () => cancelled.has(call.id) });
    model = engine.Model.load(file);
    return { ...JSON.parse(model.facts()), build: engine.build, memory: engine.size(), notes: [...engine.notes, ...notes] };
  },

  attach: (_, files, strengths) => model.attach(files, Float32Array.from(strengths)),
  inspect: (_, file) => JSON.parse(model.inspect(file)),
  verify: (_, file) => JSON.parse(model.verify(file)),
  prove: (_, file, prompt) => model.prove(file, prompt),
  embed: (_, texts) => model.embed(texts),
  tokenize: (_, text, special) => model.tokenize(text, special),
  detokenize: (_, ids) => model.detokenize(ids),
  memory: () => engine.size(),

  qr(_, file) {
    const modules = model.qr(file);
    return { width: Math.sqrt(modules.length), modules };
  },

  async complete(call, prompt, settings) {
    const text = model.complete(prompt, JSON.stringify(settings));
    try {
      if (!(await pieces(call, () => text.piece()))) throw abort();
      return JSON.parse(text.said());
    } finally {
      text.free();
    }
  },

  talk(_, settings) {
    talks.set(++handles, { talk: model.talk(JSON.stringify({ clock: Date.now() / 1000, ...settings })), settings });
    return handles;
  },

  async say(call, handle, messages) {
    const entry = of(talks, handle);
    // What is attached may be another since.
    if (entry.attached !== attached) {
      entry.talk.free();
      entry.talk = model.talk(JSON.stringify({ clock: Date.now() / 1000, ...entry.settings }));
      entry.attached = attached;
    }
    const { talk } = entry;
    talk.ask(JSON.stringify(messages));
    const whole = await pieces(call, () => talk.piece());
    talk.end();
    if (!whole) throw abort();
    return { ...JSON.parse(talk.said()), dropped: talk.dropped() };
  },

  lesson(_, { name, bytes }, settings, checkpoint) {
    const lesson = model.lesson(name, bytes, JSON.stringify({ clock: Date.now() / 1000, ...settings }), checkpoint);
    lessons.set(++handles, { lesson, seconds: 0 });
    return { handle: handles, plan: JSON.parse(lesson.plan()) };
  },

  step(_, handle) {
    const entry = of(lessons, handle);
    const start = performance.now();
    const event = entry.lesson.next(entry.seconds);
    if (event === undefined) return undefined;
    const seconds = (performance.now() - start) / 1000;
    const said = JSON.parse(event);
    entry.seconds = said.type === "step" ? seconds : 0;
    return { ...said, seconds };
  },

  history: (_, handle) => JSON.parse(of(lessons, handle).lesson.history()),
  learnt: (_, handle) => of(lessons, handle).lesson.toBytes(),
  checkpoint: (_, handle) => of(lessons, handle).lesson.checkpoint(),
  forget(_, handle) {
    lessons.get(handle)?.lesson.free();
    lessons.delete(handle);
  },
};

let attached = 0;
const attach = methods.attach;
methods.attach = (...args) => {
  attach(...args);
  attached++;
};

// One call after the other: a session is in one of them at a time.
let last = Promise.resolve();

port.hear(({ id, method, args, cancel }) => {
  if (cancel !== undefined) return void cancelled.add(cancel);
  const call = { id, event: (event) => port.send({ id, event }) };
  last = last.then(async () => {
    try {
      if (cancelled.has(id)) throw abort();
      if (!Object.hasOwn(methods, method)) throw Object.assign(new Error(`${method}: no such method`), { code: "invalid" });
      const value = await methods[method](call, ...args);
      port.send({ id, value });
    } catch (error) {
      const { name, code } = error;
      // An instance that has trapped is in no known state.
      const died = error instanceof WebAssembly.RuntimeError || panicked !== undefined;
      const message = panicked ?? error.message ?? String(error);
      port.send({ id, error: { name, code: died ? "crashed" : code, message }, died: died ? message : undefined });
    } finally {
      cancelled.delete(id);
    }
  });
});
