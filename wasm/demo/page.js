// The page: what a person does, as calls of the package.

import { Mynah } from "../mynah.js";

const $ = (id) => document.getElementById(id);
const size = (bytes) => {
  const units = ["B", "kB", "MB", "GB"];
  let i = 0;
  for (; bytes >= 1000 && i < 3; i++) bytes /= 1000;
  return `${bytes < 10 && i ? bytes.toFixed(1) : Math.round(bytes)} ${units[i]}`;
};
const opened = performance.now();
let model;
let chat;
let learnt; // the bytes of what speaks, and its name
let lesson;
let running; // what a Stop button ends

const problem = (error) => {
  if (error?.name === "AbortError") return;
  console.error(error);
  $("problem").textContent = error.message ?? String(error);
  $("problem").hidden = false;
  clearTimeout(problem.timer);
  problem.timer = setTimeout(() => ($("problem").hidden = true), 12000);
};
/** A handler whose errors a person sees. */
const on = (id, event, handler) =>
  $(id).addEventListener(event, async (e) => {
    try {
      await handler(e);
    } catch (error) {
      problem(error);
    }
  });

const ready = (is) => {
  for (const id of ["send", "learn", "show"]) $(id).disabled = !is;
};

async function showMemory() {
  $("memory").textContent = `${size(await model.memory())} of memory in use by the model and its work.`;
}

async function open(source, name) {
  ready(false);
  model?.close();
  [model, learnt] = [undefined, undefined];
  $("loading").hidden = false;
  const progress = ({ loaded, total }) => {
    $("loading").max = total;
    $("loading").value = loaded;
    $("model").textContent = `Loading ${name}: ${size(loaded)} of ${size(total)} …`;
  };
  try {
    model = await Mynah.load(source, { progress });
  } finally {
    $("loading").hidden = true;
  }
  const { architecture, layers, build, kernels, threads, notes } = model.facts;
  const about = [model.facts.name || name, `${architecture}, ${layers} layers`, `${build} build (${kernels})`, `${threads} thread${threads > 1 ? "s" : ""}`];
  $("model").textContent = [...about, ...notes].join(" · ");
  document.documentElement.dataset.ready = String(Math.round(performance.now() - opened));
  begin();
  adapterChanged();
  ready(true);
  await showMemory();
}

// Conversation

function begin() {
  chat = model.chat({ maxTokens: 200 });
  $("turns").replaceChildren();
}

function turn(role, text = "") {
  const item = document.createElement("li");
  item.className = role;
  const words = document.createElement("span");
  words.textContent = text;
  item.append(words);
  $("turns").append(item);
  item.scrollIntoView({ block: "nearest" });
  return words;
}

// Drawn, since not every device has a font with thumbs.
const THUMB = "M3 11h3v9H3zm5 9V10l4-8c2 0 3 1.4 2.6 3.2L14 9h5.2c1.3 0 2 1 1.8 2.2l-1.5 7c-.2 1-1 1.8-2 1.8z";
const PEN = "M4 17.2V20h2.8L17.6 9.2l-2.8-2.8zM19.7 7.1a1 1 0 0 0 0-1.4l-1.4-1.4a1 1 0 0 0-1.4 0l-1.3 1.3 2.8 2.8z";
const drawn = (path, turned = "") => `<svg viewBox="0 0 24 24" aria-hidden="true"${turned}><path d="${path}"/></svg>`;

/** Buttons under an answer, which mark it. */
function marks(words) {
  const row = document.createElement("div");
  row.className = "marks";
  const button = (label, text, mark) => {
    const b = document.createElement("button");
    [b.type, b.innerHTML, b.title] = ["button", text, label];
    b.setAttribute("aria-label", label);
    b.setAttribute("aria-pressed", "false");
    b.onclick = () => {
      try {
        if (mark() === false) return;
        row.querySelectorAll("button").forEach((other) => {
          other.setAttribute("aria-pressed", String(other === b));
          other.disabled = true;
        });
        $("learnt").textContent = `${chat.marks.length} mark${chat.marks.length > 1 ? "s" : ""} to learn from.`;
      } catch (error) {
        problem(error);
      }
    };
    row.append(b);
  };
  button("Good answer", drawn(THUMB), () => chat.mark("good"));
  button("Bad answer", drawn(THUMB, ` transform="scale(1 -1)"`), () => chat.mark("bad"));
  button("Say what would have been better", drawn(PEN), () => {
    const better = window.prompt("What would have been better?", words.textContent);
    if (!better) return false;
    chat.mark({ better });
    words.textContent = better;
  });
  document.querySelectorAll(".marks").forEach((earlier) => earlier.remove());
  words.parentElement.append(row);
}

on("ask", "submit", async (e) => {
  e.preventDefault();
  const text = $("question").value.trim() || $("question").placeholder;
  $("question").value = "";
  turn("user", text);
  const words = turn("assistant");
  running = new AbortController();
  [$("send").hidden, $("stop").hidden] = [true, false];
  const start = performance.now();
  let pieces = 0;
  try {
    for await (const piece of chat.say(text, { signal: running.signal })) {
      words.textContent += piece;
      words.scrollIntoView({ block: "nearest" });
      if (!pieces++) document.documentElement.dataset.first ??= String(Math.round(performance.now() - opened));
    }
  } finally {
    [$("send").hidden, $("stop").hidden] = [false, true];
    if (words.textContent) marks(words);
    else words.parentElement.remove();
  }
  const seconds = (performance.now() - start) / 1000;
  $("memory").textContent = `${(pieces / seconds).toFixed(0)} tokens a second. `;
  $("memory").textContent += `${size(await model.memory())} of memory in use by the model and its work.`;
  $("question").focus();
});
on("stop", "click", () => running?.abort());
on("clear", "click", begin);

// Teaching

function curve(losses, held) {
  const all = [...losses.map((l) => l[1]), ...held.map((l) => l[1])];
  if (all.length < 2) return;
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const last = Math.max(1, losses.at(-1)?.[0] ?? 1, held.at(-1)?.[0] ?? 1);
  const x = (step) => 34 + (step / last) * 278;
  const y = (loss) => 104 - ((loss - low) / (high - low || 1)) * 92;
  const path = (points) => points.map(([s, l], i) => `${i ? "L" : "M"}${x(s).toFixed(1)} ${y(l).toFixed(1)}`).join("");
  const text = (px, py, words, anchor = "end") => `<text x="${px}" y="${py}" text-anchor="${anchor}">${words}</text>`;
  $("curve").innerHTML =
    `<line x1="34" x2="312" y1="104" y2="104"/>` +
    text(30, 16, high.toFixed(2)) + text(30, 106, low.toFixed(2)) + text(312, 117, `step ${last}`) +
    `<path d="${path(losses)}"/><path class="held" d="${path(held)}"/>`;
  $("curve").setAttribute("aria-label", `Loss over ${last} steps, from ${losses[0]?.[1].toFixed(2)} to ${losses.at(-1)?.[1].toFixed(2)}`);
}

on("learn", "click", async () => {
  const notes = $("notes").value.trim();
  const method = $("size").value;
  if (!notes && !chat.marks.length) throw new Error("There is nothing to learn yet: paste notes, or mark answers.");
  const data = notes || chat.marks;
  // What was learnt before learns from marks, and from notes something new is made.
  const marked = { objective: "marks", checkpoint: learnt?.bytes };
  const options = !notes ? marked : { ...(method === "code" ? { bytes: 2953 } : { method }), context: 128 };
  ready(false);
  try {
    await model.detach();
    lesson = await model.lesson(data, options);
    const { plan } = lesson;
    const left = notes && chat.marks.length ? " Marks are learnt when there are no notes." : "";
    const memory = plan.bytes ? `, ${size(plan.bytes)} of memory` : "";
    $("learnt").textContent = `${plan.rows} ${notes ? "rows" : "new marks"}, ${plan.steps} steps at most${memory}. ${plan.notes.join(" ")}${left}`;
    $("progress").hidden = false;
    [$("learn").hidden, $("pause").hidden, $("cancel").hidden] = [true, false, false];
    const [losses, held] = [[], []];
    let [tokens, seconds] = [0, 0];
    $("steps").max = plan.steps;
    $("steps").value = 0;
    for await (const event of lesson) {
      if (event.type === "progress" && !notes) $("rate").textContent = `${event.work}: ${event.done} of ${event.total}`;
      if (event.type === "evaluated") held.push([event.step, event.loss]);
      if (event.type === "discarded") problem(new Error(`A step was left out: ${event.why}`));
      if (event.type === "step") {
        losses.push([event.step, event.loss]);
        tokens += event.tokens;
        seconds += event.seconds;
        $("steps").value = event.step;
        const left = ((plan.steps - event.step) * seconds) / event.step;
        $("rate").textContent =
          `step ${event.step} of ${plan.steps} · loss ${event.loss.toFixed(3)} · ${Math.round(tokens / seconds)} tokens/s · ` +
          (left > 1 ? `${Math.ceil(left)} s left` : "nearly done");
      }
      curve(losses, held);
      if (lesson.paused) await lesson.paused;
    }
    const history = await lesson.history();
    if (history.steps) {
      learnt = { bytes: await lesson.toBytes(), name: "taught-here.mynah" };
      await put();
      const [first, last] = held.length > 1 ? [held[0][1], Math.min(...held.slice(1).map((h) => h[1]))] : [losses[0][1], losses.at(-1)[1]];
      $("learnt").textContent = `Learnt in ${history.steps} steps: loss ${first.toFixed(2)} → ${last.toFixed(2)}. Talk to it, or compare below.`;
    }
  } finally {
    [$("learn").hidden, $("pause").hidden, $("cancel").hidden] = [false, true, true];
    await lesson?.close();
    lesson = undefined;
    ready(true);
    adapterChanged();
    await showMemory();
  }
});
on("pause", "click", () => {
  if (!lesson) return;
  if (lesson.paused) {
    lesson.goOn();
    lesson.paused = undefined;
  } else {
    lesson.paused = new Promise((resolve) => (lesson.goOn = resolve));
  }
  $("pause").setAttribute("aria-pressed", String(!!lesson.paused));
  $("pause").textContent = lesson.paused ? "Go on" : "Pause";
});
on("cancel", "click", () => {
  lesson?.goOn?.();
  lesson?.cancel();
});
on("sample", "click", async () => ($("notes").value = await (await fetch("notes.txt")).text()));

// Before and after

async function write(into, prompt) {
  into.textContent = prompt;
  for await (const piece of model.generate(prompt, { maxTokens: 60, temperature: 0 })) into.textContent += piece;
}
on("both", "submit", async (e) => {
  e.preventDefault();
  ready(false);
  try {
    const prompt = $("prompt").value;
    await model.detach();
    await write($("before"), prompt);
    if (learnt) {
      await put();
      await write($("after"), prompt);
    } else {
      $("after").textContent = "Nothing was taught yet.";
    }
  } finally {
    ready(true);
  }
});

// What was learnt

async function put() {
  await model.detach();
  const strength = Number($("strength").value);
  if (learnt && strength) await model.attach(learnt.bytes, strength);
}
function adapterChanged() {
  $("code").hidden = true;
  for (const id of ["download", "remove"]) $(id).disabled = !learnt;
  $("share").disabled = !learnt || learnt.bytes.length > 2953;
  $("how").hidden = !learnt;
  $("what").textContent = learnt ? `${learnt.name}, ${size(learnt.bytes.length)}, is attached.` : "Nothing yet. Teach something, or drop an adapter here.";
}
on("strength", "change", put);
on("strength", "input", () => ($("much").value = $("strength").value));
on("download", "click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([learnt.bytes], { type: "application/octet-stream" }));
  link.download = learnt.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
on("share", "click", async () => {
  const { width, modules } = await model.qr(learnt.bytes);
  const canvas = $("code");
  const edge = 4;
  canvas.width = canvas.height = width + 2 * edge;
  const pixels = canvas.getContext("2d");
  pixels.fillStyle = "#fff";
  pixels.fillRect(0, 0, canvas.width, canvas.height);
  pixels.fillStyle = "#000";
  modules.forEach((dark, i) => dark && pixels.fillRect(edge + (i % width), edge + Math.floor(i / width), 1, 1));
  canvas.hidden = false;
});
on("remove", "click", async () => {
  learnt = undefined;
  await model.detach();
  adapterChanged();
});

// Files

async function take(file) {
  const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  if (String.fromCharCode(...head) === "GGUF") return open(file, file.name);
  const bytes = new Uint8Array(await file.arrayBuffer());
  await model.inspect(bytes);
  const before = learnt;
  learnt = { bytes, name: file.name };
  try {
    await put();
  } catch (error) {
    learnt = before;
    await put();
    throw error;
  } finally {
    adapterChanged();
  }
}
on("file", "change", (e) => e.target.files[0] && take(e.target.files[0]));
addEventListener("dragover", (e) => {
  e.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (e) => e.relatedTarget ?? document.body.classList.remove("over"));
addEventListener("drop", async (e) => {
  e.preventDefault();
  document.body.classList.remove("over");
  const [file] = e.dataTransfer.files;
  if (file) await take(file).catch(problem);
});

open(undefined, "the built-in model").catch(problem);
