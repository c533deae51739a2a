// How fast a model speaks in WebAssembly, beside the native program: one thread each, in turns, medians.
//
//   cargo build --release
//   node wasm/bench.mjs MODEL.gguf [rounds]
//
// Builds the WebAssembly crate with simd128 and again with relaxed-simd, and forces the native program to AVX2 on x86-64.
// `cargo` and `wasm-bindgen` are those of the path; CARGO_TOOLCHAIN=+name chooses another toolchain.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

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

function built(name, features) {
  const target = join(root, "target", name);
  const toolchain = process.env.CARGO_TOOLCHAIN ? [process.env.CARGO_TOOLCHAIN] : [];
  const args = [...toolchain, "build", "--release", "-p", "mynah-wasm", "--target", "wasm32-unknown-unknown", "--target-dir", target];
  execFileSync("cargo", args, { cwd: root, stdio: "inherit", env: { ...process.env, RUSTFLAGS: `-C target-feature=${features}` } });
  const wasm = join(target, "wasm32-unknown-unknown/release/mynah_wasm.wasm");
  execFileSync("wasm-bindgen", ["--target", "nodejs", "--out-dir", join(target, "pkg"), wasm]);
  const { Mynah } = createRequire(import.meta.url)(join(target, "pkg/mynah_wasm.js"));
  return new Mynah(readFileSync(model));
}

// Tokens a second after the first, whose time has the prompt's in it.
function spoken(m) {
  const seconds = (count) => {
    const start = performance.now();
    const ids = m.ids(prompt, count);
    if (ids.length !== count) throw new Error(`${ids.length} tokens of ${count}`);
    return (performance.now() - start) / 1000;
  };
  return (tokens - 1) / (seconds(tokens) - seconds(1));
}

function native(backend) {
  const args = ["run", "-m", model, "-p", prompt, "-n", `${tokens}`, "--ignore-end", "--threads", "1", "--json"];
  const env = { ...process.env, ...(backend && { MYNAH_BACKEND: backend }) };
  const lines = execFileSync(join(root, "target/release/mynah"), args, { env, stdio: ["ignore", "pipe", "ignore"] });
  return JSON.parse(lines.toString().trim().split("\n").at(-1)).tokens_per_second;
}

const backend = process.arch === "x64" ? "avx2" : undefined;
const contestants = { [`native ${backend ?? ""}`.trim()]: () => native(backend) };
for (const [name, features] of [["wasm-simd128", "+simd128"], ["wasm-relaxed", "+simd128,+relaxed-simd"]]) {
  const [m, beside] = [built(name, features), built(name, features)];
  beside.repack();
  contestants[`wasm ${m.kernels()}`] = () => spoken(m);
  contestants[`wasm ${m.kernels()}, repacked`] = () => spoken(beside);
}
const rates = Object.fromEntries(Object.keys(contestants).map((name) => [name, []]));
for (let round = 0; round < Number(rounds); round++) {
  for (const [name, run] of Object.entries(contestants)) rates[name].push(run());
}
const median = (x) => x.toSorted((a, b) => a - b)[x.length >> 1];
const reference = median(Object.values(rates)[0]);
console.log("| | tokens/s | least | most | of native |\n| --- | --- | --- | --- | --- |");
for (const [name, x] of Object.entries(rates)) {
  const cells = [median(x), Math.min(...x), Math.max(...x)].map((v) => v.toFixed(1));
  console.log(`| ${name} | ${cells.join(" | ")} | ${(median(x) / reference).toFixed(2)} |`);
}
