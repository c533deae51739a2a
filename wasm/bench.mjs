// How fast a model reads, speaks and learns in WebAssembly, beside the native program with as many threads: in turns, medians.
//
//   cargo build --release && node wasm/build.mjs
//   node wasm/bench.mjs MODEL.gguf [rounds]
//
// The native program is forced to AVX2 on x86-64, whose vectors are twice as wide as WebAssembly's. MYNAH names another
// one, PKG another package; builds that it lacks are left out.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const [model, rounds = "5"] = process.argv.slice(2);
if (!model) {
  console.error("usage: node wasm/bench.mjs MODEL.gguf [rounds]");
  process.exit(2);
}
const relaxed = "--experimental-wasm-relaxed-simd";
if (!process.execArgv.includes(relaxed)) {
  // Node 20 has the relaxed instructions behind this flag.
  const args = [relaxed, ...process.argv.slice(1)];
  execFileSync(process.execPath, args, { stdio: "inherit" });
  process.exit();
}
const root = dirname(dirname(fileURLToPath(import.meta.url)));
const program = process.env.MYNAH ?? join(root, "target/release/mynah");
const backend = process.arch === "x64" ? "avx2" : undefined;
const notes = join(root, "src/base/notes.txt");
const said = 128;
const read = 256;
const taught = { method: "lora", rank: 4, steps: 2, context: 128, heldOut: 0 };

const { Mynah } = await import(pathToFileURL(resolve(process.env.PKG ?? join(root, "wasm/pkg"), "mynah.js")).href);

/** Tokens a second: of a prompt, of what follows it, of steps of training. */
async function inWasm(m) {
  const seconds = async (prompt, maxTokens) => {
    const start = performance.now();
    const { ids, promptTokens } = await m.complete(prompt, { maxTokens, temperature: 0, ignoreEos: true });
    if (ids.length !== maxTokens) throw new Error(`${ids.length} tokens of ${maxTokens}`);
    return [(performance.now() - start) / 1000, promptTokens];
  };
  const text = await m.detokenize((await m.tokenize(readFileSync(notes, "utf8"))).slice(0, read));
  const [long, tokens] = await seconds(text, 1);
  // The time of the first token has the prompt's in it.
  const [[all], [first]] = [await seconds("Once upon a time", said), await seconds("Once upon a time", 1)];
  const lesson = await m.lesson(readFileSync(notes, "utf8"), taught);
  const { tokensPerSecond } = await lesson.run();
  await lesson.close();
  return { prompt: tokens / long, decode: (said - 1) / (all - first), train: tokensPerSecond };
}

function native(threads) {
  const env = { ...process.env, ...(backend && { MYNAH_BACKEND: backend }) };
  const json = (...args) => {
    const lines = execFileSync(program, [...args, "-m", model, "--threads", `${threads}`, "--json"], { env, stdio: ["ignore", "pipe", "ignore"] });
    return lines.toString().trim().split("\n").map((line) => JSON.parse(line));
  };
  const [prompt, decode] = json("bench", "-p", `${read}`, "-n", `${said}`, "-r", "1").map((row) => row.median_ts);
  const { method, rank, steps, context, heldOut } = taught;
  const to = join(mkdtempSync(join(tmpdir(), "mynah-bench-")), "out.mynah");
  const settings = ["--method", method, "--rank", rank, "--steps", steps, "--ctx", context, "--held-out", heldOut].map(String);
  const [{ tokens_per_second }] = json("train", "-d", notes, "-o", to, ...settings);
  return { prompt, decode, train: tokens_per_second };
}

const most = Math.min(2, availableParallelism());
const contestants = {};
for (let threads = 1; threads <= most; threads++) contestants[`native ${backend ?? ""}, ${threads}`] = { threads, run: () => native(threads) };
for (const [build, threads] of [["simd", 1], ["relaxed", 1], ["threads", 1], ["threads", most]]) {
  const m = await Mynah.load(pathToFileURL(resolve(model)), { build, threads }).catch((e) => {
    if (e.code !== "unsupported") throw e;
    console.error(e.message);
  });
  if (!m) continue;
  contestants[`${build}, ${m.facts.threads}`] = { threads: m.facts.threads, run: () => inWasm(m) };
}
const measured = Object.fromEntries(Object.keys(contestants).map((name) => [name, []]));
for (let round = 0; round < Number(rounds); round++) {
  for (const [name, { run }] of Object.entries(contestants)) measured[name].push(await run());
}
const median = (x) => x.toSorted((a, b) => a - b)[x.length >> 1];
console.log("| | | tokens/s | least | most | of native |\n| --- | --- | --- | --- | --- | --- |");
for (const work of ["prompt", "decode", "train"]) {
  const rates = (name) => measured[name].map((all) => all[work]);
  for (const [name, { threads }] of Object.entries(contestants)) {
    const x = rates(name);
    const reference = median(rates(Object.keys(contestants)[threads - 1]));
    const cells = [median(x), Math.min(...x), Math.max(...x)].map((v) => v.toFixed(1));
    console.log(`| ${work} | ${name} | ${cells.join(" | ")} | ${(median(x) / reference).toFixed(2)} |`);
  }
}
process.exit();
