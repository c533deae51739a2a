// The page in Chromium: node --test wasm/tests/page.test.mjs, after node wasm/build.mjs and npm install playwright-core.
// CHROMIUM names the program; SHOTS a folder for pictures of the page.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const root = new URL("../../", import.meta.url);
const pkg = process.env.PKG ?? fileURLToPath(new URL("wasm/pkg/", root));
const shared = process.env.MYNAH_SHARED ? pathToFileURL(`${process.env.MYNAH_SHARED}/`) : new URL("../shared/", root);
const SMALL = fileURLToPath(new URL("models/stories260K-q4_0.gguf", shared));
const shots = process.env.SHOTS;
const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm" };
const asked = [];
let cut = 0; // after so many bytes a download breaks off, once
let beforeWorker = ""; // what a worker does first
const REFUSES = `{
  const { read } = FileSystemSyncAccessHandle.prototype;
  FileSystemSyncAccessHandle.prototype.read = function (into, at) {
    if (into.buffer instanceof SharedArrayBuffer) throw new TypeError("no shared memory");
    return read.call(this, into, at);
  };
}`;

const server = createServer((request, response) => {
  const path = normalize(decodeURIComponent(new URL(request.url, "http://x").pathname));
  asked.push({ path, range: request.headers.range });
  const file = path === "/small.gguf" ? SMALL : join(pkg, path);
  if (!existsSync(file) || !path.startsWith("/")) return void response.writeHead(404).end();
  const found = readFileSync(path.endsWith("/") ? join(file, "index.html") : file);
  const bytes = path === "/worker.js" ? Buffer.concat([Buffer.from(beforeWorker), found]) : found;
  const headers = { "content-type": types[extname(path)] ?? (path.endsWith("/") ? "text/html" : "application/octet-stream"), etag: '"1"' };
  const from = /^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1];
  const part = from ? bytes.subarray(Number(from)) : bytes;
  response.writeHead(from ? 206 : 200, { ...headers, "content-length": part.length });
  if (cut && path === "/small.gguf") {
    response.write(part.subarray(0, cut));
    cut = 0;
    setTimeout(() => response.destroy(), 50);
  } else response.end(part);
});

let browser;
let page;
let url;
const problems = [];

/** A browser of its own: with workers of services the page becomes isolated, without them it is not. */
async function start(serviceWorkers) {
  const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
  args.push("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage");
  const options = { executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args, serviceWorkers };
  const context = await chromium.launchPersistentContext(mkdtempSync(join(tmpdir(), "mynah-page-")), options);
  const page = context.pages()[0] ?? (await context.newPage());
  page.on("pageerror", (e) => problems.push(e.message));
  await page.goto(`${url}/demo/`);
  return page;
}

const isReady = (page) => page.waitForFunction(() => document.documentElement.dataset.ready, null, { timeout: 60000 });

before(async () => {
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  url = `http://127.0.0.1:${server.address().port}`;
  page = await start("block");
  browser = page.context();
  await isReady(page);
});
after(async () => {
  await browser?.close();
  server.close();
});

const shot = async (name) => {
  if (!shots) return;
  mkdirSync(shots, { recursive: true });
  await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
};
const text = (id) => page.locator(`#${id}`).textContent();

test("talks at once", async () => {
  assert.equal(await page.evaluate(() => crossOriginIsolated), false);
  assert.match(await text("model"), /(relaxed|simd) build.* 1 thread(?!s)/);
  await page.fill("#question", "Tell me a story about a bear.");
  await page.click("#send");
  await page.waitForSelector(".marks", { timeout: 60000 });
  assert.ok((await page.locator("#turns .assistant span").first().textContent()).length > 5);
  console.log(`ready after ${await page.evaluate(() => document.documentElement.dataset.ready)} ms`);
  await shot("talk");
});

test("teaches, and the loss falls", async () => {
  await page.click("#sample");
  await page.waitForFunction(() => document.querySelector("#notes").value.length > 50);
  await page.selectOption("#size", "lora");
  await page.click("#learn");
  await page.waitForSelector("#curve path", { timeout: 60000 });
  await shot("teach");
  await page.waitForFunction(() => document.querySelector("#learnt").textContent.startsWith("Learnt"), null, { timeout: 240000 });
  const [, first, last] = /loss (\d+\.\d+) → (\d+\.\d+)/.exec(await text("learnt"));
  assert.ok(Number(last) < Number(first), await text("learnt"));
  assert.ok((await text("what")).includes("taught-here.mynah"));
});

let adapter;
test("before and after differ, and the adapter can be downloaded", async () => {
  await page.click("#show");
  await page.waitForFunction(() => !document.querySelector("#show").disabled && document.querySelector("#after").textContent.length > 20, null, { timeout: 60000 });
  assert.notEqual(await text("before"), await text("after"));
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#download")]);
  adapter = await download.path();
  assert.ok(readFileSync(adapter).length > 1000);
  await shot("compare");
});

test("a reload forgets, and the file brings it back", async () => {
  const taught = await text("after");
  await page.reload();
  await page.waitForFunction(() => document.documentElement.dataset.ready, null, { timeout: 60000 });
  assert.ok((await text("what")).startsWith("Nothing"));
  await page.setInputFiles("#file", { name: "mine.mynah", mimeType: "application/octet-stream", buffer: readFileSync(adapter) });
  await page.waitForFunction(() => document.querySelector("#what").textContent.includes("mine.mynah"));
  await page.click("#show");
  await page.waitForFunction(() => !document.querySelector("#show").disabled && document.querySelector("#after").textContent.length > 20, null, { timeout: 60000 });
  assert.equal(await text("after"), taught);
});

test("a cancellation in a step is answered at once, and the page stays alive", async () => {
  await page.fill("#notes", "A rainy day at the harbour, and tea with the parrot afterwards. ".repeat(200));
  const longest = page.evaluate(async () => {
    let [last, most] = [performance.now(), 0];
    for (const end = last + 4000; last < end; ) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      const now = performance.now();
      [most, last] = [Math.max(most, now - last), now];
    }
    return most;
  });
  await page.click("#learn");
  await page.waitForSelector("#cancel:not([hidden])", { timeout: 60000 });
  await page.waitForTimeout(1500);
  const ms = await page.evaluate(async () => {
    const at = performance.now();
    document.querySelector("#cancel").click();
    return new Promise((resolve) => setTimeout(() => resolve(performance.now() - at), 0));
  });
  assert.ok(ms < 100, `${ms} ms`);
  await page.waitForSelector("#learn:not([hidden])", { timeout: 60000 });
  console.log(`longest stop of the page ${Math.round(await longest)} ms`);
});

test("a damaged file is refused in words", async () => {
  await page.setInputFiles("#file", { name: "bad.mynah", mimeType: "application/octet-stream", buffer: Buffer.from("MYNA nothing") });
  await page.waitForSelector("#problem:not([hidden])");
  assert.ok((await text("problem")).length > 10);
});

test("one QR code", async () => {
  await page.selectOption("#size", "code");
  await page.click("#sample");
  await page.click("#learn");
  await page.waitForFunction(() => document.querySelector("#learnt").textContent.startsWith("Learnt"), null, { timeout: 240000 });
  await page.click("#share");
  await page.waitForSelector("#code:not([hidden])");
  await shot("code");
  await page.setViewportSize({ width: 390, height: 800 });
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
  await page.emulateMedia({ colorScheme: "dark" });
  await shot("phone-dark");
});

test("what was loaded is kept, a broken download goes on, and a window without files still works", { skip: !process.env.CI && !existsSync(SMALL) && "no shared models here" }, async () => {
  const load = (options) =>
    page.evaluate(async ([address, options]) => {
      const { Mynah, cache } = await import("/mynah.js");
      const from = [];
      try {
        const model = await Mynah.load(address, { ...options, progress: (p) => from.push(p.from) });
        const { notes } = model.facts;
        model.close();
        return { from: from[0], notes };
      } catch (e) {
        // The built-in base is kept too.
        return { code: e.code, message: e.message, kept: (await cache.list()).find(({ url }) => url === address) };
      }
    }, [`${url}/small.gguf`, options]);
  cut = 100000;
  const broken = await load({});
  assert.ok(broken.code, JSON.stringify(broken));
  assert.equal(broken.kept?.complete, false, JSON.stringify(broken));
  assert.ok(broken.kept.have > 0 && broken.kept.have < broken.kept.size, JSON.stringify(broken));
  const went = await load({});
  assert.ok(went.notes.some((note) => note.includes("continued")), JSON.stringify(went));
  assert.ok(asked.some(({ range }) => range));
  const before = asked.filter(({ path }) => path === "/small.gguf").length;
  assert.equal((await load({})).from, "cache");
  assert.equal(asked.filter(({ path }) => path === "/small.gguf").length, before);
  await page.evaluate(async () => (await import("/mynah.js")).cache.clear());
  const session = await browser.newCDPSession(page);
  await session.send("Storage.overrideQuotaForOrigin", { origin: url, quotaSize: 1 });
  const full = await load({});
  assert.ok(full.from === "network" && full.notes.some((note) => note.startsWith("not kept")), JSON.stringify(full));
});

test("where service workers are, the page isolates itself and its threads say and learn the same", async () => {
  const isolated = await start("allow");
  try {
    await isolated.waitForFunction(() => crossOriginIsolated && document.documentElement.dataset.ready, null, { timeout: 60000 });
    const work = (page, options) =>
      page.evaluate(async (options) => {
        const { Mynah, cache } = await import("/mynah.js");
        const model = await Mynah.load(undefined, options);
        const { text } = await model.complete("Once upon a time", { maxTokens: 16, temperature: 0 });
        const lesson = await model.lesson(await (await fetch("/demo/notes.txt")).text(), { method: "nola", steps: 2, context: 64 });
        await lesson.run();
        const result = { text, bytes: [...(await lesson.toBytes())] };
        const crashed = await model.complete(options.fail).catch((e) => e.code);
        const again = (await model.complete("Once upon a time", { maxTokens: 16, temperature: 0 })).text;
        const { build, threads } = model.facts;
        model.close();
        const { from } = await new Promise((resolve) => Mynah.load(undefined, { ...options, progress: resolve }).then((m) => m.close()));
        return { build, threads, crashed, same: again === text, from, kept: (await cache.list()).length, result };
      }, options);
    const first = (page, build) =>
      page.evaluate(async (build) => {
        const { Mynah } = await import("/mynah.js");
        const model = await Mynah.load(undefined, { threads: 2, build });
        const { text } = await model.complete("Once upon a time", { maxTokens: 16, temperature: 0 });
        model.close();
        return { text, notes: model.facts.notes };
      }, build);
    const two = await work(isolated, { threads: 2, build: "threads", fail: "fail in a helper" });
    const one = await work(page, { threads: 2, build: "simd", fail: "fail here" });
    // Loaded again from the origin's own files, which are read into shared memory.
    assert.deepEqual({ ...two, result: 0 }, { build: "threads", threads: 2, crashed: "crashed", same: true, from: "cache", kept: 1, result: 0 });
    assert.deepEqual({ ...one, build: 0, from: 0, kept: 0, result: 0 }, { build: 0, threads: 1, crashed: "crashed", same: true, from: 0, kept: 0, result: 0 });
    assert.deepEqual(two.result, one.result);
    // Where such files refuse shared memory they are read through a small buffer.
    beforeWorker = REFUSES;
    const [small, plain] = [await first(isolated, "threads"), ((beforeWorker = ""), await first(page, "simd"))];
    assert.deepEqual(small, { text: plain.text, notes: [] });
    assert.equal(plain.notes[0], "one thread: this page is not isolated");
    await isolated.fill("#question", "Tell me a story about a bear.");
    await isolated.click("#send");
    await isolated.waitForSelector(".marks", { timeout: 60000 });
    if (shots) await isolated.screenshot({ path: join(shots, "threads.png"), fullPage: true });
  } finally {
    await isolated.context().close();
  }
});

test("nothing else was asked for, and nothing broke", () => {
  assert.deepEqual(problems, []);
});
