// Which build of the WebAssembly module an engine can run.

import built from "./builds.js";
import { beside, node } from "./port.js";

// The smallest modules that use an instruction of each extension.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const RELAXED = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11,
];
const can = (module) => WebAssembly.validate(Uint8Array.from(module));

/** Builds, the best first, and whether one can run here. */
export const BUILDS = [
  { name: "relaxed", can: () => can(RELAXED) },
  { name: "simd", can: () => can(SIMD) },
].filter(({ name }) => built.includes(name));

/** Starts the best build that can run here, or the one that is named. */
export async function openEngine(wanted) {
  const build = BUILDS.find(({ name, can }) => (wanted === undefined || name === wanted) && can());
  if (!build) {
    const names = BUILDS.filter(({ can }) => can()).map(({ name }) => name);
    const why = wanted ? `build ${wanted}: here ${names.join(", ") || "none"} can run` : "this engine has no WebAssembly SIMD";
    throw Object.assign(new Error(why), { code: "unsupported" });
  }
  const module = await import(`./${build.name}/mynah.js`);
  const found = await beside(`./${build.name}/mynah.wasm`);
  const exports = await module.default({ module_or_path: node ? await WebAssembly.compile(found) : found });
  module.start();
  return { ...module, build: build.name, room: exports.memory };
}
