// Makes the package: node wasm/build.mjs [OUT]
//
// Builds the crate once for each kind of engine and puts the modules, the JavaScript and the built-in model into OUT
// (wasm/pkg). `cargo` and `wasm-bindgen` are those of the path; CARGO_TOOLCHAIN=+name chooses another toolchain,
// MYNAH_PROFILE=dev a faster build, MYNAH_BUILDS=simd,relaxed,threads which modules, MYNAH_FEATURES features of the crate.
// The build with threads makes the standard library anew, so it needs the toolchain's `rust-src`.

import { execFileSync } from "node:child_process";
import { copyFileSync, cpSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(here);
const out = process.argv[2] ?? join(here, "pkg");
const profile = process.env.MYNAH_PROFILE ?? "browser";
const usual = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const toolchain = process.env.CARGO_TOOLCHAIN ? [process.env.CARGO_TOOLCHAIN] : [];
// Most bytes of a memory that instances share: all that has 32-bit addresses but the last page, whose end has none.
const maximum = 2 ** 32 - 2 ** 16;
const exported = ["__wasm_init_tls", "__tls_size", "__tls_align", "__tls_base", "__heap_base"].map((name) => `--export=${name}`);
const linked = ["--shared-memory", "--import-memory", `--max-memory=${maximum}`, ...exported];
// Build scripts look at RUSTC_BOOTSTRAP: in one folder, each build would make everything of the other anew.
const all = {
  simd: { features: "+simd128" },
  relaxed: { features: "+simd128,+relaxed-simd" },
  threads: { features: "+simd128,+atomics", linked, args: ["-Zbuild-std=std,panic_abort"], env: { RUSTC_BOOTSTRAP: "1" }, target: join(usual, "threads") },
};
const wanted = process.env.MYNAH_BUILDS?.split(",") ?? Object.keys(all);

const next = `${out}.tmp-${process.pid}`;
rmSync(next, { recursive: true, force: true });
mkdirSync(next, { recursive: true });
cpSync(join(here, "js"), next, { recursive: true });
cpSync(join(here, "demo"), join(next, "demo"), { recursive: true });
copyFileSync(join(root, "src/base/base.gguf"), join(next, "base.gguf"));
copyFileSync(join(root, "src/base/notes.txt"), join(next, "demo/notes.txt"));
for (const name of ["LICENSE-APACHE", "LICENSE-MIT"]) copyFileSync(join(root, name), join(next, name));
const rows = [];
const builds = {};
for (const name of wanted) {
  const { features, linked = [], args = [], env = {}, target = usual } = all[name];
  const command = [...toolchain, "build", "--locked", ...args, "--profile", profile, "-p", "mynah-wasm", "--target", "wasm32-unknown-unknown"];
  if (process.env.MYNAH_FEATURES) command.push("--features", process.env.MYNAH_FEATURES);
  const flags = [`-C target-feature=${features}`, ...linked.map((arg) => `-C link-arg=${arg}`)];
  execFileSync("cargo", command, { cwd: root, stdio: "inherit", env: { ...process.env, ...env, CARGO_TARGET_DIR: target, RUSTFLAGS: flags.join(" ") } });
  const built = join(target, "wasm32-unknown-unknown", profile === "dev" ? "debug" : profile, "mynah_wasm.wasm");
  const bind = ["--target", "web", "--out-name", "mynah", "--out-dir", join(next, name), built];
  // Names of functions are a fifth of a module; traces of a development build have use for them.
  if (profile !== "dev") bind.push("--remove-name-section", "--remove-producers-section");
  execFileSync("wasm-bindgen", bind, { stdio: "inherit" });
  // What the loader says of memory that it makes itself: in pages, as the module wants it.
  const memory = /WebAssembly\.Memory\(\{\s*initial:\s*(\d+),\s*maximum:\s*(\d+)/.exec(readFileSync(join(next, name, "mynah.js"), "utf8"));
  builds[name] = memory && { initial: Number(memory[1]), maximum: Number(memory[2]) };
  renameSync(join(next, name, "mynah_bg.wasm"), join(next, name, "mynah.wasm"));
  const size = (file) => [statSync(file).size, gzipSync(readFileSync(file)).length];
  rows.push([`${name} (${features})`, ...size(join(next, name, "mynah.wasm"))]);
}
writeFileSync(join(next, "builds.js"), `// The modules of this package, and the pages of memory that each is to be given.\nexport default ${JSON.stringify(builds)};\n`);
rows.push(["built-in model", statSync(join(next, "base.gguf")).size, gzipSync(readFileSync(join(next, "base.gguf"))).length]);
const version = /^version = "(.*)"/m.exec(readFileSync(join(here, "Cargo.toml"), "utf8"))[1];
writeFileSync(
  join(next, "package.json"),
  JSON.stringify(
    {
      name: "mynah",
      version,
      description: "Teaches a language model in the page it runs in.",
      license: "MIT OR Apache-2.0",
      type: "module",
      exports: { ".": { types: "./mynah.d.ts", default: "./mynah.js" }, "./*": "./*" },
      types: "./mynah.d.ts",
      sideEffects: false,
    },
    null,
    2,
  ) + "\n",
);
rmSync(out, { recursive: true, force: true });
renameSync(next, out);
console.log("| | bytes | gzipped |\n| --- | --- | --- |");
for (const row of rows) console.log(`| ${row.join(" | ")} |`);
