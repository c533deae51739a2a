// Which build of the WebAssembly module an engine can run.

import built from "./builds.js";
import { beside, cores, node } from "./port.js";

// The smallest modules that use an instruction of each extension.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const RELAXED = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11,
];
const can = (module) => WebAssembly.validate(Uint8Array.from(module));


/** Whether this place may share memory between workers: a page that is isolated, or Node. */
const shares = () => typeof SharedArrayBuffer !== "undefined" && (globalThis.crossOriginIsolated ?? node);

/** Builds, the best first, and whether one can run here. */
export const BUILDS = [
  { name: "threads", can: () => shares() && can(SIMD) },
  { name: "relaxed", can: () => can(RELAXED) },
  { name: "simd", can: () => can(SIMD) },
].filter(({ name }) => name in built);

/** Memory for several instances. Its maximum is put aside as addresses at once: some systems have few of them. */
function shared({ initial, maximum }) {
  for (let most = maximum; ; most = Math.ceil(most / 2)) {
    try {
      return new WebAssembly.Memory({ initial, maximum: most, shared: true });
    } catch (e) {
      if (most < SMALLEST) throw Object.assign(e, { code: "memory" });
    }
  }
}
const SMALLEST = 4096; // pages: 256 MB

/** Starts the best build that can run here, or the one that is named. `hire` is told what a helper needs, and how many may come. */
export async function openEngine({ build: wanted, threads }, hire) {
  if (threads !== undefined && !(Number.isInteger(threads) && threads > 0)) {
    throw Object.assign(new Error(`threads: ${threads} is not a number of them`), { code: "invalid" });
  }
  const most = threads ?? (await cores());
  const notes = [];
  const fits = ({ name, can }) => (wanted === undefined ? name !== "threads" || most > 1 : name === wanted) && can();
  for (const build of BUILDS.filter(fits)) {
    try {
      const engine = await open(build.name, most, hire);
      if (threads > 1 && !engine.shared) engine.notes.push(`one thread: ${shares() ? "this build has no more" : "this page is not isolated"}`);
      engine.notes.unshift(...notes);
      return engine;
    } catch (e) {
      // Without room for shared memory one thread still works.
      if (wanted || build.name !== "threads") throw e;
      notes.push(`no threads: ${e.message}`);
    }
  }
  const names = BUILDS.filter(({ can }) => can()).map(({ name }) => name);
  const why = wanted ? `build ${wanted}: here ${names.join(", ") || "none"} can run` : "this engine has no WebAssembly SIMD";
  throw Object.assign(new Error(why), { code: "unsupported" });
}

/** As it comes, if the server says what it is. */
async function compiled(found) {
  if (node) return WebAssembly.compile(found);
  const streams = found.headers.get("content-type")?.startsWith("application/wasm");
  return streams ? WebAssembly.compileStreaming(found) : WebAssembly.compile(await found.arrayBuffer());
}

async function open(name, threads, hire) {
  const module = await import(`./${name}/mynah.js`);
  const found = await beside(`./${name}/mynah.wasm`);
  const code = await compiled(found);
  const memory = built[name] && shared(built[name]);
  const exports = await module.default({ module_or_path: code, ...(memory && { memory }) });
  module.start();
  if (memory) hire({ build: name, module: code, memory }, threads - 1);
  return { ...module, build: name, room: memory ?? exports.memory, shared: !!memory, notes: [] };
}
