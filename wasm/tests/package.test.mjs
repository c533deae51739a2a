// The package in Node: node --test wasm/tests/package.test.mjs, after node wasm/build.mjs.
// PKG names another folder. With ../shared beside the repository a model from a file is loaded too.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { after, test } from "node:test";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";

const root = new URL("../../", import.meta.url);
const pkg = process.env.PKG ? pathToFileURL(`${process.env.PKG}/`) : new URL("wasm/pkg/", root);
const { Mynah, MynahError } = await import(new URL("mynah.js", pkg));
const notes = readFileSync(new URL("src/base/notes.txt", root), "utf8");
const shared = process.env.MYNAH_SHARED ? pathToFileURL(`${process.env.MYNAH_SHARED}/`) : new URL("../shared/", root);
const SMALL = new URL("models/stories260K-q4_0.gguf", shared);

const model = await Mynah.load();
after(() => model.close());

async function listed(iteration) {
  const all = [];
  let step;
  while (!(step = await iteration.next()).done) all.push(step.value);
  return { all, value: step.value };
}

test("says what it is", () => {
  const { architecture, build, template, memory, threads } = model.facts;
  assert.equal(architecture, "llama");
  assert.ok(["threads", "relaxed", "simd"].includes(build) && template && memory > 1e6);
  assert.equal(threads > 1, build === "threads");
});

test("any number of threads gives the same bytes", async () => {
  const results = [];
  for (const threads of [1, 2, 3]) {
    const other = await Mynah.load(undefined, { build: "threads", threads });
    assert.deepEqual([other.facts.build, other.facts.threads, other.facts.notes], ["threads", threads, []]);
    const { text } = await other.complete("Once upon a time", { maxTokens: 24, temperature: 0 });
    const lesson = await other.lesson(notes, { method: "nola", steps: 3, context: 64 });
    await lesson.run();
    results.push({ text, bytes: await lesson.toBytes() });
    other.close();
  }
  assert.deepEqual(results[1], results[0]);
  assert.deepEqual(results[2], results[0]);
  await assert.rejects(Mynah.load(undefined, { threads: 0 }), (e) => e.code === "invalid" && e.message.includes("threads"));
});

test("a worker that fails says so, and the next call starts another", async () => {
  for (const [prompt, threads] of [["fail here", 1], ["fail here", 2], ["fail in a helper", 2]]) {
    const other = await Mynah.load(undefined, { threads });
    const say = () => other.complete("Rain", { maxTokens: 3, temperature: 0 });
    const before = await say();
    const lesson = await other.lesson(notes, { method: "nola", steps: 3, context: 64 });
    const crashed = (promise) => assert.rejects(promise, (e) => e instanceof MynahError && e.code === "crashed" && e.message.includes("a failure was asked for"));
    // What waits behind it fails with it.
    await Promise.all([crashed(other.complete(prompt)), crashed(say())]);
    await crashed(lesson.run());
    const [after] = await Promise.all([say(), say()]);
    assert.deepEqual(after, before);
    assert.equal(other.facts.threads, threads);
    other.close();
  }
});

test("nobody is kept waiting by a model that was not closed", async () => {
  const program = `(async () => {
    const { Mynah } = await import(${JSON.stringify(new URL("mynah.js", pkg).href)});
    const model = await Mynah.load(undefined, { threads: 2 });
    console.log((await model.complete("Rain", { maxTokens: 3 })).ids.length);
  })()`;
  const { stdout } = await promisify(execFile)(process.execPath, ["-e", program], { timeout: 20000 });
  assert.ok(Number(stdout) > 0);
});

test("pieces are the whole", async () => {
  const options = { maxTokens: 12, temperature: 0 };
  const { all, value } = await listed(model.generate("Once upon a time", options));
  assert.ok(all.length > 1);
  assert.equal(all.join(""), value.text);
  assert.deepEqual(await model.complete("Once upon a time", options), value);
  assert.ok(value.ids.length <= 12);
});

test("settings that nobody has are named", async () => {
  const refused = (promise, code, word) =>
    assert.rejects(promise, (e) => e instanceof MynahError && e.code === code && e.message.includes(word));
  await refused(model.complete("Rain", { topKay: 3 }), "invalid", "topKay");
  await refused(model.complete("Rain", { topK: -3 }), "invalid", "top k");
  await refused(model.lesson(notes, { method: "lore" }), "unsupported", "lore");
  await refused(model.lesson(notes, { method: "lora", rang: 3 }), "invalid", "rank");
  await refused(model.attach(new Uint8Array([1, 2, 3])), "invalid", "not a file of mynah's");
});

test("a conversation keeps its turns, and its marks are rows", async () => {
  const chat = model.chat({ maxTokens: 8, temperature: 0 });
  const first = await listed(chat.say("Tell me a story about a bear."));
  assert.equal(first.all.join("").trim(), first.value.text.trim());
  await listed(chat.say("And then?"));
  assert.deepEqual(chat.messages.map((m) => m.role), ["user", "assistant", "user", "assistant"]);
  assert.equal(chat.mark("bad"), 1);
  assert.equal(chat.mark({ better: "The bear slept." }), 2);
  assert.equal(chat.messages.at(-1).content, "The bear slept.");
  const lesson = await model.lesson(chat.marks, { objective: "bco", steps: 2, rank: 2 });
  assert.equal((await lesson.run()).steps, 2);
  await lesson.close();

  // As chat --learn does, and on: the adapter knows which marks it has learnt.
  const settings = { objective: "marks", objectiveSettings: { passes: 2, own: 4 } };
  const learn = async (options) => {
    const lesson = await model.lesson(chat.marks, { ...settings, ...options });
    const kinds = new Set();
    const history = await lesson.run((event) => kinds.add(event.type));
    const bytes = await lesson.toBytes();
    await assert.rejects(lesson.checkpoint(), { code: "unsupported" });
    await lesson.close();
    return { plan: lesson.plan, history, bytes, kinds: [...kinds].sort() };
  };
  const taught = await learn({ rank: 2 });
  assert.deepEqual([taught.plan.rows, taught.kinds, taught.history.marks.marks], [2, ["progress", "step"], 2]);
  assert.ok(taught.history.marks.loss[1] < taught.history.marks.loss[0], JSON.stringify(taught.history));
  chat.mark("good");
  const further = await learn({ checkpoint: taught.bytes });
  assert.equal(further.plan.rows, 1);
  assert.equal((await model.inspect(further.bytes)).steps, taught.history.steps + further.history.steps);
  await assert.rejects(model.lesson(chat.marks, { ...settings, steps: 3 }), { code: "invalid" });
});

test("OpenAI's shape", async () => {
  const messages = [{ role: "user", content: "Tell me a story about a bear." }];
  const options = { maxTokens: 6, temperature: 0 };
  const whole = await model.createChatCompletion(messages, options);
  assert.equal(whole.object, "chat.completion");
  assert.equal(whole.usage.completion_tokens <= 6, true);
  let text = "";
  for await (const chunk of await model.createChatCompletion(messages, { ...options, stream: true })) {
    text += chunk.choices[0].delta.content ?? "";
  }
  assert.equal(text.trim(), whole.choices[0].message.content.trim());
});

test("a lesson changes what is said, and its file brings it back", async () => {
  const say = () => model.complete("Dear diary,", { maxTokens: 10, temperature: 0 });
  const before = await say();
  const lesson = await model.lesson(notes, { method: "lora", rank: 4, steps: 6, rate: 1e-2, context: 64 });
  assert.ok(lesson.plan.rows > 0 && lesson.plan.bytes > 1e6 && lesson.plan.steps === 6);
  const losses = [];
  for await (const event of lesson) if (event.type === "step") losses.push(event.loss);
  assert.equal(losses.length, 6);
  assert.ok(losses.at(-1) < losses[0]);
  const bytes = await lesson.toBytes();
  await lesson.close();
  await model.attach(bytes, 1, "notes");
  const taught = await say();
  assert.notEqual(taught.text, before.text);
  assert.deepEqual(model.adapters.map((a) => a.name), ["notes"]);
  const proved = await model.prove(bytes, "Dear diary,");
  const verdict = await model.verify(proved);
  assert.ok(verdict.applied && verdict.tokens > 0 && verdict.distance === 0);
  await model.detach("notes");
  assert.deepEqual(await say(), before);
  assert.equal((await model.inspect(bytes)).kind, "lora");
});

test("a lesson goes on from a checkpoint with the same bytes", async () => {
  const options = { method: "nola", steps: 4, context: 64, seed: 3 };
  const whole = await model.lesson(notes, options);
  await whole.run();
  const half = await model.lesson(notes, options);
  let steps = 0;
  for await (const event of half) if (event.type === "step" && ++steps === 2) break;
  const checkpoint = await half.checkpoint();
  await half.close();
  const rest = await model.lesson(notes, { ...options, checkpoint });
  await rest.run();
  assert.deepEqual(await rest.toBytes(), await whole.toBytes());
  await assert.rejects(model.lesson(notes + "More.", { ...options, checkpoint }).then((l) => l.run()), (e) => e.code === "changed");
  for (const lesson of [whole, rest]) await lesson.close();
});

test("a file for one code", async () => {
  const lesson = await model.lesson(notes, { bytes: 2953, steps: 2, context: 64 });
  await lesson.run();
  const bytes = await lesson.toBytes();
  await lesson.close();
  assert.ok(bytes.length <= 2953);
  const { width, modules } = await model.qr(bytes);
  assert.equal(width * width, modules.length);
  assert.equal(modules[0], 1);
});

test("a cancellation is answered at once, in a text and in a step", async () => {
  const start = async (work) => {
    const control = new AbortController();
    const began = work(control.signal);
    await new Promise((resolve) => setTimeout(resolve, 20));
    const at = performance.now();
    control.abort();
    await assert.rejects(began, (e) => e.name === "AbortError");
    assert.ok(performance.now() - at < 100, `${performance.now() - at} ms`);
  };
  await start((signal) => model.complete("Once upon a time", { maxTokens: 2000, ignoreEos: true, context: 512, signal }));
  const lesson = await model.lesson(notes, { method: "lora", steps: 1000, context: 128, batch: 8 });
  const seen = [];
  const run = lesson.run((event) => void seen.push(event));
  await new Promise((resolve) => setTimeout(resolve, 300));
  const at = performance.now();
  lesson.cancel();
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert.ok(performance.now() - at < 100);
  const history = await run;
  assert.ok(history.steps < 1000);
  await lesson.close();
  assert.ok((await model.complete("Rain", { maxTokens: 2 })).ids.length <= 2);
});

test("vectors and tokens", async () => {
  const [a, b] = await model.embed(["Rain at Gull Rock.", "Tea with the parrot."]);
  assert.equal(a.length, b.length);
  assert.ok(Math.abs(Math.hypot(...a) - 1) < 1e-3);
  const ids = await model.tokenize("Rain, and tea.");
  assert.equal(await model.detokenize(ids), "Rain, and tea.");
});

test("models come from bytes, blobs, streams and addresses, and damaged ones are refused", async () => {
  const base = readFileSync(new URL("base.gguf", pkg));
  const first = async (source, options) => {
    const other = await Mynah.load(source, options);
    const said = await other.complete("Once", { maxTokens: 4, temperature: 0 });
    other.close();
    return said.text;
  };
  const wanted = (await model.complete("Once", { maxTokens: 4, temperature: 0 })).text;
  assert.equal(await first(new Blob([base])), wanted);
  assert.equal(await first(new Blob([base]).stream(), { size: base.length }), wanted);
  assert.equal(await first(new Uint8Array(base)), wanted);
  const server = createServer((_, response) => response.setHeader("content-length", base.length).end(base)).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const seen = [];
  const url = `http://127.0.0.1:${server.address().port}/m.gguf`;
  assert.equal(await first(url, { progress: (p) => seen.push(p) }), wanted);
  assert.deepEqual(seen[0], { loaded: 0, total: base.length, from: "network" });
  assert.equal(seen.at(-1).loaded, base.length);
  server.close();
  await assert.rejects(Mynah.load(new Blob([base.subarray(0, 1000)])), (e) => e instanceof MynahError && e.code === "corrupt");
  await assert.rejects(Mynah.load(new Blob([base]).stream(), { size: base.length + 1 }), (e) => e.code === "corrupt");
  await assert.rejects(Mynah.load(new URL("no.gguf", pkg)), (e) => e.code === "io");
  // More than the memory of an instance holds is refused before the first byte.
  for (const size of [3e9, 5e9]) {
    await assert.rejects(Mynah.load(new Blob([base]).stream(), { size }), (e) => e.code === "memory" && e.message.includes(`${size}`));
  }
});

test("a model that was closed says so", async () => {
  const other = await Mynah.load();
  other.close();
  await assert.rejects(other.complete("Rain"), (e) => e.code === "closed");
});

test("a model of someone else", { skip: !process.env.CI && !existsSync(SMALL) && "no shared models here" }, async () => {
  const other = await Mynah.load(SMALL);
  assert.ok((await other.complete("Once upon a time", { maxTokens: 8, temperature: 0 })).text.length > 0);
  await assert.rejects(
    other.attach(readFileSync(new URL("tests/data/adapters/lora.mynah", root))),
    (e) => e instanceof MynahError && e.code === "mismatch",
  );
  other.close();
});
