// Workers, as browsers and as Node have them.

const node = typeof process !== "undefined" && !!process.versions?.node;

/** Starts a worker: `send` posts to it, `end` ends it. */
export function spawn(url, { message, error }) {
  const waiting = [];
  let worker;
  let ended = false;
  let busy = true;
  const started = (w) => {
    worker = w;
    for (const [what, transfer] of waiting.splice(0)) worker.postMessage(what, transfer);
    if (ended) worker.terminate();
  };
  if (node) {
    import("node:worker_threads").then(({ Worker }) => {
      const w = new Worker(url);
      w.on("message", message);
      w.on("error", (e) => error(e.message));
      started(w);
      if (!busy) w.unref();
    });
  } else {
    const w = new Worker(url, { type: "module", name: "mynah" });
    w.onmessage = (e) => message(e.data);
    w.onerror = (e) => error(e.message || "the worker could not be started");
    started(w);
  }
  return {
    send(what, transfer = []) {
      if (ended) return;
      if (!worker) return void waiting.push([what, transfer]);
      worker.postMessage(what, transfer);
    },
    /** In Node a worker for which nobody waits keeps no program alive. */
    busy(now) {
      busy = now;
      if (node) worker?.[now ? "ref" : "unref"]();
    },
    end() {
      ended = true;
      worker?.terminate();
    },
  };
}

/** The other end, inside a worker. */
export async function parent() {
  if (node) {
    const { parentPort } = await import("node:worker_threads");
    return {
      send: (what, transfer = []) => parentPort.postMessage(what, transfer),
      hear: (handler) => parentPort.on("message", handler),
      turn: () => new Promise((resolve) => setImmediate(resolve)),
    };
  }
  // A message to oneself is a turn of the loop without the delay of a timer.
  const { port1, port2 } = new MessageChannel();
  const waiting = [];
  port1.onmessage = () => waiting.shift()?.();
  return {
    send: (what, transfer = []) => self.postMessage(what, transfer),
    hear: (handler) => (self.onmessage = (e) => handler(e.data)),
    turn: () =>
      new Promise((resolve) => {
        waiting.push(resolve);
        port2.postMessage(0);
      }),
  };
}

/** The bytes of a file beside this one. */
export async function beside(name) {
  const url = new URL(name, import.meta.url);
  if (node && url.protocol === "file:") {
    const { readFile } = await import("node:fs/promises");
    return readFile(url);
  }
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.pathname}: ${response.status} ${response.statusText}`);
  return response;
}

/** Threads to take where nobody says: a thread for each core, but not more than a small model can use. */
export async function cores() {
  const all = node ? (await import("node:os")).availableParallelism() : (navigator.hardwareConcurrency ?? 1);
  return Math.min(all, 8);
}

export { node };
