// The bytes of a model into memory, once.

import { node } from "./port.js";
import * as cache from "./cache.js";

const failed = (code, message) => Object.assign(new Error(message), { code });

/** Tells how far it is, some ten times a second. */
function meter(call, total, from) {
  let last = 0;
  return (loaded) => {
    const now = performance.now();
    if (loaded !== total && loaded !== 0 && now - last < 100) return;
    last = now;
    call.event({ loaded, total, from });
  };
}

/** Room in the instance's memory; the bytes are said before they are taken. */
function room(engine, call, total, from) {
  const tell = meter(call, total, from);
  tell(0);
  return [new engine.File(total), tell];
}

const view = (engine, file, at, length) => new Uint8Array(engine.room.buffer, file.ptr() + at, length);

/** Reads from a handle into memory at the same place: straight, or through a small buffer where shared memory is refused. */
function readAt(access, engine, file, at, length) {
  try {
    return access.read(view(engine, file, at, length), { at });
  } catch (e) {
    if (!engine.shared || !(e instanceof TypeError)) throw e;
    const small = new Uint8Array(Math.min(length, 1 << 20));
    const read = access.read(small, { at });
    file.write(at, small.subarray(0, read));
    return read;
  }
}

/** Copies a stream into a file, from a place on. */
async function fill(file, stream, tell, cancelled, at = 0, each) {
  const reader = stream.getReader();
  try {
    for (;;) {
      if (cancelled()) throw Object.assign(new Error("cancelled"), { name: "AbortError" });
      const { done, value } = await reader.read();
      if (done) break;
      if (at + value.length > file.len()) throw failed("corrupt", `the model has more than the ${file.len()} bytes that were announced`);
      file.write(at, value);
      each?.(value, at);
      at += value.length;
      tell(at);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  return at;
}

const whole = (at, total) => {
  if (at !== total) throw failed("corrupt", `the model ended after ${at} of ${total} bytes`);
};

async function ofBlob(blob, engine, call, cancelled, from = "file") {
  const [file, tell] = room(engine, call, blob.size, from);
  whole(await fill(file, blob.stream(), tell, cancelled), blob.size);
  return { file, notes: [] };
}

/** A stream of unknown length is collected first, which takes its bytes twice for a moment. */
async function ofStream(stream, size, engine, call, cancelled, from) {
  if (size) {
    const [file, tell] = room(engine, call, size, from);
    whole(await fill(file, stream, tell, cancelled), size);
    return { file, notes: [] };
  }
  const blob = await new Response(stream).blob();
  const read = await ofBlob(blob, engine, call, cancelled, from);
  return { ...read, notes: ["the length of the stream was not known, so it was kept twice while it came"] };
}

async function ofDisk(url, engine, call) {
  const { open } = await import("node:fs/promises");
  const disk = await open(url).catch((e) => {
    throw failed("io", `${url.pathname}: ${e.message}`);
  });
  try {
    const { size } = await disk.stat();
    const [file, tell] = room(engine, call, size, "file");
    const PIECE = 8 << 20;
    for (let at = 0; at < size; ) {
      const { bytesRead } = await disk.read(view(engine, file, at, Math.min(PIECE, size - at)), 0, Math.min(PIECE, size - at), at);
      if (!bytesRead) whole(at, size);
      at += bytesRead;
      tell(at);
    }
    return { file, notes: [] };
  } finally {
    await disk.close();
  }
}

/** From an open handle of the origin's own files, straight into memory. */
function fromHandle(access, engine, call, size, from) {
  const [file, tell] = room(engine, call, size, from);
  const PIECE = 8 << 20;
  for (let at = 0; at < size; ) {
    const n = readAt(access, engine, file, at, Math.min(PIECE, size - at));
    if (!n) whole(at, size);
    at += n;
    tell(at);
  }
  return file;
}

async function ofUrl(href, engine, call, cancelled, wanted) {
  const url = new URL(href);
  if (node && url.protocol === "file:") return ofDisk(url, engine, call);
  const notes = [];
  const kept = wanted === false ? undefined : await cache.find(href).catch((e) => void notes.push(`not kept: ${e.message}`));
  if (kept?.complete) {
    const access = await cache.open(kept, { write: false });
    try {
      const file = fromHandle(access, engine, call, kept.size, "cache");
      if (!kept.digest || file.digest() === kept.digest) return { file, notes };
      file.free();
      notes.push("what was kept of the model was damaged, and is loaded again");
    } finally {
      access.close();
    }
    await cache.remove(href);
  }
  const have = kept && !kept.complete ? kept.have : 0;
  const headers = have ? { Range: `bytes=${have}-`, ...(kept.etag && { "If-Range": kept.etag }) } : {};
  const response = await fetch(href, { headers }).catch((e) => {
    throw failed("io", `${href}: ${e.message}`);
  });
  if (!response.ok) throw failed("io", `${href}: ${response.status} ${response.statusText}`);
  const resumed = response.status === 206;
  const length = Number(response.headers.get("content-length"));
  // A body that was packed on the way has another length than the header says.
  const coded = response.headers.get("content-encoding");
  if (!length || (coded && coded !== "identity")) return ofStream(response.body, 0, engine, call, cancelled, "network");
  const total = resumed ? have + length : length;
  const [file, tell] = room(engine, call, total, "network");
  const etag = response.headers.get("etag") ?? response.headers.get("last-modified") ?? "";
  let keep = wanted === false ? undefined : await cache.begin(href, { size: total, etag, resumed }).catch((e) => void notes.push(`not kept: ${e.message}`));
  try {
    if (resumed) {
      for (let at = 0; at < have; ) {
        const n = keep ? readAt(keep.access, engine, file, at, have - at) : 0;
        if (!n) throw failed("io", "what was kept of the model cannot be read; load it again");
        at += n;
      }
      notes.push(`continued at byte ${have}`);
    }
    const each = (bytes, at) => {
      try {
        keep?.access.write(bytes, { at });
      } catch (e) {
        // A full disk keeps nobody from using the model.
        notes.push(`not kept: ${e.message}`);
        keep.access.close();
        keep = undefined;
        cache.remove(href).catch(() => {});
      }
    };
    whole(await fill(file, response.body, tell, cancelled, resumed ? have : 0, each), total);
    if (keep) await cache.finish(keep, file.digest());
    keep = undefined;
    return { file, notes };
  } catch (error) {
    file.free();
    throw error;
  } finally {
    keep?.access.close();
  }
}

/** Reads what a page has named. */
export async function read(source, engine, call, { cache: wanted, cancelled }) {
  if (source.url) return ofUrl(source.url, engine, call, cancelled, wanted);
  if (source.blob) return ofBlob(source.blob, engine, call, cancelled);
  if (source.stream) return ofStream(source.stream, source.size, engine, call, cancelled, "stream");
  if (source.handle) return ofBlob(await source.handle.getFile(), engine, call, cancelled);
  const [file, tell] = room(engine, call, source.bytes.length, "memory");
  file.write(0, source.bytes);
  tell(source.bytes.length);
  return { file, notes: [] };
}
