// Models that were loaded from a URL, kept in the origin's own files.

const FOLDER = "mynah";

const missing = () => new Error("this browser window keeps no files");

async function folder() {
  const root = await (globalThis.navigator?.storage?.getDirectory?.() ?? Promise.reject(missing()));
  return root.getDirectoryHandle(FOLDER, { create: true });
}

/** A name for a URL that every file system takes. */
async function nameOf(url) {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(url));
  return [...new Uint8Array(digest).slice(0, 16)].map((b) => b.toString(16).padStart(2, "0")).join("");
}

async function readJson(dir, name) {
  try {
    return JSON.parse(await (await (await dir.getFileHandle(name)).getFile()).text());
  } catch {
    return undefined;
  }
}

async function writeJson(dir, name, value) {
  const handle = await dir.getFileHandle(name, { create: true });
  if (handle.createSyncAccessHandle) {
    const access = await handle.createSyncAccessHandle();
    try {
      access.truncate(0);
      access.write(new TextEncoder().encode(JSON.stringify(value)), { at: 0 });
      access.flush();
    } finally {
      access.close();
    }
  } else {
    const out = await handle.createWritable();
    await out.write(JSON.stringify(value));
    await out.close();
  }
}

/** What is kept of a URL: how much, and whether that is all. */
export async function find(url) {
  const dir = await folder();
  const name = await nameOf(url);
  const facts = await readJson(dir, `${name}.json`);
  if (!facts) return undefined;
  const size = await dir.getFileHandle(name).then((h) => h.getFile(), () => ({ size: 0 }));
  return { ...facts, name, have: Math.min(size.size, facts.size), complete: facts.complete && size.size === facts.size };
}

/** Opens what is kept. Workers only. */
export async function open({ name }) {
  return (await (await folder()).getFileHandle(name)).createSyncAccessHandle();
}

/** Begins to keep a URL, or goes on. Workers only. */
export async function begin(url, { size, etag, resumed }) {
  const dir = await folder();
  const name = await nameOf(url);
  const access = await (await dir.getFileHandle(name, { create: true })).createSyncAccessHandle();
  const facts = { url, size, etag, complete: false };
  try {
    if (!resumed) access.truncate(0);
    await writeJson(dir, `${name}.json`, facts);
  } catch (e) {
    access.close();
    throw e;
  }
  return { access, dir, name, facts };
}

/** All of it is there. */
export async function finish({ access, dir, name, facts }, digest) {
  access.flush();
  access.close();
  await writeJson(dir, `${name}.json`, { ...facts, digest, complete: true });
}

/** Everything that is kept. */
export async function list() {
  const dir = await folder();
  const all = [];
  for await (const [name, handle] of dir.entries()) {
    if (!name.endsWith(".json")) continue;
    const facts = await readJson(dir, name);
    const file = await dir.getFileHandle(name.slice(0, -5)).then((h) => h.getFile(), () => ({ size: 0 }));
    if (facts) all.push({ url: facts.url, size: facts.size, have: file.size, complete: facts.complete && file.size === facts.size });
  }
  return all;
}

/** Removes what is kept of a URL. */
export async function remove(url) {
  const dir = await folder();
  const name = await nameOf(url);
  for (const file of [name, `${name}.json`]) await dir.removeEntry(file).catch(() => {});
}

/** Removes everything. */
export async function clear() {
  for (const { url } of await list()) await remove(url);
}
