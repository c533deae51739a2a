// Makes the package: node wasm/build.mjs [OUT]
//
// Builds the crate once for each kind of engine and puts the modules, the JavaScript and the built-in model into OUT
// (wasm/pkg). `cargo`, `wasm-bindgen` and, if there is one, `wasm-opt` are those of the path; CARGO_TOOLCHAIN=+name chooses
// another toolchain, MYNAH_PROFILE=dev a faster build, MYNAH_BUILDS=simd,relaxed which modules, MYNAH_FEATURES
// features of the crate.

import { execFileSync } from "node:child_process";
import { copyFileSync, cpSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(here);
const out = process.argv[2] ?? join(here, "pkg");
const profile = process.env.MYNAH_PROFILE ?? "release";
const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const toolchain = process.env.CARGO_TOOLCHAIN ? [process.env.CARGO_TOOLCHAIN] : [];
const all = { simd: "+simd128", relaxed: "+simd128,+relaxed-simd" };
const wanted = process.env.MYNAH_BUILDS?.split(",") ?? Object.keys(all);
const builds = Object.fromEntries(wanted.map((name) => [name, all[name]]));

const next = `${out}.tmp-${process.pid}`;
rmSync(next, { recursive: true, force: true });
mkdirSync(next, { recursive: true });
cpSync(join(here, "js"), next, { recursive: true });
cpSync(join(here, "demo"), join(next, "demo"), { recursive: true });
copyFileSync(join(root, "src/base/base.gguf"), join(next, "base.gguf"));
copyFileSync(join(root, "src/base/notes.txt"), join(next, "demo/notes.txt"));
for (const name of ["LICENSE-APACHE", "LICENSE-MIT"]) copyFileSync(join(root, name), join(next, name));
const rows = [];
for (const [name, features] of Object.entries(builds)) {
  const args = [...toolchain, "build", "--locked", "--profile", profile, "-p", "mynah-wasm", "--target", "wasm32-unknown-unknown"];
  if (process.env.MYNAH_FEATURES) args.push("--features", process.env.MYNAH_FEATURES);
  execFileSync("cargo", args, { cwd: root, stdio: "inherit", env: { ...process.env, RUSTFLAGS: `-C target-feature=${features}` } });
  const built = join(target, "wasm32-unknown-unknown", profile === "dev" ? "debug" : profile, "mynah_wasm.wasm");
  execFileSync("wasm-bindgen", ["--target", "web", "--out-name", "mynah", "--out-dir", join(next, name), built], { stdio: "inherit" });
  renameSync(join(next, name, "mynah_bg.wasm"), join(next, name, "mynah.wasm"));
  const size = (file) => [statSync(file).size, gzipSync(readFileSync(file)).length];
  rows.push([`${name} (${features})`, ...size(join(next, name, "mynah.wasm"))]);
}
writeFileSync(join(next, "builds.js"), `// The modules of this package.\nexport default ${JSON.stringify(Object.keys(builds))};\n`);
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
