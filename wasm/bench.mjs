// How fast a model speaks in WebAssembly, beside the native program: one thread each, in turns, medians.
//
//   cargo build --release && node wasm/build.mjs
//   node wasm/bench.mjs MODEL.gguf [rounds]
//
// The native program is forced to AVX2 on x86-64, whose vectors are twice as wide as WebAssembly's.

import { execFileSync } from "node:child_process";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const [model, rounds = "7"] = process.argv.slice(2);
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
const prompt = "Once upon a time";
const tokens = 128;

const { Mynah } = await import(pathToFileURL(join(root, "wasm/pkg/mynah.js")).href);

// Tokens a second after the first, whose time has the prompt's in it.
async function spoken(m) {
  const seconds = async (count) => {
    const start = performance.now();
    const { ids } = await m.complete(prompt, { maxTokens: count, temperature: 0, ignoreEos: true });
    if (ids.length !== count) throw new Error(`${ids.length} tokens of ${count}`);
    return (performance.now() - start) / 1000;
  };
  return (tokens - 1) / ((await seconds(tokens)) - (await seconds(1)));
}

function native(backend) {
  const args = ["run", "-m", model, "-p", prompt, "-n", `${tokens}`, "--ignore-end", "--threads", "1", "--json"];
  const env = { ...process.env, ...(backend && { MYNAH_BACKEND: backend }) };
  const lines = execFileSync(join(root, "target/release/mynah"), args, { env, stdio: ["ignore", "pipe", "ignore"] });
  return JSON.parse(lines.toString().trim().split("\n").at(-1)).tokens_per_second;
}

const backend = process.arch === "x64" ? "avx2" : undefined;
const contestants = { [`native ${backend ?? ""}`.trim()]: () => native(backend) };
for (const build of ["simd", "relaxed"]) {
  const m = await Mynah.load(pathToFileURL(resolve(model)), { build });
  contestants[`wasm ${m.facts.kernels}`] = () => spoken(m);
}
const rates = Object.fromEntries(Object.keys(contestants).map((name) => [name, []]));
for (let round = 0; round < Number(rounds); round++) {
  for (const [name, run] of Object.entries(contestants)) rates[name].push(await run());
}
const median = (x) => x.toSorted((a, b) => a - b)[x.length >> 1];
const reference = median(Object.values(rates)[0]);
console.log("| | tokens/s | least | most | of native |\n| --- | --- | --- | --- | --- |");
for (const [name, x] of Object.entries(rates)) {
  const cells = [median(x), Math.min(...x), Math.max(...x)].map((v) => v.toFixed(1));
  console.log(`| ${name} | ${cells.join(" | ")} | ${(median(x) / reference).toFixed(2)} |`);
}
process.exit();
