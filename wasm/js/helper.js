// A helper of the engine: another instance of its module in the same memory, which does parts of its work.

import { parent } from "./port.js";

const port = await parent();
let panicked;
globalThis.mynahPanicked = (message) => (panicked = message);

port.hear(async ({ build, module, memory }) => {
  let engine;
  try {
    engine = await import(`./${build}/mynah.js`);
    await engine.default({ module_or_path: module, memory });
  } catch (e) {
    return void port.send({ missing: e.message });
  }
  port.send({ here: true });
  try {
    // Until the memory goes, and this worker with it.
    engine.serve();
  } catch (e) {
    port.send({ died: panicked ?? e.message });
  }
});
