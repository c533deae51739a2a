// mynah in a page or in Node: loads a model, lets it speak, teaches it. All work is done by a worker that this module starts.
//
//   const model = await Mynah.load("smollm2.gguf");
//   for await (const text of model.generate("Once upon a time")) show(text);
//
// Types and what they mean: mynah.d.ts.

import { spawn } from "./port.js";

/** Everything that can go wrong; `code` says what kind of thing it was. */
export class MynahError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "MynahError";
    this.code = code;
  }
}

const aborted = () => new DOMException("cancelled", "AbortError");
const closed = () => new MynahError("closed", "the model was closed");

/** For how long a model waits for helpers that are being started, in milliseconds. Work does not need them. */
const PATIENCE = 2000;

/** A worker, the calls that wait for it, and the helpers that share its memory and its work. */
class Line {
  #worker;
  #helpers = [];
  #arrivals = [];
  #calls = new Map();
  #next = 1;
  #ended;
  #threads = 1;

  constructor() {
    this.#worker = spawn(new URL("./worker.js", import.meta.url), {
      message: (message) => this.#hear(message),
      error: (why) => this.end(new MynahError("crashed", why)),
    });
  }

  /** Started here and not by the worker: that one cannot hear of a helper that fails while it waits for its part. */
  #hire(what) {
    const arrival = new Promise((resolve) => {
      let here = false;
      const crashed = (why) => (here ? this.end(new MynahError("crashed", why)) : resolve(why));
      const helper = spawn(new URL("./helper.js", import.meta.url), {
        message: ({ missing, died }) => {
          if (died ?? missing) return crashed(died ?? missing);
          here = true;
          this.#threads++;
          resolve();
        },
        error: crashed,
      });
      helper.busy(false);
      helper.send(what);
      this.#helpers.push(helper);
    });
    this.#arrivals.push(arrival);
  }

  /** How many threads there are once the helpers have come, and why others have not. */
  async crew() {
    let timer;
    const late = new Promise((resolve) => (timer = setTimeout(resolve, PATIENCE)));
    const all = await Promise.race([Promise.all(this.#arrivals), late]);
    clearTimeout(timer);
    const missing = (all ?? ["helpers are late"]).filter(Boolean).map((why) => `fewer threads: ${why}`);
    return { threads: this.#threads, missing };
  }

  #hear({ id, event, value, error, died, hire, helpers }) {
    for (let i = 0; i < helpers; i++) this.#hire(hire);
    const call = this.#calls.get(id);
    if (error && call) {
      this.#done(id);
      call.reject(error.name === "AbortError" ? aborted() : new MynahError(error.code ?? "failed", error.message));
    } else if (event !== undefined) {
      call?.event?.(event);
    } else if (call) {
      this.#done(id);
      call.resolve(value);
    }
    if (died) this.end(new MynahError("crashed", died));
  }

  #done(id) {
    const was = this.#calls.delete(id);
    if (!this.#calls.size) this.#worker.busy(false);
    return was;
  }

  /** Why it has ended, if it has. */
  get ended() {
    return this.#ended;
  }

  /** Ends the worker and its helpers; calls that wait are rejected, and those that come. */
  end(error = closed()) {
    this.#ended ??= error;
    for (const worker of [this.#worker, ...this.#helpers]) worker.end();
    for (const call of this.#calls.values()) call.reject(error);
    this.#calls.clear();
  }

  /** Calls a method of the worker. With a signal it is rejected at once when that is raised; the worker ends it at its next look. */
  call(method, args = [], { event, signal, transfer = [] } = {}) {
    if (signal?.aborted) return Promise.reject(aborted());
    if (this.#ended) return Promise.reject(this.#ended);
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      const stop = () => {
        this.#worker.send({ cancel: id });
        if (this.#done(id)) reject(aborted());
      };
      const done = (then) => (value) => {
        signal?.removeEventListener("abort", stop);
        then(value);
      };
      signal?.addEventListener("abort", stop, { once: true });
      this.#worker.busy(true);
      this.#calls.set(id, { resolve: done(resolve), reject: done(reject), event });
      this.#worker.send({ id, method, args }, transfer);
    });
  }

  /** The events of a call as they come; what it returns is the value of the iteration. */
  async *stream(method, args, { signal } = {}) {
    const own = new AbortController();
    const both = signal ? AbortSignal.any([signal, own.signal]) : own.signal;
    const queue = [];
    let wake = () => {};
    const event = (value) => {
      queue.push(value);
      wake();
    };
    let ended = false;
    const call = this.call(method, args, { event, signal: both });
    const over = call.then(() => {}, () => {}).then(() => {
      ended = true;
      wake();
    });
    try {
      for (;;) {
        while (queue.length) yield queue.shift();
        if (ended) return await call;
        await new Promise((resolve) => {
          wake = resolve;
          if (queue.length || ended) resolve();
        });
      }
    } finally {
      // A loop that is left early ends the work too.
      if (!ended) own.abort();
      await over;
    }
  }
}

const bytesOf = async (from) => {
  if (from instanceof Uint8Array) return from;
  if (from instanceof ArrayBuffer) return new Uint8Array(from);
  if (typeof from?.arrayBuffer === "function") return new Uint8Array(await from.arrayBuffer());
  throw new MynahError("invalid", "bytes, a Blob or a File are expected");
};

/** What a worker can open, and what must be moved to it. */
const sourceOf = (from, size) => {
  if (from === undefined || from === null) return { source: { url: new URL("./base.gguf", import.meta.url).href }, again: true };
  if (typeof from === "string" || from instanceof URL) {
    const base = globalThis.document?.baseURI ?? globalThis.location?.href;
    return { source: { url: new URL(from, base).href }, again: true };
  }
  if (from instanceof ArrayBuffer) return { source: { bytes: new Uint8Array(from) }, transfer: [from] };
  if (ArrayBuffer.isView(from)) return { source: { bytes: from }, transfer: [from.buffer] };
  if (typeof from.getReader === "function") return { source: { stream: from, size }, transfer: [from] };
  if (typeof from.getFile === "function") return { source: { handle: from }, again: true };
  if (typeof from.stream === "function") return { source: { blob: from }, again: true };
  throw new MynahError("invalid", "a source is a URL, a File, a Blob, a ReadableStream, an ArrayBuffer or a file handle");
};

/** A model in a worker of its own. */
export class Mynah {
  #line;
  #source;
  #again;
  #settings;
  #adapters = [];
  #facts;
  #opening;
  #closed = false;

  /** Loads a model; without a source the small one of the package. */
  static async load(source, options = {}) {
    const model = new Mynah();
    const { source: from, again = false, transfer = [] } = sourceOf(source, options.size);
    const { progress, signal, size, ...settings } = options;
    [model.#source, model.#again, model.#settings] = [from, again, settings];
    await model.#open({ progress, signal, transfer });
    return model;
  }

  async #open({ progress, signal, transfer } = {}) {
    const line = new Line();
    try {
      const facts = await line.call("load", [this.#source, this.#settings], { event: progress, signal, transfer });
      const { threads, missing } = await line.crew();
      this.#facts = { ...facts, threads, notes: [...facts.notes, ...missing] };
      if (this.#adapters.length) await this.#put(line, this.#adapters);
      if (this.#closed) throw closed();
    } catch (error) {
      line.end();
      throw error;
    }
    this.#line = line;
  }

  /** The worker; another one in the place of one that has crashed. */
  async #ready() {
    if (this.#closed) throw closed();
    if (this.#line.ended) {
      if (!this.#again) throw new MynahError("gone", "the worker crashed, and what the model came from cannot be read again; load it anew");
      // Once, whoever asks meanwhile.
      this.#opening ??= this.#open().finally(() => (this.#opening = undefined));
      await this.#opening;
    }
    return this.#line;
  }

  /** What the model is, which build computes, and what the loader has to say. */
  get facts() {
    return this.#facts;
  }

  /** Text that continues a prompt, as it comes. */
  async *generate(prompt, options = {}) {
    const { signal, ...settings } = options;
    const line = await this.#ready();
    return yield* line.stream("complete", [prompt, settings], { signal });
  }

  /** The same as a whole. */
  async complete(prompt, options = {}) {
    const { signal, ...settings } = options;
    return (await this.#ready()).call("complete", [prompt, settings], { signal });
  }

  /** A conversation. */
  chat(options = {}) {
    return new Chat(() => this.#ready(), options);
  }

  /** Messages in, an answer out, in the shape of OpenAI's chat completions. */
  async createChatCompletion(messages, options = {}) {
    const { stream = false, signal, ...settings } = options;
    const chat = this.chat({ ...settings, messages: messages.slice(0, -1) });
    const said = chat.say(messages.at(-1)?.content ?? "", { signal });
    const shape = (object, choice) => ({ object, model: this.#facts.name, choices: [{ index: 0, ...choice }] });
    if (stream) {
      return (async function* () {
        for (;;) {
          const { done, value } = await said.next();
          if (!done) yield shape("chat.completion.chunk", { delta: { role: "assistant", content: value }, finish_reason: null });
          else return void (yield shape("chat.completion.chunk", { delta: {}, finish_reason: value.finish }));
        }
      })();
    }
    let step = await said.next();
    while (!step.done) step = await said.next();
    const { text, finish, promptTokens, ids } = step.value;
    const usage = { prompt_tokens: promptTokens, completion_tokens: ids.length, total_tokens: promptTokens + ids.length };
    return { ...shape("chat.completion", { message: { role: "assistant", content: text }, finish_reason: finish }), usage };
  }

  /** A lesson: its plan is there at once, its steps are done as one asks for them. */
  async lesson(data, options = {}) {
    const { checkpoint, name, ...settings } = options;
    const line = await this.#ready();
    const rows = await rowsOf(data, name);
    const saved = checkpoint && (await bytesOf(checkpoint));
    const { handle, plan } = await line.call("lesson", [rows, settings, saved]);
    return new Lesson(this, line, handle, plan);
  }

  /** Attaches an adapter on top of the others; its name, for `detach`. */
  async attach(adapter, strength = 1, name = `adapter ${this.#adapters.length + 1}`) {
    const line = await this.#ready();
    const bytes = (await bytesOf(adapter)).slice();
    const adapters = [...this.#adapters.filter((other) => other.name !== name), { name, bytes, strength }];
    await this.#put(line, adapters);
    this.#adapters = adapters;
    return name;
  }

  /** Takes an adapter away again; without a name all of them. */
  async detach(name) {
    const line = await this.#ready();
    const adapters = name === undefined ? [] : this.#adapters.filter((other) => other.name !== name);
    await this.#put(line, adapters);
    this.#adapters = adapters;
  }

  #put(line, adapters) {
    return line.call("attach", [adapters.map((a) => a.bytes), adapters.map((a) => a.strength)]);
  }

  /** What is attached, first to last. */
  get adapters() {
    return this.#adapters.map(({ name, strength, bytes }) => ({ name, strength, bytes: bytes.length }));
  }

  /** What the file of an adapter says. */
  async inspect(adapter) {
    return (await this.#ready()).call("inspect", [await bytesOf(adapter)]);
  }

  /** Whether an adapter does here what its probe says. */
  async verify(adapter) {
    return (await this.#ready()).call("verify", [await bytesOf(adapter)]);
  }

  /** The file of an adapter with a probe in it, for `verify`. */
  async prove(adapter, prompt) {
    return (await this.#ready()).call("prove", [await bytesOf(adapter), prompt]);
  }

  /** The modules of a QR code that holds an adapter of at most 2,953 bytes. */
  async qr(adapter) {
    return (await this.#ready()).call("qr", [await bytesOf(adapter)]);
  }

  /** A vector for each text. */
  async embed(texts) {
    return (await this.#ready()).call("embed", [typeof texts === "string" ? [texts] : texts]);
  }

  async tokenize(text, { special = false } = {}) {
    return (await this.#ready()).call("tokenize", [text, special]);
  }

  async detokenize(ids) {
    return (await this.#ready()).call("detokenize", [Uint32Array.from(ids)]);
  }

  /** Bytes of memory that the worker's instance has. */
  async memory() {
    return (await this.#ready()).call("memory");
  }

  /** Frees everything. */
  close() {
    this.#closed = true;
    this.#line?.end();
  }

  [Symbol.dispose ?? Symbol.for("dispose")]() {
    this.close();
  }
}

/** What rows of data come from: text, a file, or rows. */
async function rowsOf(data, name) {
  const encoder = new TextEncoder();
  if (typeof data === "string") return { name: name ?? "notes.txt", bytes: encoder.encode(data) };
  if (Array.isArray(data)) {
    const lines = data.map((row) => (typeof row === "string" ? { text: row } : row)).map((row) => JSON.stringify(row) + "\n");
    return { name: name ?? "rows.jsonl", bytes: encoder.encode(lines.join("")) };
  }
  return { name: name ?? data?.name ?? "notes.txt", bytes: await bytesOf(data) };
}

/** A conversation: its messages, and marks of its answers. */
export class Chat {
  #ready;
  #options;
  #line;
  #handle;

  constructor(ready, { messages = [], ...options }) {
    [this.#ready, this.#options] = [ready, options];
    /** Messages in OpenAI's shape, the system's first if there is one. */
    this.messages = messages.map(({ role, content }) => ({ role, content }));
    /** Marks of answers: rows of data to teach from. */
    this.marks = [];
  }

  /** An answer as it comes. */
  async *say(text, { signal } = {}) {
    const line = await this.#ready();
    if (line !== this.#line) {
      [this.#line, this.#handle] = [line, await line.call("talk", [this.#options])];
    }
    const asked = [...this.messages, { role: "user", content: text }];
    let heard = "";
    let said;
    try {
      const answer = line.stream("say", [this.#handle, asked], { signal });
      for (;;) {
        const { done, value } = await answer.next();
        if (done) {
          said = value;
          break;
        }
        heard += value;
        yield value;
      }
    } finally {
      // What was said before a cancellation is a turn too.
      if (said || heard) this.messages = [...asked, { role: "assistant", content: said?.text ?? heard }];
    }
    return said;
  }

  /** Marks the last answer: `"good"`, `"bad"`, or what would have been better, which then takes its place. */
  mark(mark) {
    const last = this.messages.at(-1);
    if (last?.role !== "assistant") throw new MynahError("invalid", "there is no answer to mark");
    const prompt = this.messages.slice(0, -1);
    const turn = (content) => [{ role: "assistant", content }];
    if (mark === "good" || mark === "bad") {
      this.marks.push({ prompt, completion: turn(last.content), label: mark === "good" });
    } else {
      const better = mark?.better;
      if (typeof better !== "string") throw new MynahError("invalid", 'a mark is "good", "bad" or { better: text }');
      this.marks.push({ prompt, chosen: turn(better), rejected: turn(last.content) });
      this.messages = [...prompt, { role: "assistant", content: better }];
    }
    return this.marks.length;
  }
}

/** A lesson: an iteration of what was done. Between two steps one can pause, save, attach and speak. */
export class Lesson {
  #model;
  #line;
  #handle;
  #own = new AbortController();

  constructor(model, line, handle, plan) {
    [this.#model, this.#line, this.#handle] = [model, line, handle];
    /** Rows, steps, and the bytes of memory that it will take. */
    this.plan = plan;
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      let event;
      try {
        event = await this.#line.call("step", [this.#handle], { signal: this.#own.signal });
      } catch (error) {
        if (error.name === "AbortError") return;
        throw error;
      }
      if (!event) return;
      yield event;
    }
  }

  /** Does all that is left; `each` hears of every event. */
  async run(each) {
    for await (const event of this) await each?.(event);
    return this.history();
  }

  /** Ends it, at once for the caller. A step that is being done is done, and counts. */
  cancel() {
    this.#own.abort();
  }

  /** Losses so far, and how it ended. */
  history() {
    return this.#line.call("history", [this.#handle]);
  }

  /** What was learnt so far, as the bytes of an adapter's file. */
  toBytes() {
    return this.#line.call("learnt", [this.#handle]);
  }

  /** What `model.lesson(data, { checkpoint })` goes on from, with the same data and settings. */
  checkpoint() {
    return this.#line.call("checkpoint", [this.#handle]);
  }

  /** Attaches what was learnt so far. */
  async attach(strength = 1, name = "lesson") {
    return this.#model.attach(await this.toBytes(), strength, name);
  }

  /** Frees its memory. */
  close() {
    return this.#line.call("forget", [this.#handle]);
  }
}

export * as cache from "./cache.js";
